"""The fast path of ``rollouts``: a plain policy, and all rows of a frame taken as columns.

A block plays the steps of a run's episodes on one connection. What is out of the ordinary (a reset's outcome, an
end, a failure) goes to the episode's ``PolicyPlayer``; the steps in between never touch it but to note a row and the
next index.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from envmesh.blocks import Columns
from envmesh.columns import decoder_of, encoder_of
from envmesh.frame_bounds import LARGE_VALUE_BYTES
from envmesh.outcome import EnvironmentSpec
from envmesh.policies import Act
from envmesh.stream import OUTCOME, STEP, HostConnection

if TYPE_CHECKING:
    from envmesh.metrics import ClientMetrics
    from envmesh.players import PolicyPlayer
    from envmesh.rollout_run import RolloutRun

__all__ = ["PolicyBlock"]


class PolicyBlock:
    """Plays the steps of one run's episodes on one connection. ``players`` are those episodes, by handle."""

    def __init__(self, run: RolloutRun, connection: HostConnection, spec: EnvironmentSpec):
        self.players: dict[int, PolicyPlayer] = {}
        self.owns: Callable[[object], bool] = self.players.__contains__
        self._run = run
        self._connection = connection
        self._policy = run.policy
        self._decode = decoder_of(spec.observation_codec.decode)
        self._encode = encoder_of(spec.action_codec.encode)
        self._timed: PolicyPlayer | None = None
        self._timed_index = 0
        self._timed_since = 0.0
        connection.blocks.append(self)

    def on_columns(self, columns: Columns) -> None:
        """A frame's rows: the ordinary steps together, the rest one by one."""
        handles, indices, payloads, rewards, flags, digests, infos, kinds = columns
        players = list(map(self.players.__getitem__, handles))
        expected = [player.expected for player in players]
        if kinds is not None or expected != indices or 0 in indices or any(flags):
            kinds = kinds or [OUTCOME] * len(handles)
            plain = [
                kind == OUTCOME and not flag and wanted == index and index > 0
                for kind, flag, wanted, index in zip(kinds, flags, expected, indices, strict=True)
            ]
            special = [not each for each in plain]
            rows = zip(
                handles, players, kinds, indices, payloads, rewards, flags, digests, infos, strict=True
            )
            for handle, player, kind, index, payload, reward, flag, digest, info in compress(rows, special):
                if handle not in self.players or self.players[handle] is not player:
                    continue  # a straggler: a row before this one has filled its group
                if kind != OUTCOME:
                    player.on_event(kind, index, payload)
                elif player.expected == index:
                    player.on_outcome(index, payload, reward, flag, digest, info)
            present = map(self.players.get, handles)
            plain = [
                own and there is player for own, there, player in zip(plain, present, players, strict=True)
            ]
            if True not in plain:
                return
            players, handles = list(compress(players, plain)), list(compress(handles, plain))
            indices, payloads = list(compress(indices, plain)), list(compress(payloads, plain))
            rewards, flags = list(compress(rewards, plain)), list(compress(flags, plain))
            digests, infos = list(compress(digests, plain)), list(compress(infos, plain))
        self._step(
            players, handles, indices, payloads, zip(payloads, rewards, flags, digests, infos, strict=True)
        )

    def on_outcome(
        self, handle: int, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome that came by itself: as ``_step``, for one."""
        player = self.players[handle]
        if player.expected != index:
            return
        if flags or not index:
            player.on_outcome(index, payload, reward, flags, digest, info)
            return
        player.note((payload, reward, flags, digest, info))
        meters = self._run.mesh.meters
        arrived = perf_counter() if meters is not None else 0.0
        try:
            action = self._policy(player.decode(payload))
            if type(action) is Act:
                player.index = index
                action = player.annotate(action)
            data = player.encode(action)
            if len(data) > self._connection.max_value_bytes:
                raise self._connection.oversize(len(data))
        except BaseException as error:  # the policy's own, or an action that has no form
            self._run.fail(error)
            return
        player.acted(data)
        player.expected = index + 1
        if meters is not None:
            answered = perf_counter()
            meters.thought(answered - arrived)
            self._time(player, meters, arrived, answered)
        if len(data) < LARGE_VALUE_BYTES:
            self._connection.rows.add(handle, index + 1, STEP, data)
        else:
            self._connection.send(handle, index + 1, STEP, data)

    def _step(self, players: list[PolicyPlayer], handles: list[int], indices: list[int], payloads: list[bytes],
              rows: Any) -> None:  # fmt: skip
        for player, row in zip(players, rows, strict=True):
            player.note(row)
        meters = self._run.mesh.meters
        arrived = 0.0
        if meters is not None:
            arrived = perf_counter()
        try:
            actions = list(map(self._policy, self._decode(payloads)))
            if Act in set(map(type, actions)):
                actions = self._annotated(players, indices, actions)
            data = self._encode(actions)
            most = max(map(len, data))
            if most > self._connection.max_value_bytes:
                raise self._connection.oversize(most)
        except BaseException as error:  # the policy's own, or an action that has no form
            self._run.fail(error)
            return
        answered = 0.0
        if meters is not None:
            answered = perf_counter()
            meters.thought(answered - arrived)
        following = [index + 1 for index in indices]
        for player, action, index in zip(players, data, following, strict=True):
            player.acted(action)
            player.expected = index
        if meters is not None:
            self._time(players[0], meters, arrived, answered)
        connection = self._connection
        if most < LARGE_VALUE_BYTES:
            connection.rows.extend(handles, following, data)
        else:
            for handle, index, action in zip(handles, following, data, strict=True):
                connection.send(handle, index, STEP, action)

    def _time(self, first: PolicyPlayer, meters: ClientMetrics, arrived: float, answered: float) -> None:
        """A frame came and was answered. One step at a time is timed: its outcome may have been in this frame, or will
        not come this way any more."""
        timed = self._timed
        if timed is not None:
            if timed.expected == self._timed_index:
                return  # not yet
            if timed.expected == self._timed_index + 1:
                meters.stepped(arrived - self._timed_since)
        self._timed, self._timed_index, self._timed_since = first, first.expected, answered

    @staticmethod
    def _annotated(players: list[PolicyPlayer], indices: list[int], actions: list[Any]) -> list[Any]:
        for position, action in enumerate(actions):
            if isinstance(action, Act):
                players[position].index = indices[position]
                actions[position] = players[position].annotate(action)
        return actions

    def close(self) -> None:
        """Take no rows any more."""
        if self in self._connection.blocks:
            self._connection.blocks.remove(self)
