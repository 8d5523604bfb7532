"""Episodes that somebody looks at, step by step. Costs nothing while nobody does.

A copy that the stream's reader steps itself gets a ``play`` that notes what it sees; every other step passes the
engine's ``settled``, which looks for a tap where there is one. What was noted goes with the next report to the broker.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envmesh.errors import Refusal
from envmesh.outcome import EnvironmentSpec
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import fleet_pb2
from envmesh_host.copy import EpisodeCopy
from envmesh_host.roster import Roster
from envmesh_host.served import Row

__all__ = ["Taps"]

MOST_WATCHES = 16
KEPT_STEPS = 200
MOST_CHARACTERS = 1000

Step = fleet_pb2.WatchedStep


class Taps:
    """What is looked at on this host. ``changed`` is called when there is something to tell."""

    def __init__(self, roster: Roster, changed: Callable[[], None]):
        self._roster = roster
        self._changed = changed
        self._taps: dict[int, EpisodeTap] = {}

    def watch(self, watches: Sequence[fleet_pb2.Watch]) -> None:
        """Look at these, and at nothing else."""
        wanted = {watch.watch_id: watch for watch in watches[:MOST_WATCHES]}
        for watch_id in [watch_id for watch_id in self._taps if watch_id not in wanted]:
            self._let_go(self._taps.pop(watch_id))
        for watch_id, watch in wanted.items():
            if watch_id not in self._taps:
                self._taps[watch_id] = tap = EpisodeTap(watch, self._changed)
                self._attach(tap)

    def take(self) -> list[fleet_pb2.WatchedSteps]:
        """What was seen since the last call. Who waits for an episode gets one, where there is one now."""
        told = []
        for tap in self._taps.values():
            if tap.copy is None:
                self._attach(tap)
            copy = tap.copy
            if copy is None:
                continue
            over = copy.ended or self._roster.episodes.get(copy.episode_id) is not copy
            if (steps := tap.take(over)) is not None:
                told.append(steps)
            if over:
                self._let_go(tap)
        return told

    def _attach(self, tap: EpisodeTap) -> None:
        """Find the watch's episode. One episode has one tap at a time."""
        roster, watch = self._roster, tap.watch
        if watch.episode_id:
            copy = roster.episodes.get(watch.episode_id)
            found = [] if copy is None or tap.followed == watch.episode_id else [copy]
        else:
            found = [c for c in reversed(roster.episodes.values()) if c.environment.key == watch.environment]
        for copy in found:
            if copy.episode_id not in roster.taps and not copy.ended:
                tap.begin(copy)
                roster.taps[copy.episode_id] = tap
                self._changed()
                return

    def _let_go(self, tap: EpisodeTap) -> None:
        if tap.copy is not None:
            del self._roster.taps[tap.copy.episode_id]
            tap.end()


class EpisodeTap:
    """One watch, and the copy it is at."""

    def __init__(self, watch: fleet_pb2.Watch, changed: Callable[[], None]):
        self.watch = watch
        self.copy: EpisodeCopy | None = None
        self.followed = b""
        """The episode it was at last."""
        self._changed = changed
        self._steps: deque[Step] = deque(maxlen=KEPT_STEPS)
        self._skipped = 0
        self._last = -1
        self._told = False
        self._spec: EnvironmentSpec
        self._play: Any = None

    def begin(self, copy: EpisodeCopy) -> None:
        """Look at a copy from now on."""
        self.copy, self.followed = copy, copy.episode_id
        self._steps.clear()
        self._skipped, self._last, self._told = 0, copy.index, False
        self._spec = EnvironmentSpec(copy.environment.info)
        if copy.play is not None:
            self._play, copy.play = copy.play, self._watching(copy, copy.play)

    def end(self) -> None:
        """Leave the copy as it was."""
        if self.copy is not None and self._play is not None and self.copy.play is not None:
            self.copy.play = self._play
        self.copy = self._play = None

    def take(self, over: bool) -> fleet_pb2.WatchedSteps | None:
        """What was seen since the last call; None where that is nothing."""
        assert self.copy is not None
        if not self._steps and self._told and not over:
            return None
        steps = fleet_pb2.WatchedSteps(
            watch_id=self.watch.watch_id,
            episode_id=self.copy.episode_id,
            environment=self.copy.environment.key,
            steps=self._steps,
            skipped=self._skipped,
            over=over,
        )
        self._steps.clear()
        self._skipped, self._told = 0, True
        return steps

    def note_row(self, index: int, action: bytes, result: Row | Refusal, seconds: float | None) -> None:
        """A reset or step ended."""
        if index <= self._last and not isinstance(result, Refusal):
            return
        step = Step(index=index, seconds=seconds or 0.0)
        if self.watch.values and index:
            step.action = shown(lambda: self._spec.action_codec.decode(action))
        if isinstance(result, Refusal):
            step.failure = result.reason
        else:
            payload, step.reward, flags = result[:3]
            self._flag(
                step, bool(flags & pb.OUTCOME_FLAG_TERMINATED), bool(flags & pb.OUTCOME_FLAG_TRUNCATED)
            )
            if self.watch.values and not self._spec.agents:
                step.observation = shown(lambda: self._spec.observation_codec.decode(payload))
            self._last = index
        self._note(step)

    def _watching(self, copy: EpisodeCopy, play: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``play``, with somebody who looks."""
        values = self.watch.values

        def watched(action: Any) -> Any:
            step = Step(index=copy.index + 1)
            if values:
                step.action = shown(lambda: action)
            began = time.perf_counter()
            try:
                result = play(action)
            except BaseException as error:
                step.failure = type(error).__name__
                self._note(step)
                raise
            step.seconds = time.perf_counter() - began
            self._note_result(step, result)
            return result

        return watched

    def _note_result(self, step: Step, result: Any) -> None:
        """A step's result, before anybody has judged whether it is one."""
        try:
            reward = float(result[1])
            self._flag(step, bool(result[2]), bool(result[3]))
        except (TypeError, ValueError, IndexError, KeyError):
            step.failure = "OUTCOME_INVALID"
        else:
            if math.isfinite(reward):
                step.reward = reward
            else:
                step.failure = "REWARD_INVALID"
            if self.watch.values:
                step.observation = shown(lambda: result[0])
        self._last = step.index
        self._note(step)

    @staticmethod
    def _flag(step: Step, terminated: bool, truncated: bool) -> None:
        step.terminated, step.truncated = terminated, truncated

    def _note(self, step: Step) -> None:
        self._skipped += len(self._steps) == KEPT_STEPS
        self._steps.append(step)
        self._changed()


def shown(look: Callable[[], Any]) -> str:
    """A value as text, cut where it is long; what cannot be shown says so."""
    try:
        value = look()
        if isinstance(value, np.ndarray):
            text = np.array2string(value, threshold=32, precision=4, separator=", ", suppress_small=True)
            text = text if value.size <= 32 else f"{value.dtype}{list(value.shape)} {text}"
        elif isinstance(value, str):
            text = value[: MOST_CHARACTERS + 1]
        else:
            text = json.dumps(value, ensure_ascii=False, default=str)
    except Exception as error:  # a value of the author's: anything may happen when it is looked at
        text = f"({type(error).__name__}: it cannot be shown)"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 2]} …"
