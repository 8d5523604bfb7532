"""Which episodes ``rollouts`` plays, one after another: planned from seeds and tasks, or to be played again (pure, but
for what the caller's own iterators do)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from envmesh.beginnings import make_beginning
from envmesh.env import Task
from envmesh.episode import Beginning
from envmesh.errors import InvalidRequest

__all__ = ["RolloutPlan"]

_NOTHING: Any = object()
"""What an iterator that has run out gives."""

Planned = tuple[Beginning, int]
"""How an episode begins, and how many new ones may be run in its place should it fail."""


class RolloutPlan:
    """``episodes`` of them (None: without an end, or once through ``tasks``), in groups of ``members`` that share task
    and seed and of which ``group_size`` are wanted. ``exhausted``: nothing is left to be planned; something may yet be
    played again. An episode has a number, and those of an earlier process that has left off are known by theirs."""

    def __init__(
        self,
        episodes: int | None,
        *,
        group_size: int,
        members: int,
        retries: int,
        draw_seed: Callable[[], int],
        seeds: Iterable[int] | None,
        tasks: Iterable[str | Task] | None,
        options: Mapping[str, Any] | None,
    ):
        self.exhausted = episodes == 0
        self._episodes = episodes
        self._group_size = group_size
        self._members = members
        self._retries = retries
        self._draw_seed = draw_seed
        self._seeds = iter(seeds) if seeds is not None else None
        self._tasks = iter(tasks) if tasks is not None else None
        self._options = options
        self._shortfall = ""
        self._again: deque[Planned] = deque()
        self._seen_to: set[int] = set()
        self._over: set[int] = set()
        """Groups that are not reached yet, and of which nothing is to be played."""
        self._seeds_of_groups: dict[int, int | None] = {}
        self._at_group = -1
        self._left: deque[int] = deque()
        """Members of the group that is reached, which have not begun."""
        self._planned: Iterator[Beginning] = iter(())

    def start(self, run: str, *, seeded: bool) -> None:
        """The run has a name, and its environment honours seeds or does not."""
        self._planned = self._beginnings(run, seeded or self._seeds is not None)

    def leave_out(self, numbers: Iterable[int]) -> None:
        """An earlier process has handed out these episodes, and with each its whole group."""
        self._over.update(number // self._members for number in numbers)

    def take_up(self, beginning: Beginning) -> None:
        """An earlier process has begun this episode, and it goes on: others of its group will have its seed."""
        self._seen_to.add(beginning.number)
        if beginning.group is not None:
            self._seeds_of_groups[beginning.group] = beginning.seed

    def give_up(self, group: int) -> None:
        """Enough of a group has ended: what is left of it is not played."""
        self._again = deque(planned for planned in self._again if planned[0].group != group)
        if group == self._at_group:
            self._left.clear()
        elif group > self._at_group:
            self._over.add(group)

    def to_come(self, group: int) -> int:
        """How many of a group have still to begin, or are to be played again."""
        again = sum(beginning.group == group for beginning, _ in self._again)
        if group == self._at_group:
            return again + len(self._left)
        if group < self._at_group or group in self._over or self._is_beyond(group):
            return again
        return again + len(self._unseen(group))

    def _unseen(self, group: int) -> list[int]:
        numbers = range(group * self._members, (group + 1) * self._members)
        return [number for number in numbers if number not in self._seen_to]

    def _is_beyond(self, group: int) -> bool:
        return self._episodes is not None and group * self._group_size >= self._episodes

    @property
    def over(self) -> bool:
        """Whether nothing more is to be played."""
        return self.exhausted and not self._again

    def play_again(self, beginning: Beginning, retries: int, *, next_of_all: bool = False) -> None:
        """An episode is to be played once more: before those that are only planned, or before all others."""
        if next_of_all:
            self._again.appendleft((beginning, retries))
        else:
            self._again.append((beginning, retries))

    def following(self) -> Planned | None:
        """What is to be played next; None where nothing is.

        Raises:
            InvalidRequest: a seed is none, or the options have no form on the wire.
            Exception: whatever the caller's own ``seeds`` or ``tasks`` raise. Nothing more is planned then.
        """
        if self._again:
            return self._again.popleft()
        if self.exhausted:
            return None
        self.exhausted = True  # unless there is one
        beginning = next(self._planned, None)
        if beginning is None:
            return None
        self.exhausted = False
        return beginning, self._retries

    def check_complete(self) -> None:
        """Once everything was played: whether that is as much as was asked for.

        Raises:
            InvalidRequest: the caller's tasks or seeds ran out before.
        """
        if self._shortfall:
            raise InvalidRequest(self._shortfall)

    def _ran_out(self, what: str, played: int) -> None:
        if self._episodes is not None:
            self._shortfall = f"the {what} ran out after {played} of {self._episodes} episodes"

    def _beginnings(self, run: str, seeded: bool) -> Iterator[Beginning]:
        number = 0
        while True:
            task = next(self._tasks, _NOTHING) if self._tasks is not None else ""
            seed = next(self._seeds, _NOTHING) if self._seeds is not None and task is not _NOTHING else None
            if task is _NOTHING or seed is _NOTHING:
                self._ran_out("tasks" if task is _NOTHING else "seeds", number * self._group_size)
                return
            if seed is None:
                seed = self._draw_seed()
            group = number if self._group_size > 1 else None
            seed = self._seeds_of_groups.pop(number, seed)
            self._at_group = number
            self._left = deque(() if number in self._over else self._unseen(number))
            while self._left:
                each = self._left.popleft()
                beginning = make_beginning(seed, self._options, task, "", group)
                if not seeded:
                    beginning.seed = None
                beginning.run, beginning.number = run, each
                yield beginning
            number += 1
            if self._is_beyond(number):
                return
