"""What the former owner of a journal has left is taken up, as many as there is room for."""

from __future__ import annotations

from typing import Any

from envmesh.left_episodes import LeftEpisodes


class Run:
    """So much of a run: as many may be played as there is room for, and ``fill`` asks for slots of new ones."""

    def __init__(self, room: int) -> None:
        self.room, self.filled = room, 0
        self.left = LeftEpisodes(self)  # type: ignore[arg-type]
        self.taken_up: list[Player] = []

    @property
    def has_room(self) -> bool:
        return self.room > 0

    def note_live(self, player: Player) -> None:
        self.room -= 1
        self.taken_up.append(player)

    def over(self) -> None:
        """As a run goes on where an episode is over: with what is left, if anything is."""
        self.room += 1
        if self.left:
            self.left.take_up()

    def fill(self) -> None:
        self.filled += 1


class Player:
    """An episode that is over as soon as it is taken up, unless it goes on."""

    def __init__(self, run: Run, *, goes_on: bool = False) -> None:
        self._run, self._goes_on = run, goes_on

    def take_up(self, unfinished: Any) -> None:
        if not self._goes_on:
            self._run.over()


def test_thousands_that_are_over_at_once_are_taken_up_one_after_the_other():
    run = Run(room=3)
    players = [Player(run) for _ in range(5000)]
    run.left._waiting.update(dict.fromkeys(players))  # type: ignore[arg-type]
    run.left.take_up()
    assert run.taken_up == players
    assert not run.left
    assert run.filled == 1


def test_those_that_go_on_are_as_many_as_there_is_room_for():
    run = Run(room=2)
    going, over = [Player(run, goes_on=True) for _ in range(4)], Player(run)
    run.left._waiting.update(dict.fromkeys([going[0], over, *going[1:]]))  # type: ignore[arg-type]
    run.left.take_up()
    assert run.taken_up == [going[0], over, going[1]]
    run.over()
    assert run.taken_up[-1] is going[2]
    assert run.filled == 0
