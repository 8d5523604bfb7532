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

from envmesh.v1 import fleet_pb2_grpc, placement_pb2_grpc
from envmesh_broker.authentication import Authenticator, Everybody, TokenFile
from envmesh_broker.core import Core, Refused
from envmesh_broker.desk import Desk
from envmesh_broker.fleet import FleetServicer, Sessions
from envmesh_broker.losses import Losses
from envmesh_broker.meters import Meters
from envmesh_broker.servicer import Placement
from envmesh_broker.settings import BrokerSettings, parse_pools
from envmesh_service.clock import Clock, monotonic, wall
from envmesh_service.leases import LeaseSigner, read_lease_keys
from envmesh_service.lifecycle import Process, Shutdown, run_process
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Exporter, Registry
from envmesh_service.rpc import RpcMetrics, Server, make_server
from envmesh_service.settings import Mistake, SettingsError, variable

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
    signer = _signer(settings)
    authenticator: Authenticator = Everybody()
    if settings.credentials_file is not None:
        authenticator = _read(settings, "credentials_file", TokenFile)
    pools = (
        _read(settings, "pools_file", lambda path: parse_pools(path.read_text()))
        if settings.pools_file
        else []
    )
    registry = Registry()
    server = make_server(settings.endpoint, metrics=RpcMetrics(registry), clock=clock)
    core = Core(
        clock(),
        new_id=lambda: secrets.token_bytes(16),
        tenant=authenticator.tenant,
        pools=pools,
        bounds=settings.bounds,
    )
    broker = _Broker(settings, server, core, authenticator, signer, registry, clock, own_process=signals)
    return await run_process(
        lambda process: broker.body(process, started),
        grace=settings.shutdown_grace + 5.0,
        signals=signals,
        shutdown=shutdown,
    )


class _Broker:
    def __init__(
        self,
        settings: BrokerSettings,
        server: Server,
        core: Core,
        authenticator: Authenticator,
        signer: LeaseSigner,
        registry: Registry,
        clock: Clock,
        *,
        own_process: bool,
    ) -> None:
        self._own_process = own_process
        self._settings, self._server, self._core, self._clock = settings, server, core, clock
        self._authenticator, self._registry = authenticator, registry
        self._desk, self._sessions, self._lag = Desk(core, clock), Sessions(), LoopLag(clock)
        self._meters = Meters(registry, core, self._lag, clock)
        self._exporter = Exporter(registry)
        losses = Losses(clock, core.ledger.last_heard)
        placement = Placement(
            self._desk,
            self._sessions,
            authenticator,
            signer,
            self._meters,
            losses,
            wall=wall,
            status_interval=settings.status_interval,
            validity=settings.lease_validity,
        )
        fleet = FleetServicer(
            self._desk,
            self._sessions,
            authenticator,
            signer.public_keys,
            losses,
            report_interval=settings.report_interval,
        )
        server.add(
            placement_pb2_grpc.add_PlacementServiceServicer_to_server,
            placement,
            "envmesh.v1.PlacementService",
        )
        server.add(fleet_pb2_grpc.add_FleetServiceServicer_to_server, fleet, "envmesh.v1.FleetService")

    async def body(self, process: Process, started: Callable[[Started], None] | None) -> None:
        settings = self._settings
        self._exporter.start(settings.metrics_host, settings.metrics_port)
        try:
            await self._server.start()
            process.spawn(self._lag.run(), name="loop-lag")
            process.spawn(self._tick(), name="tick")
            await self._server.health.set(ready=True, accepting=True)
            _log.info("ready", extra={"address": self._server.address, "metrics": self._exporter.port})
            if started is not None:
                started(Started(self._server.address, self._exporter.port))
            await process.shutdown.wait()
        finally:
            self._desk.send_away(Refused("UNREACHABLE", "this broker ends; ask again", 1.0))
            await self._server.stop(0 if process.shutdown.forced else min(1.0, settings.shutdown_grace))
            self._desk.close()
            await self._exporter.stop()

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
            self._sessions.prune(self._core)
            self._meters.take_lag()
            self._registry.flush()
            try:
                self._authenticator.reload()
            except (ValueError, OSError) as error:
                _log.error(
                    "the credentials file cannot be used; the old one stays", extra={"error": str(error)}
                )


def _signer(settings: BrokerSettings) -> LeaseSigner:
    if settings.lease_key_file is None:
        return LeaseSigner.generate()
    return LeaseSigner(_read(settings, "lease_key_file", read_lease_keys))


def _read(settings: BrokerSettings, name: str, read: Callable[[Path], _Read]) -> _Read:
    path: Path = getattr(settings, name)
    try:
        return read(path)
    except (ValueError, OSError) as error:
        mistake = Mistake(
            variable(BrokerSettings, name), f"{path}: {error}", "a file that can be used is right"
        )
        raise SettingsError((mistake,)) from None
