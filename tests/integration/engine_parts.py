"""A host's engine in front of real threads, whose episodes wait where a test says; clients speak with it in frames."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

from envmesh.env import RewardResult, environment
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import encode
from envmesh_host.checkpoint_store import CheckpointStore
from envmesh_host.columns import Columns
from envmesh_host.connection import Connection
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.isolation.thread import ThreadRunner
from envmesh_host.rights import HostRights
from envmesh_host.slots import Claim, SlotTable
from envmesh_service.credentials import ANYBODY
from envmesh_service.leases import Sealer
from tests.compliance.stream import Event, events_of

LEASE = 1000
PATIENCE = 20.0
WAITING_SEED = 13
"""A reset with this seed waits at the gate."""


class Gate:
    """Where something waits until a test lets it go on."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Come to the gate, in a thread, and wait there."""
        self._reached.set()
        assert self._opened.wait(PATIENCE)

    async def reached(self) -> None:
        """Something waits here."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE)

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()


@environment(recovery="state", isolation="thread")
class Gated:
    """Waits at ``gate`` in a step ("wait") or in its next checkpoint ("save slowly"); observes what it was told, or a
    lot ("large"); is graded and saved at length once it was told "heavy"."""

    gate: ClassVar[Gate]

    def reset(self, *, seed: int | None = None) -> Any:
        self.slow, self.ballast = False, 0
        if seed == WAITING_SEED:
            self.gate.wait()
        return "ready", {}

    def step(self, action: str) -> Any:
        if action == "wait":
            self.gate.wait()
        elif action == "heavy":
            self.ballast = 1 << 20
        self.slow = action == "save slowly"
        return (bytes(100_000) if action == "large" else action), 1.0, False, False, {}

    def reward(self) -> RewardResult:
        return RewardResult(value=1.0, rationale="x" * self.ballast)

    def checkpoint(self) -> Any:
        if self.slow:
            self.gate.wait()
        return bytes(self.ballast)

    def restore(self, state: bytes) -> None:
        self.slow, self.ballast = False, len(state)


@environment(recovery="state", isolation="thread", deterministic=False)
class GatedChancy(Gated):
    """The same, whose steps cannot be repeated."""


class GatedStore(CheckpointStore):
    """A store that every checkpoint goes to; with a ``gate``, writing waits there."""

    gate: Gate | None = None

    def _write(self, name: str, data: bytes) -> None:
        if self.gate is not None:
            self.gate.wait()
        super()._write(name, data)


class EngineClient:
    """One connection of a client, with one episode under handle 1."""

    def __init__(self, engine: Engine, client_id: bytes, hello: dict[str, Any]):
        said = pb.Hello(client_id=client_id, connection_id=secrets.token_bytes(16), **hello)
        self.connection = Connection(engine, said, ANYBODY, lease_idle=60.0, liveness_window=10.0)
        self._woken = asyncio.Event()
        self.connection.wake = self._woken.set
        self._events: list[Event] = []

    def send(self, kind: int, index: int, payload: bytes = b"") -> None:
        """One command."""
        frame = pb.StreamRequest(handles=[1], indices=[index], kinds=[kind], payloads=[payload])  # type: ignore[list-item]
        for _ in self.connection.work(Columns(frame, 0.0)):
            pass

    async def next_event(self) -> Event:
        """What comes next."""
        async with asyncio.timeout(PATIENCE):
            while not self._events:
                self._woken.clear()
                if not len(self.connection.outbox):
                    await self._woken.wait()
                self._events += events_of(self.connection.outbox.take(100))
        return self._events.pop(0)

    async def told(self, *kinds: int) -> list[Event]:
        """The next events, which are of these kinds."""
        events = [await self.next_event() for _ in kinds]
        assert [event.kind for event in events] == list(kinds), [event.payload[:80] for event in events]
        return events

    def begin(self, episode_id: bytes, seed: int | None = None) -> None:
        """Reset an episode."""
        request = pb.ResetRequest(episode_id=episode_id, epoch=1, lease_number=LEASE, seed=seed)
        self.send(pb.COMMAND_KIND_RESET, 0, request.SerializeToString())

    def step(self, index: int, action: str) -> None:
        """Act."""
        self.send(pb.COMMAND_KIND_STEP, index, encode(action))

    def resume(self, episode_id: bytes, index: int, journal: pb.Journal) -> None:
        """Come back to an episode, by a newer epoch."""
        request = pb.ResumeRequest(episode_id=episode_id, epoch=2, lease_number=LEASE, journal=journal)
        self.send(pb.COMMAND_KIND_RESUME, index, request.SerializeToString())


class GatedHost:
    """An engine with one gated environment, and its clients."""

    def __init__(self, engine: Engine, key: str):
        self.engine = engine
        self._client_id = secrets.token_bytes(16)
        claim = Claim(lease_id=secrets.token_bytes(16), tenant="default", environment=key, count=4)
        self._holding = engine.slots.show(claim, 0.0)
        Gated.gate = Gate()

    def client(self, **hello: Any) -> EngineClient:
        """A new connection of the one client there is, which has a lease."""
        client = EngineClient(self.engine, self._client_id, hello)
        client.connection.leases._holdings[LEASE] = self._holding
        return client

    async def at_rest(self, episode_id: bytes) -> None:
        """Nothing runs for the episode any more."""
        async with asyncio.timeout(PATIENCE):
            while self.engine.episodes[episode_id].running is not None:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.005)


@asynccontextmanager
async def host_of(target: type) -> AsyncIterator[GatedHost]:
    """A host of one of these environments."""
    definition = load(f"{target.__module__}:{target.__name__}")
    runner = ThreadRunner(definition, slots=4, copies_lost=lambda seats, refusal: None, threads=2)
    info = await runner.start()
    try:
        hosted = Hosted(info, served=None, runner=runner, reuse=False, definition=definition)
        rights = HostRights("host", cast(Any, None), Sealer.generate())
        yield GatedHost(Engine([hosted], SlotTable(4), rights), hosted.key)
    finally:
        Gated.gate.open()
        await runner.stop(1.0)


def journal_from(checkpoint: Event) -> pb.Journal:
    """A journal that begins at a checkpoint."""
    sealed = pb.SealedCheckpoint.FromString(checkpoint.payload)
    return pb.Journal(format_version=1, entries=[pb.JournalEntry(checkpoint=sealed)])
