"""Real brokers on real ports, and hosts that are simulated only where they would run environments."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import duration_pb2

from envmesh.errors import EnvmeshError, Refusal, from_rpc_error
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc, placement_pb2, placement_pb2_grpc
from envmesh_broker.broker import Started, run
from envmesh_broker.settings import BrokerSettings
from envmesh_host.registration import Registration
from envmesh_service.leases import LeaseVerifier
from envmesh_service.lifecycle import Shutdown
from envmesh_service.rpc import BROKER_CHANNEL_OPTIONS
from envmesh_service.settings import load

PATIENCE = 20.0
WHOLE = placement_pb2.ACQUIRE_MODE_ALL


class SimulatedHost:
    """A host as the broker sees one: it registers with the real registration, checks leases as a host does, and keeps
    a lease table. It has no environments."""

    def __init__(
        self, host_id: str, slots: int = 8, environments: Sequence[str] = ("cartpole@1",), **identity
    ):
        self.identity = fleet_pb2.HostIdentity(
            host_id=host_id, name=host_id, pool="pool", address=f"{host_id}:7070", slots=slots
        )
        for key in environments:
            name, _, version = key.partition("@")
            self.identity.environments.add(name=name, version=version)
        for name, value in identity.items():
            setattr(self.identity, name, value)
        self.draining = False
        self.table: dict[bytes, fleet_pb2.LeaseState] = {}
        self.ended: list[bytes] = []
        self.verifier = LeaseVerifier()
        self.keep: dict[bytes, int] = {}
        self.revoked_tenants: frozenset[str] = frozenset()
        self.revoked_credentials: frozenset[bytes] = frozenset()
        self.passes = False
        self.up = asyncio.Event()
        self.told = asyncio.Condition()
        self.registration: Any = None

    # ---- what clients do here

    def show(self, lease: placement_pb2.Lease, client_id: bytes = b"", now: float | None = None) -> None:
        claims = self.verifier.verify(
            lease.token, host_id=self.identity.host_id, now=time.time() if now is None else now
        )
        if claims.lease_id not in self.table:
            taken = sum(row.in_use + row.idle for row in self.table.values())
            if taken + claims.count > self.identity.slots:
                raise Refusal(f"{taken} of {self.identity.slots} slots are taken", reason="SLOT_TAKEN")
            self.table[claims.lease_id] = fleet_pb2.LeaseState(
                lease_id=claims.lease_id,
                tenant=claims.tenant,
                environment=claims.environment,
                idle=claims.count,
                client_id=client_id,
            )
            self.changed()

    def use(self, lease_id: bytes) -> None:
        row = self.table[lease_id]
        row.in_use, row.idle = row.in_use + row.idle, 0
        self.changed()

    def end(self, lease_id: bytes) -> None:
        if self.table.pop(lease_id, None) is not None:
            self.ended.append(lease_id)
            self.changed()

    def changed(self) -> None:
        if self.registration is not None:
            self.registration.changed()

    # ---- what it tells

    @property
    def state(self) -> fleet_pb2.HostState.ValueType:
        if not self.draining:
            return fleet_pb2.HOST_STATE_READY
        return fleet_pb2.HOST_STATE_DRAINING if self.table else fleet_pb2.HOST_STATE_SEALED

    def report(self) -> fleet_pb2.HostReport:
        rows = [*self.table.values(), *(fleet_pb2.LeaseState(lease_id=lease_id) for lease_id in self.ended)]
        self.ended.clear()
        return fleet_pb2.HostReport(state=self.state, leases=rows)

    # ---- what it is told

    def lease_keys(self, public_keys: Sequence[bytes]) -> None:
        self.verifier.accept(public_keys)

    def recalls(self, keep: Mapping[bytes, int]) -> None:
        self.keep = dict(keep)
        for lease_id, slots in keep.items():
            row = self.table.get(lease_id)
            if row is not None:
                back = min(row.idle, max(0, row.in_use + row.idle - slots))
                row.idle -= back
                if back and not row.in_use + row.idle:
                    self.end(lease_id)
                elif back:
                    self.changed()

    def drain(self, wanted: bool) -> None:
        self.draining = wanted
        self.changed()

    def revoked(self, tenants: frozenset[str], credentials: frozenset[bytes]) -> None:
        self.revoked_tenants, self.revoked_credentials = tenants, credentials

    def pass_required(self, required: bool) -> None:
        self.passes = required

    def watches(self, watches) -> None:
        self.watched = tuple(watches)

    def connected(self, up: bool) -> None:
        if up:
            self.up.set()
        else:
            self.up.clear()


class Mesh:
    """A broker and simulated hosts, with stubs to speak to it."""

    def __init__(self, tasks: asyncio.TaskGroup, settings: Mapping[str, object]):
        self._tasks = tasks
        self._settings = dict(settings)
        self.shutdown: Any = None
        self.broker: Any = None
        self._hosts: dict[str, asyncio.Task] = {}
        self.started: Started
        self.channel: grpc.aio.Channel
        self.placement: Any
        self.fleet: Any

    async def start_broker(self) -> None:
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self.shutdown = Shutdown()
        settings = load(BrokerSettings, {}, self._settings)
        self.broker = self._tasks.create_task(
            run(settings, started=started.set_result, shutdown=self.shutdown, signals=False), name="broker"
        )
        await asyncio.wait([started, self.broker], return_when=asyncio.FIRST_COMPLETED)
        self.started = await started if started.done() else self.broker.result()
        self._settings["listen"] = self.started.address  # after a restart it is found at the same place
        self.channel = grpc.aio.insecure_channel(self.started.address, BROKER_CHANNEL_OPTIONS)
        self.placement = placement_pb2_grpc.PlacementServiceStub(self.channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self.channel)

    async def stop_broker(self) -> None:
        await self.channel.close()
        self.shutdown.request("test")
        await self.broker

    async def add(self, host: SimulatedHost, metadata: Sequence[tuple[str, str]] = ()) -> SimulatedHost:
        self._hosts[host.identity.host_id] = self._tasks.create_task(
            self._live(host, metadata), name=f"host-{host.identity.host_id}"
        )
        async with asyncio.timeout(PATIENCE):
            await host.up.wait()
        return host

    async def hosts(self, count: int, **identity) -> list[SimulatedHost]:
        hosts = [await self.add(SimulatedHost(f"h{number}", **identity)) for number in range(count)]
        await self.until(
            lambda fleet: sum(h.state == fleet_pb2.HOST_STATE_READY for h in fleet.hosts) >= count
        )
        return hosts

    async def kill(self, host: SimulatedHost) -> None:
        task = self._hosts.pop(host.identity.host_id)
        task.cancel()
        await asyncio.wait([task])

    async def leave(self, host: SimulatedHost) -> None:
        host.registration.leave()
        await self._hosts.pop(host.identity.host_id)

    async def close(self) -> None:
        for task in self._hosts.values():
            task.cancel()
        await self.stop_broker()

    async def until(self, holds: Callable[[fleet_pb2.Fleet], object], metadata=()) -> fleet_pb2.Fleet:
        """Watch the fleet until something holds."""
        interval = duration_pb2.Duration(nanos=100_000_000)
        async with asyncio.timeout(PATIENCE):
            watch = self.fleet.WatchFleet(
                fleet_pb2.WatchFleetRequest(interval=interval), metadata=metadata, wait_for_ready=True
            )
            async for picture in watch:
                if holds(picture.fleet):
                    watch.cancel()
                    return picture.fleet
        raise AssertionError("the broker ended the watch")

    async def acquire(self, count: int, environment: str = "cartpole", timeout: float = PATIENCE, **fields):
        """All leases of a request, when it is complete or ends."""
        leases: list[placement_pb2.Lease] = []
        async for response in self.ask(count, environment, timeout, **fields):
            leases.extend(response.grant.leases)
        return leases

    async def ask(
        self, count: int, environment: str = "cartpole", timeout: float = PATIENCE, metadata=(), **fields
    ):
        """The responses to a request; errors as the client's tree has them."""
        request = placement_pb2.AcquireRequest(environment=environment, count=count, **fields)
        request.timeout.FromNanoseconds(int(timeout * 1e9))
        call = self.placement.Acquire(request, metadata=metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def _live(self, host: SimulatedHost, metadata) -> None:
        channel = grpc.aio.insecure_channel(self.started.address, BROKER_CHANNEL_OPTIONS)
        async with channel:
            host.registration = Registration(
                lambda: channel, host.identity, host.report, host, metadata=lambda: metadata
            )
            await host.registration.run()


@contextlib.asynccontextmanager
async def mesh(**settings) -> AsyncIterator[Mesh]:
    settings = {"listen": "127.0.0.1:0", "settle": 0.0, "report_interval": 0.2, "liveness": 2.0} | settings
    async with asyncio.TaskGroup() as tasks:
        built = Mesh(tasks, settings)
        await built.start_broker()
        try:
            yield built
        finally:
            await built.close()


async def refusal(answers) -> EnvmeshError:
    """The error with which something ends."""
    try:
        if hasattr(answers, "__aiter__"):
            async for _ in answers:
                pass
        else:
            await answers
    except EnvmeshError as error:
        return error
    raise AssertionError("it was not refused")


def new_client() -> bytes:
    return secrets.token_bytes(16)


def leased(fleet):
    return sum(row.in_use + row.idle for host in fleet.hosts for row in host.report.leases)
