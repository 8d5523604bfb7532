"""The broker as a process: its parts put together, and their life."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from envmesh.spans import Spans
from envmesh.v1 import fleet_pb2_grpc, placement_pb2_grpc
from envmesh_broker import views
from envmesh_broker.authentication import Authenticator, Credentials, Everybody
from envmesh_broker.catalog import DeclaredPool
from envmesh_broker.core import Core, Refused
from envmesh_broker.desk import Desk
from envmesh_broker.fleet import FleetServicer, Sessions
from envmesh_broker.gates import CertificateGate, Gate, TokenGate
from envmesh_broker.losses import Losses
from envmesh_broker.meters import Meters
from envmesh_broker.page.server import LivePage
from envmesh_broker.servicer import Placement
from envmesh_broker.settings import BrokerSettings, parse_pools
from envmesh_broker.token_reviews import TokenReviews
from envmesh_broker.traced import BrokerTraces
from envmesh_service.clock import Clock, monotonic, wall
from envmesh_service.kubernetes_api import ClusterApi
from envmesh_service.leases import LeaseSigner, read_lease_keys
from envmesh_service.lifecycle import Process, Shutdown, run_process
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Exporter, Registry
from envmesh_service.probes import ProbePort
from envmesh_service.rotation import Rotated
from envmesh_service.rpc import RpcMetrics, Server, make_server
from envmesh_service.settings import Mistake, SettingsError
from envmesh_service.watched import Refreshed, Watched

__all__ = ["Started", "run"]

_log = logging.getLogger(__name__)

_TICK = 0.5
"""Seconds between looks at what time alone changes."""

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Started:
    """Where a running broker is to be found."""

    address: str
    metrics_port: int
    fleet_address: str = ""
    probe_port: int = 0


async def run(
    settings: BrokerSettings,
    *,
    started: Callable[[Started], None] | None = None,
    shutdown: Shutdown | None = None,
    signals: bool = True,
    clock: Clock = monotonic,
) -> Shutdown:
    """Run a broker until it is asked to end. ``started`` is called once it answers. With ``signals`` the process is the
    broker's own: its signal handlers and its garbage collector are set.

    Raises:
        SettingsError: a file that the settings name is wrong.
        BindError: its port cannot be had.
    """
    signer, rotated = _lease_keys(settings, clock)
    authenticator = _authenticator(settings, clock)
    pools = _pools(settings)
    registry = Registry()
    rpc_metrics = RpcMetrics(registry)
    server = make_server(settings.endpoint, metrics=rpc_metrics, clock=clock)
    fleet_server = (
        make_server(settings.fleet_endpoint, metrics=rpc_metrics, clock=clock)
        if settings.fleet_listen
        else None
    )
    core = Core(
        clock(),
        new_id=lambda: secrets.token_bytes(16),
        tenant=authenticator.tenant,
        pools=pools.value if pools is not None else (),
        bounds=settings.bounds,
    )
    servers = _Servers(server, fleet_server)
    broker = _Broker(settings, servers, core, authenticator, signer, registry, clock, own_process=signals)
    if rotated is not None:
        broker.watched.append(rotated)
    if pools is not None:
        broker.watched.append(pools)
        pools.changed = core.declare
    return await run_process(
        lambda process: broker.body(process, started),
        grace=settings.shutdown_grace + 5.0,
        signals=signals,
        shutdown=shutdown,
    )


@dataclass(frozen=True, slots=True)
class _Servers:
    """The port for trainers, and that of the fleet where it has its own."""

    trainers: Server
    fleet: Server | None

    @property
    def all(self) -> tuple[Server, ...]:
        return (self.trainers,) if self.fleet is None else (self.trainers, self.fleet)


class _Broker:
    def __init__(
        self,
        settings: BrokerSettings,
        servers: _Servers,
        core: Core,
        authenticator: Authenticator,
        signer: LeaseSigner,
        registry: Registry,
        clock: Clock,
        *,
        own_process: bool,
    ) -> None:
        self._own_process = own_process
        self._settings, self._servers, self._core, self._clock = settings, servers, core, clock
        self._server, self._signer = servers.trainers, signer
        self._probes = ProbePort(servers.trainers.health)
        self._authenticator, self._registry = authenticator, registry
        self._desk, self._sessions, self._lag = Desk(core, clock), Sessions(), LoopLag(clock)
        self._meters = Meters(registry, core, self._lag, clock, self._sessions.said)
        self._exporter = Exporter(registry)
        self.watched: list[Refreshed] = [self._exporter]
        self.watched += [server.identity for server in servers.all if server.identity is not None]
        self._losses = losses = Losses(clock, core.ledger.last_heard)
        self._page = self._live_page() if settings.page_listen else None
        self._traces = (
            BrokerTraces(Spans(settings.traces, "envmesh-broker", secrets.token_hex(8)))
            if settings.traces
            else None
        )
        placement = Placement(
            self._desk,
            self._sessions,
            authenticator,
            signer,
            self._meters,
            losses,
            wall=wall,
            status_interval=settings.status_interval,
            traces=self._traces,
        )
        servers.trainers.add(
            placement_pb2_grpc.add_PlacementServiceServicer_to_server,
            placement,
            "envmesh.v1.PlacementService",
        )
        if servers.fleet is None or authenticator.required:
            self._add_fleet(servers.trainers, TokenGate(authenticator))
        if servers.fleet is not None:
            self._add_fleet(servers.fleet, CertificateGate(settings.host_names, settings.operator_names))

    def _live_page(self) -> LivePage:
        core, said, clock = self._core, self._sessions.said, self._clock
        return LivePage(
            lambda: views.fleet(core, said, clock()),
            lambda: {host_id: report for host_id, (_, report) in said.items()},
            clock,
            place=lambda: self._server.address,
            values=self._settings.page_values,
        )

    def _add_fleet(self, server: Server, gate: Gate) -> None:
        servicer = FleetServicer(
            self._desk,
            self._sessions,
            self._authenticator,
            self._signer,
            gate,
            self._losses,
            page=self._page,
            report_interval=self._settings.report_interval,
        )
        server.add(fleet_pb2_grpc.add_FleetServiceServicer_to_server, servicer, "envmesh.v1.FleetService")

    async def body(self, process: Process, started: Callable[[Started], None] | None) -> None:
        settings = self._settings
        if settings.metrics_listen:
            where, _, port = settings.metrics_listen.rpartition(":")
            tls = None if settings.metrics_plaintext else settings.tls_files
            self._exporter.start(where.strip("[]") or "127.0.0.1", int(port), tls)
        try:
            for server in self._servers.all:
                await server.start()
            if settings.health_listen:
                await self._probes.start(settings.health_listen)
            if self._page is not None:
                await self._page.start(settings.page_listen)
                process.spawn(self._page.run(), name="page")
            process.spawn(self._lag.run(), name="loop-lag")
            process.spawn(self._tick(), name="tick")
            process.spawn(self._review(), name="credentials")
            for server in self._servers.all:
                await server.health.set(ready=True, accepting=True)
            fleet = self._servers.fleet.address if self._servers.fleet is not None else ""
            at = {
                "address": self._server.address,
                "metrics": self._exporter.port,
                "probes": self._probes.port,
                "page": self._page.port if self._page is not None else 0,
            }
            _log.info("ready", extra=at | ({"fleet": fleet} if fleet else {}))
            if started is not None:
                started(Started(self._server.address, self._exporter.port, fleet, self._probes.port))
            await process.shutdown.wait()
        finally:
            self._desk.send_away(Refused("UNREACHABLE", "this broker ends; ask again", 1.0))
            grace = 0 if process.shutdown.forced else min(1.0, settings.shutdown_grace)
            await asyncio.gather(*(server.stop(grace) for server in self._servers.all))
            self._desk.close()
            if self._page is not None:
                await self._page.stop()
            await self._probes.stop()
            await self._exporter.stop()
            if self._traces is not None:
                await self._traces.close()

    async def _tick(self) -> None:
        """Every half second: what time alone changes, metrics, credentials.

        Once the hosts are there, what is known of them is put out of the garbage collector's way: walking over a
        thousand hosts' connections takes it 70 ms, and everybody who asks just then would wait for it.
        """
        frozen = not self._own_process
        if self._own_process:
            gc.set_threshold(20_000, 20, 100)
        while True:
            await asyncio.sleep(_TICK)
            if not frozen and self._core.ledger.complete(self._clock()):
                frozen = True
                gc.collect()
                gc.freeze()
            self._desk.tick()
            self._meters.tick()
            self._sessions.prune(self._core)
            self._registry.flush()
            for each in self.watched:
                each.refresh()

    async def _review(self) -> None:
        """Look at credentials by a task of its own: an API server that is slow must not stop the clock."""
        while True:
            await asyncio.sleep(_TICK)
            await self._authenticator.review()


def _lease_keys(
    settings: BrokerSettings, clock: Clock
) -> tuple[LeaseSigner, Rotated[Ed25519PrivateKey] | None]:
    """What signs leases, and what keeps its keys as their file says. Hosts hear of a new key with their next report."""
    if settings.lease_keys_file is None:
        return LeaseSigner.generate(), None
    keys = _read(
        settings,
        "lease_keys_file",
        lambda path: Watched("the lease keys", [path], lambda: read_lease_keys(path)),
    )
    signer = LeaseSigner(keys.value)
    settle = settings.liveness + settings.report_interval
    return signer, Rotated(keys, signer, settle=settle, clock=clock)


def _pools(settings: BrokerSettings) -> Watched[list[DeclaredPool]] | None:
    if settings.pools_file is None:
        return None
    return _read(
        settings,
        "pools_file",
        lambda path: Watched("the pools file", [path], lambda: parse_pools(path.read_text())),
    )


def _authenticator(settings: BrokerSettings, clock: Clock) -> Authenticator:
    if settings.credentials_file is None:
        return Everybody()
    reviews = None
    if settings.token_reviews:
        api, audience = ClusterApi.connect(settings.kubeconfig), settings.token_review_audience
        reviews = TokenReviews(
            lambda token: api.review(token, audience),
            keep=settings.token_review_cache,
            clock=clock,
            wall=wall,
        )
    return _read(settings, "credentials_file", lambda path: Credentials(path, clock, reviews))


def _read(settings: BrokerSettings, name: str, read: Callable[[Path], _Read]) -> _Read:
    path: Path = getattr(settings, name)
    try:
        return read(path)
    except (ValueError, OSError) as error:
        what = str(error) if str(path) in str(error) else f"{path}: {error}"
        mistake = Mistake(settings.variable_of(name), what, "a file that can be used is right")
        raise SettingsError((mistake,)) from None
