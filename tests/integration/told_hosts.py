"""A client and its hosts, where hosts say what a test has them say: what becomes of an episode, event by event."""

import asyncio
import math
from pathlib import Path
from typing import Any

from envmesh import values
from envmesh.access import Access
from envmesh.client_settings import ClientSettings
from envmesh.episode import Beginning
from envmesh.errors import MeshUnavailable, Refusal
from envmesh.mesh import Mesh
from envmesh.outcome import EnvironmentSpec
from envmesh.session import Episode
from envmesh.slot import LeaseBinding, Slot
from envmesh.stream import HostConnection
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import placement_pb2

NOBODY = "127.0.0.1:1"
"""Where no broker answers: slots are those that a test gives."""


class ToldHost(HostConnection):
    """A connection without streams: ``told`` is what would have been written."""

    def __init__(self, mesh: Mesh, address: str, host_id: str):
        super().__init__(address, host_id, mesh.client_id, channel=None, settings=mesh.settings)  # type: ignore[arg-type]
        self.when_lost = mesh._connection_lost
        self.when_noticed = mesh.recovery.noticed
        self.liveness_window = math.inf
        self._told: list[tuple[str, int]] = []

    async def write(self, paced: bool = True) -> None:
        rows = self.rows
        kinds = (pb.CommandKind.Name(kind).removeprefix("COMMAND_KIND_") for kind in rows.kinds)  # type: ignore[arg-type]
        self._told += zip(kinds, rows.handles, strict=True)
        rows._clear()

    async def told(self) -> list[tuple[str, int]]:
        """Kinds of commands and the handles they name, since this was asked last."""
        await settled()
        await self.write()
        told, self._told = self._told, []
        return told

    async def kinds(self) -> list[str]:
        """Only the kinds."""
        return [kind for kind, _ in await self.told()]

    def says(self, handle: int, kind: int, payload: bytes = b"", index: int = 0) -> None:
        """An event comes."""
        frame = pb.StreamResponse(handles=[handle], indices=[index], payloads=[payload], kinds=[kind])  # type: ignore[list-item]
        self._delivery.deliver(frame)

    def outcome(self, handle: int, index: int) -> None:
        """The outcome of a reset or step."""
        self._delivery.deliver_alone(handle, outcome_row(index))

    def resumed(self, handle: int, index: int) -> None:
        """There is a new copy."""
        response = pb.ResumeResponse(last=pb.Outcome(index=index, digest=digest(index)))
        self.says(handle, pb.EVENT_KIND_RESUMED, response.SerializeToString())

    def fails(self, handle: int, reason: str, index: int = 0) -> None:
        """A command failed."""
        status = Refusal("as the test has it", reason=reason).to_status()
        self.says(handle, pb.EVENT_KIND_FAILURE, status.SerializeToString(), index)

    def drains(self) -> None:
        """The host sends its episodes away."""
        self.when_noticed(self, pb.Notice(kind=pb.NOTICE_KIND_DRAINING))

    def breaks(self) -> None:
        """The link breaks."""
        self._note_lost(MeshUnavailable("the link broke"))


class ToldMesh(Mesh):
    """A client of such hosts. ``dead`` are those that are not reached any more, ``made`` every connection there was."""

    def __init__(self, recovery: str = "REPLAY", journal: Path | None = None, **settings: Any):
        super().__init__(NOBODY, Access(NOBODY), ClientSettings.given(settings), journal)
        self.info = pb.EnvironmentInfo(
            name="walk", version="1", build="first", seeded=True,
            recovery=pb.RecoveryClass.Value(f"RECOVERY_CLASS_{recovery}"),
        )  # fmt: skip
        self.dead: set[str] = set()
        self.made: list[ToldHost] = []

    async def _reach(self) -> None:
        pass

    async def pools(self) -> list[placement_pb2.Pool]:
        return [placement_pb2.Pool(name="pool", environments=[self.info])]

    async def _connect(self, address: str, host_id: str, metadata: Any) -> ToldHost:
        if host_id in self.dead:
            raise MeshUnavailable(f"nobody answers at {address}")
        self.made.append(ToldHost(self, address, host_id))
        return self.made[-1]

    async def host(self, name: str) -> ToldHost:
        """The connection to the host of that name."""
        connection = await self.connection(f"{name}:1", name)
        assert isinstance(connection, ToldHost)
        return connection

    @property
    def walks(self) -> Any:
        """The pool of its slots."""
        return self.pool("walk@1")

    async def slot(self, host: ToldHost) -> Slot:
        """A slot there, of a lease of its own."""
        lease = LeaseBinding(self.walks, host, b"token")
        self.shown(host, lease.number)
        self.walks._bindings.add(lease)
        return Slot(lease)

    async def room(self, *hosts: ToldHost) -> None:
        """A free slot on each; the last is taken first."""
        for host in hosts:
            self.walks.give(await self.slot(host))

    def shown(self, host: ToldHost, number: int) -> None:
        """The host takes a lease that is shown."""
        bound = pb.LeaseBound(environment=self.info, count=1)
        host.says(number, pb.EVENT_KIND_BOUND, bound.SerializeToString())

    async def standing(self, host: ToldHost) -> Episode:
        """An episode there that has had its reset."""
        spec = EnvironmentSpec(self.info)
        episode = Episode(self, self.walks, spec, Beginning(seed=1), 10.0, None)
        episode._settle_in(await self.slot(host))
        episode.expect(0, b"")
        episode.on_outcome(*outcome_row(0))
        return episode


def digest(index: int) -> int:
    """The digest of that outcome."""
    return 100 + index


def outcome_row(index: int) -> tuple[int, bytes, float, int, int, bytes]:
    """An outcome's columns."""
    return index, values.encode(str(index)), 0.0, 0, digest(index), b""


async def settled() -> None:
    """Whatever is to come of the last event by itself has come."""
    for _ in range(20):
        await asyncio.sleep(0)


async def play(episode: Episode, host: ToldHost, steps: int, action: str = "go") -> None:
    """Do so many steps."""
    async with asyncio.TaskGroup() as group:
        for _ in range(steps):
            step = group.create_task(episode.step(action), name="step")
            await host.told()
            host.outcome(episode._handle, episode.expected)
            await step
