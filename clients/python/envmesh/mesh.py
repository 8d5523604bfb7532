"""The client: ``async with envmesh.connect("localhost:7070") as mesh``."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from envmesh import errors
from envmesh.access import Access, channel_options
from envmesh.beginnings import beginning_of, make_beginning
from envmesh.client_clock import ClientClock
from envmesh.client_settings import ClientSettings
from envmesh.detached import read_detached, write_detached
from envmesh.env import Task
from envmesh.episode import Beginning
from envmesh.episode_in_slot import EpisodeInSlot
from envmesh.errors import EnvmeshError, ForkedClient, MeshUnavailable
from envmesh.host_connections import HostConnections, Metadata
from envmesh.journal_file import JournalFile
from envmesh.journal_records import Unfinished
from envmesh.leases import LeasePool
from envmesh.links import Links, link_trouble
from envmesh.mesh_catalogue import Catalogue
from envmesh.outcome import EnvironmentSpec
from envmesh.recovery import Recovery
from envmesh.session import Episode
from envmesh.slot import LeaseBinding, Slot
from envmesh.statistics import Statistics
from envmesh.stream import HostConnection, new_client_id
from envmesh.v1 import placement_pb2_grpc

if TYPE_CHECKING:
    from envmesh.metrics import ClientMetrics
    from envmesh.rollout_run import RolloutRun
    from envmesh.rollouts import Rollouts
    from envmesh.traces import ClientTraces
    from envmesh.vector import Vector

__all__ = ["ClientSettings", "Mesh", "connect"]

log = logging.getLogger("envmesh.client")

GRPC_SETTLES_SECONDS = 0.01
"""grpc.aio hears of the end of a cancelled call from its own thread, and keeps a task for it until then."""


def connect(
    target: str,
    *,
    token: str | None = None,
    token_file: str | Path | None = None,
    tls: bool | None = None,
    ca: str | Path | None = None,
    certificate: str | Path | None = None,
    private_key: str | Path | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    plaintext: bool = False,
    journal: str | Path | None = None,
    **settings: Any,
) -> Mesh:
    """A client of the mesh (or single host) at ``target``, ``host:port``; use it in ``async with``.

    ``token`` is a bearer token, or ``token_file`` holds one and is read again when it changes (default:
    ``$ENVMESH_TOKEN``, ``$ENVMESH_TOKEN_FILE``). The connection is TLS with ``ca``, a PEM file of the roots to trust
    (``$ENVMESH_CA``), with ``tls=True``, with ``credentials``, or at port 443; ``certificate`` and ``private_key`` are
    PEM files of the client's own. Files may be renewed while the client lives. ``plaintext=True`` sends even a token
    without TLS. ``journal`` is a file that tells what episodes go through: after a crash, a client
    with the same file goes on with them (``rollouts`` by itself, ``resume`` for single ones). ``settings`` are the
    fields of ``ClientSettings``.

    Raises:
        ValueError: the target is not ``host:port``, a setting is out of range, or credentials cannot be used.
        TypeError: an unknown setting.
    """
    host, colon, port = target.rpartition(":")
    if not target.startswith("unix:") and not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"a target is host:port, such as localhost:7070; got {target!r}")
    access = Access(
        target, token=token, token_file=token_file, tls=tls, ca=ca, certificate=certificate,
        private_key=private_key, credentials=credentials, plaintext=plaintext,
    )  # fmt: skip
    return Mesh(target, access, ClientSettings.given(settings), journal)


class Mesh(Catalogue):
    """A connection to a mesh. Belongs to the event loop it was entered in; nothing of it outlives ``close``."""

    def __init__(
        self, target: str, access: Access, settings: ClientSettings, journal: str | Path | None = None
    ):
        self.target = target
        self.access = access
        self.settings = settings
        self.client_id = new_client_id()
        self.clock = ClientClock(self)
        self.episodes: set[EpisodeInSlot] = set()
        self.vectors: set[Vector] = set()
        self.rollout_runs: set[RolloutRun] = set()
        self.links = Links(access, channel_options(settings.max_message_bytes))
        self._pid = os.getpid()
        self.recovery = Recovery(self)
        self.journal: JournalFile | None = None
        self._journal_path = journal
        self._runs: dict[str, int] = {}
        self.meters: ClientMetrics | None = None
        self.traces: ClientTraces | None = None
        """Both set by those classes themselves."""
        self._random = random.Random()
        self._connections = HostConnections(self._connect)
        self._pools: dict[str, LeasePool] = {}
        self._specs: dict[str, EnvironmentSpec] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Mesh {self.target} {'open' if self._open else 'closed' if self._closed else 'not entered'}>"

    # ---- life

    async def __aenter__(self) -> Self:
        if self._closed or self._open:
            raise MeshUnavailable("a client is entered once; connect anew", reason="UNSUPPORTED")
        self.check_usable(entering=True)
        if self._journal_path is not None:
            self.journal = JournalFile(self._journal_path)
            self.client_id = self.journal.client_id
        self._open = True
        self.clock.now = asyncio.get_running_loop().time()
        try:
            await self._reach()
        except BaseException:
            await self.close()
            raise
        self.spawn(self.clock.run(), name="envmesh-clock")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every episode, give back every lease, end every task. Bounded by ``close_timeout``."""
        if self._closed:
            return
        self._closed, self._open = True, False
        self.recovery.close()
        for pool in self._pools.values():
            pool.turn_away()
        for episode in list(self.episodes):
            await episode.close()
        for vector in list(self.vectors):
            await vector.close()
        failed: OSError | None = None
        for run in list(self.rollout_runs):
            try:
                run.client_closes()
            except OSError as error:  # of a recording, on a full disk
                failed = error
        self._connections.cancel()
        try:
            async with asyncio.timeout(self.settings.close_timeout):
                await asyncio.gather(*(pool.leave_off() for pool in self._pools.values()))
                for pool in self._pools.values():
                    pool.close()
                for connection in self.open_connections():
                    await connection.flush()
        except TimeoutError:
            log.warning("closing: not everything could be said within %g s", self.settings.close_timeout)
        await asyncio.gather(*(connection.close() for connection in self.open_connections()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._connections.end(), return_exceptions=True)
        await self.links.close()
        await asyncio.sleep(GRPC_SETTLES_SECONDS)
        if self.traces is not None:
            await self.traces.close()
        if self.journal is not None:
            self.journal.close()
        if failed is not None:
            raise failed

    def check_usable(self, *, entering: bool = False) -> None:
        """Refuse use in a forked child, before entering and after closing. Raises: ForkedClient, MeshUnavailable."""
        if os.getpid() != self._pid:
            raise ForkedClient(
                "this client was made before a fork; gRPC does not survive one: call envmesh.connect() in the child"
            )
        if not entering and not self._open:
            state = (
                "is closed" if self._closed else "has not been entered: use `async with envmesh.connect(...)`"
            )
            raise MeshUnavailable(f"this client {state}")

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run a task that ends with this client at the latest."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)

    @property
    def closing(self) -> bool:
        """Whether the client is being closed."""
        return self._closed

    @property
    def statistics(self) -> Statistics:
        """What this client has been through: lost hosts, rebuilt episodes, and how long it took."""
        return self.recovery.statistics

    @staticmethod
    def loop_time() -> float:
        """The event loop's clock, in seconds."""
        return asyncio.get_running_loop().time()

    # ---- episodes

    def episode(
        self,
        environment: str,
        *,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        task: str | Task = "",
        split: str = "",
        timeout: float | None = None,
        step_timeout: float | None = None,
    ) -> Episode:
        """An episode, begun by ``async with``. ``timeout`` bounds the wait for a slot, in seconds."""
        self.check_usable()
        beginning = make_beginning(seed, options, task, split)
        return Episode(
            self, self.pool(environment), None, beginning, self.slot_patience(timeout), step_timeout
        )

    @property
    def unfinished(self) -> list[Unfinished]:
        """What the last client of this journal has left. ``rollouts`` takes up what is of its own run; for episodes
        played by hand there is ``resume``."""
        return list(self.journal.unfinished.values()) if self.journal is not None else []

    async def resume(self, unfinished: Unfinished, *, timeout: float | None = None) -> Episode:
        """Go on with an episode of ``unfinished``: with its copy, where that lives, else with a new one.

        A step that had been sent and not answered is answered when it is sent again.

        Raises:
            InvalidRequest: this client has no journal. NotFound: its environment is not served.
        """
        self.check_usable()
        if self.journal is None:
            raise errors.InvalidRequest("connect with journal=PATH to go on with its episodes")
        spec = await self.describe(unfinished.environment)
        beginning = beginning_of(unfinished.beginning)
        pool = self.pool(unfinished.environment)
        episode = Episode(self, pool, spec, beginning, self.slot_patience(timeout), None)
        episode.take_up(unfinished)
        return episode

    def name_run(self, environment: str) -> str:
        """The name of the next rollouts of an environment in the journal: the same when the program is run again."""
        number = self._runs[environment] = self._runs.get(environment, -1) + 1
        if self.journal is not None:
            self.journal.begin_run(environment)
        return f"{environment}#{number}"

    def rollouts(self, environment: str, policy: Any, **arguments: Any) -> Rollouts:
        """Play many episodes with a policy: ``async for trajectory in mesh.rollouts(...)``; see ``Rollouts``."""
        from envmesh.rollout_run import RolloutRun
        from envmesh.rollouts import Rollouts

        self.check_usable()
        return Rollouts(RolloutRun(self, environment, policy, **arguments))

    def vector(self, environment: str, n: int, **arguments: Any) -> Vector:
        """``n`` episodes stepped with arrays; see ``Vector``."""
        from envmesh.vector import Vector

        self.check_usable()
        if self.journal is not None:
            raise errors.InvalidRequest(
                "a vector is not written into a journal; connect without journal=, or use rollouts",
                reason="UNSUPPORTED",
            )
        return Vector(self, environment, n, **arguments)

    async def attach(self, detached: bytes, *, timeout: float | None = None) -> Episode:
        """Take over an episode that ``episode.detach()`` let go, here or in another process.

        Raises:
            InvalidRequest: the bytes are not of ``detach``. NotFound: its environment is not served.
            EpisodeAborted: its host holds no copy any more, and it cannot be rebuilt (class NONE).
            EpisodeTakenOver: a newer owner exists.
        """
        self.check_usable()
        state = read_detached(detached)
        pool = self.pool(state["environment"])
        beginning = Beginning(state["seed"], None, None, state["task"], state["split"])
        spec = await self.describe(state["environment"])
        self.links.learn(state["address"], state.get("server_name", ""), ())
        episode = Episode(self, pool, spec, beginning, self.slot_patience(timeout), None)
        await episode.take_over(state)
        return episode

    def detached(self, episode: Episode, slot: Slot, token: bytes) -> bytes:
        """What ``detach`` returns."""
        connection = slot.connection
        server_name = self.links.server_name(connection.address)
        return write_detached(
            episode, connection.address, connection.host_id, token, server_name, connection.metadata
        )

    def slot_patience(self, timeout: float | None) -> float:
        """For how long to wait for a slot, in seconds: as the caller says, else as the settings do."""
        return self.settings.slot_timeout if timeout is None else timeout

    def draw_seed(self) -> int:
        """A fresh seed, 31 bits: every environment takes those."""
        return self._random.getrandbits(31)

    # ---- connections

    def pool(self, environment: str) -> LeasePool:
        """The slots for an environment."""
        pool = self._pools.get(environment)
        if pool is None:
            pool = self._pools[environment] = LeasePool(self, environment)
        return pool

    def pools_of_slots(self) -> list[LeasePool]:
        """The slots of every environment."""
        return list(self._pools.values())

    def bindings_on(self, connection: HostConnection) -> list[LeaseBinding]:
        """The leases shown on a connection."""
        return [binding for pool in self._pools.values() for binding in pool.bindings_on(connection)]

    async def reach(self, address: str, host_id: str, metadata: Metadata, timeout: float) -> HostConnection:
        """The connection to a host that was lost. Raises: MeshUnavailable, EnvmeshError."""
        try:
            async with asyncio.timeout(timeout):
                return await self.connection(address, host_id, metadata)
        except TimeoutError:
            raise MeshUnavailable(f"host {address} did not answer within {timeout:g} s") from None

    async def connection(self, address: str, host_id: str, metadata: Metadata = ()) -> HostConnection:
        """The connection to a host, opened when it is first needed. Raises: MeshUnavailable."""
        return await self._connections.to(address, host_id, metadata)

    def open_connections(self) -> list[HostConnection]:
        """To every host that is reached just now."""
        return self._connections.open()

    async def _connect(self, address: str, host_id: str, metadata: Metadata) -> HostConnection:
        connection = HostConnection(
            address, host_id, self.client_id, channel=self.links.channel(address, self.links.way(metadata)),
            metadata=self.links.without_pass(metadata), credentials=self.links.passes(),
            settings=self.settings,
        )  # fmt: skip
        connection.when_lost = self._connection_lost
        connection.when_noticed = self.recovery.noticed
        await connection.open(self.settings.connect_timeout)
        return connection

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call to whoever places; hosts never see it."""
        return self.access.metadata

    @property
    def placement(self) -> Any:
        """The stub for whoever places."""
        return placement_pb2_grpc.PlacementServiceStub(self.links.channel(self.target, "placement"))

    async def _reach(self) -> None:
        said = ""
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                while True:
                    try:
                        await self.pools()
                        return
                    except EnvmeshError as error:
                        if error.code is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        said = str(error)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise MeshUnavailable(
                f"nobody answers at {self.target} within {self.settings.connect_timeout:g} s; "
                + link_trouble(said, self.target, secure=self.access.secure)
            ) from None

    def _connection_lost(self, connection: HostConnection, error: EnvmeshError) -> None:
        if self._closed:
            return
        way = self.links.way(connection.metadata)
        channel = self.links.drop(connection.address, way)  # what is stuck in it must hold nobody up
        self.spawn(connection.close(), name=f"envmesh-end-{connection.address}")
        if channel is not None:
            self.spawn(channel.close(), name=f"envmesh-close-{connection.address}")
        self.recovery.connection_lost(connection, error)
        for pool in self._pools.values():
            pool.forget(connection)
        for run in self.rollout_runs:
            run.forget(connection)
        self._connections.forget(connection)
