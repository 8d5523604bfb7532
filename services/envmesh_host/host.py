"""A host from its settings to its end: what is made, in which order, and what happens at SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from envmesh.env import Definition, Isolation
from envmesh.errors import Refusal
from envmesh.spans import Spans
from envmesh.v1 import fleet_pb2, placement_pb2_grpc
from envmesh_host.callers import Callers
from envmesh_host.checkpoint_store import CheckpointStore
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.isolation.inline import InlineRunner
from envmesh_host.isolation.process import ProcessRunner
from envmesh_host.isolation.process_settings import ProcessSettings
from envmesh_host.isolation.thread import ThreadRunner
from envmesh_host.membership import Membership
from envmesh_host.meters import HostMeters
from envmesh_host.rights import HostRights
from envmesh_host.self_placement import SelfPlacement
from envmesh_host.served import Served
from envmesh_host.servicer import EnvironmentServicer, add_to_server
from envmesh_host.settings import HostSettings
from envmesh_host.slots import SlotTable
from envmesh_host.testimony import Testimony
from envmesh_host.traced import HostTraces
from envmesh_host.upkeep import Upkeep
from envmesh_host.watchdog import Watchdog
from envmesh_service.clock import monotonic
from envmesh_service.credentials import Tokens, read_tokens
from envmesh_service.leases import LeaseSigner, LeaseVerifier, Sealer, read_lease_keys, read_seal_keys
from envmesh_service.lifecycle import Process
from envmesh_service.logs import identify
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Exporter, Registry
from envmesh_service.probes import ProbePort
from envmesh_service.rotation import Rotated
from envmesh_service.rpc import RpcMetrics, Server, make_server
from envmesh_service.watched import Refreshed, Watched, look_periodically

__all__ = ["Host"]

log = logging.getLogger("envmesh.host")

SEAL_KEYS_SETTLE = 180.0
"""Seconds before a new key seals: a kubelet takes one or two minutes to bring a changed Secret to every pod."""

GOODBYE_SECONDS = 1.0
"""At most, until the broker has heard the last report: how the drain ended, and what it interrupted."""


class Host:
    """One host process."""

    def __init__(
        self,
        settings: HostSettings,
        definitions: Sequence[Definition],
        testimony: Testimony | None = None,
    ):
        if not definitions:
            raise ValueError("a host serves at least one environment")
        keys = [definition.key for definition in definitions]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice; give one of them another name or version")
        self.settings = settings
        self.definitions = definitions
        self._testimony = testimony
        self._leaving = False
        self.host_id = settings.host_id or secrets.token_hex(8)
        identify(host=self.host_id)
        self.registry = Registry()
        self.exporter = Exporter(self.registry)
        self.engine: Engine
        self.servicer: EnvironmentServicer
        self.server: Server
        self.verifier: LeaseVerifier
        self.callers: Callers
        self.probes: ProbePort
        self.meters: HostMeters
        self._watched: list[Refreshed] = []
        self.membership: Membership | None = None

    @property
    def server_name(self) -> str:
        """The name on its certificate; empty without one."""
        identity = self.server.identity
        if identity is None:
            return ""
        return self.settings.tls_server_name or next(iter(identity.value.names), "")

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return self.settings.advertise or self.server.address

    async def run(self, process: Process, ready: Callable[[Host], None] = lambda host: None) -> None:
        """Serve until the process is to end, then drain.

        Raises:
            BindError: a port cannot be had. Refusal: an environment cannot be served.
        """
        settings = self.settings
        self.server = make_server(
            settings.endpoint,
            max_message_bytes=settings.max_message_bytes,
            metrics=RpcMetrics(self.registry),
        )
        self.probes = ProbePort(self.server.health)
        lag = LoopLag()
        hosted = list(await asyncio.gather(*(self._start(process, each) for each in self.definitions)))
        self._assemble(hosted)
        self.meters = meters = HostMeters(self.registry, self.engine, lag)
        traces = self._traces()
        self.engine.traces = traces
        upkeep = Upkeep(self.engine, self.servicer, settings)
        upkeep.on_sweep = meters.flush
        if settings.broker:  # nobody would start a host anew that is alone
            upkeep.on_stuck = process.shutdown.request
        watchdog = self._watchdog()
        watchdog.start()
        try:
            await self.server.start()
            if settings.metrics_listen:
                where, _, port = settings.metrics_listen.rpartition(":")
                tls = None if settings.metrics_plaintext else settings.tls_files
                self.exporter.start(where.strip("[]") or "127.0.0.1", int(port), tls)
            if settings.health_listen:
                await self.probes.start(settings.health_listen)
            process.spawn(upkeep.run(), name="upkeep")
            process.spawn(look_periodically(self._watched), name="files")
            process.spawn(lag.run(), name="loop-lag")
            if settings.broker:
                self.membership = Membership(self, lag, self.set_draining)
                process.spawn(self.membership.run(), name="registration")
                process.spawn(self._ready_once_registered(self.membership), name="readiness")
            else:
                await self.server.health.set(ready=True, accepting=True)
            ready(self)
            await process.shutdown.wait()
            if self._testimony is not None:
                self._testimony.told()
            await self._leave()
        finally:
            watchdog.stop()
            if self.engine.store is not None:
                await asyncio.to_thread(self.engine.store.close)
            await self.server.stop(grace=0.2)
            await self.probes.stop()
            await self.exporter.stop()
            await asyncio.gather(*(h.runner.stop(2.0) for h in hosted if h.runner is not None))
            if traces is not None:
                await traces.close()
        if self._testimony is not None:
            self._testimony.left()

    # ---- assembling

    async def _start(self, process: Process, definition: Definition) -> Hosted:
        declaration, settings = definition.declaration, self.settings
        slots = self._slots_of(definition)
        runner: Any
        if declaration.isolation is Isolation.PROCESS:
            bounds = ProcessSettings(
                workers=settings.workers or None, max_value_bytes=settings.max_value_bytes
            )
            runner = ProcessRunner(definition, slots=slots, copies_lost=self._copies_lost, settings=bounds)
        elif declaration.isolation is Isolation.THREAD:
            threads = min(slots, settings.threads)
            runner = ThreadRunner(definition, slots=slots, copies_lost=self._copies_lost, threads=threads)
        else:
            served = Served.prepare(definition)
            if not served.asynchronous:
                return Hosted(
                    served.info, served=served, runner=None, reuse=declaration.reuse, definition=definition
                )
            runner = InlineRunner(served, spawn=process.spawn)
        info = await runner.start()
        return Hosted(info, served=None, runner=runner, reuse=False, definition=definition)

    @property
    def slots(self) -> int:
        """Episodes at once: as set, or fewer where every environment is bounded to fewer itself."""
        return min(self.settings.slots, sum(map(self._slots_of, self.definitions)))

    def _slots_of(self, definition: Definition) -> int:
        declaration = definition.declaration
        if declaration.slots is not None:
            return min(declaration.slots, self.settings.slots)
        if not declaration.declared:
            return min(self.settings.undeclared_slots, self.settings.slots)
        return self.settings.slots

    def _assemble(self, hosted: list[Hosted]) -> None:
        settings = self.settings
        bounds = {d.key: s for d in self.definitions if (s := self._slots_of(d)) < self.slots}
        signer = self._signer()
        self.verifier = LeaseVerifier(signer.public_keys if signer else ())
        sealer = self._sealer()
        self.callers = Callers(self.verifier, required=bool(settings.broker), file=self._credentials())
        rights = HostRights(self.host_id, self.verifier, sealer)
        self.engine = Engine(
            hosted,
            SlotTable(self.slots, bounds),
            rights,
            max_value_bytes=settings.max_value_bytes,
            watch=self._testimony.watch if self._testimony is not None else None,
        )
        for each in hosted:
            declared = each.definition.declaration
            each.checkpoint_steps = declared.checkpoint_steps or settings.checkpoint_steps
            each.checkpoint_seconds = declared.checkpoint_seconds or settings.checkpoint_seconds
        if settings.checkpoint_store:
            self.engine.use_store(
                CheckpointStore(
                    settings.checkpoint_store,
                    inline_bytes=settings.checkpoint_inline_bytes,
                    lifetime=settings.checkpoint_lifetime,
                )
            )
        self.servicer = EnvironmentServicer(
            self.engine, settings, self.host_id, alone=not settings.broker, caller_of=self.callers
        )
        self.server.add(add_to_server, self.servicer, "envmesh.v1.EnvironmentService")
        if signer is not None:
            placement = SelfPlacement(
                self.engine, signer, self.host_id, lambda: self.address, settings.pool,
                server_name=self.server_name, caller_of=self.callers.of_token,
            )  # fmt: skip
            self.server.add(
                placement_pb2_grpc.add_PlacementServiceServicer_to_server,
                placement,
                "envmesh.v1.PlacementService",
            )
        self._watched += [self.exporter, *([self.server.identity] if self.server.identity else ())]

    # ---- what is in files, and may be renewed

    def _signer(self) -> LeaseSigner | None:
        path = self.settings.lease_keys_file
        if self.settings.broker:
            return None
        if path is None:
            return LeaseSigner.generate()
        keys = Watched("the lease keys", [path], lambda: read_lease_keys(path))
        signer = LeaseSigner(keys.value)
        self._watched.append(
            Rotated(
                keys, signer, settle=0.0, clock=monotonic,  # nobody else has to hear of it first
                changed=lambda: self.verifier.accept(signer.public_keys),
            )
        )  # fmt: skip
        return signer

    def _sealer(self) -> Sealer:
        path = self.settings.seal_keys_file
        if path is None:
            return Sealer.generate()
        keys = Watched("the seal keys", [path], lambda: read_seal_keys(path))
        sealer = Sealer(keys.value)
        self._watched.append(Rotated(keys, sealer, settle=SEAL_KEYS_SETTLE, clock=monotonic))
        return sealer

    def _credentials(self) -> Watched[Tokens] | None:
        path = self.settings.credentials_file
        if path is None:
            return None
        file = Watched(
            "the credentials file", [path], lambda: read_tokens(path), lambda _: self.end_revoked()
        )
        self._watched.append(file)
        return file

    def end_revoked(self) -> None:
        """End the streams of those who may no longer call."""
        refusal = Refusal("the credential was revoked", reason="CREDENTIAL_INVALID")
        for connection in list(self.servicer.connections.values()):
            if self.callers.is_revoked(connection.caller):
                log.info("a stream ends: its credential was revoked", extra={"tenant": connection.tenant})
                connection.end(refusal)

    def _traces(self) -> HostTraces | None:
        settings = self.settings
        if not settings.traces:
            return None
        spans = Spans(settings.traces, "envmesh-host", self.host_id)
        return HostTraces(spans, self.host_id, settings.traced_episodes, self.meters.show)

    def _watchdog(self) -> Watchdog:
        testimony = self._testimony
        if testimony is None:
            return Watchdog(self.engine.running_inline)
        testimony.introduce(self.host_id)
        return Watchdog(self.engine.running_inline, last_words=testimony.stuck)

    def _copies_lost(self, seats: Sequence[Any], refusal: Refusal) -> None:
        self.engine.copies_lost(seats, refusal)

    async def _ready_once_registered(self, membership: Membership) -> None:
        """A host in a mesh is ready when the broker can place on it: a roll waits for that before the next one."""
        await membership.registered.wait()
        await self.server.health.set(ready=True, accepting=not self.engine.draining)

    # ---- leaving

    def set_draining(self, draining: bool, deadline: float | None = None) -> None:
        """Begin to drain, or take the drain back: nothing new is taken, idle leases go back, the clients are told."""
        engine = self.engine
        if self._leaving and not draining:
            return  # it was told to go by a signal, which nobody takes back
        engine.drain_until = None if deadline is None or not draining else engine.clock() + deadline
        if draining and not engine.draining:
            engine.draining_since = engine.clock()
        elif engine.draining and not draining:
            engine.drains.end(fleet_pb2.DRAIN_OUTCOME_TAKEN_BACK, engine.clock() - engine.draining_since)
        engine.draining = draining
        log.info("draining" if draining else "the drain was taken back")
        if draining:
            for holding in list(engine.slots):
                engine.slots.give_back(holding, 0)
            engine.save_all()
        for connection in self.servicer.connections.values():
            connection.notify_draining(draining, deadline)
        if self.membership is not None:
            self.membership.registration.changed()

    async def _leave(self) -> None:
        """Drain, wait until the episodes are gone or their time is over, and say goodbye."""
        engine, settings = self.engine, self.settings
        await self.server.health.set(accepting=False)
        self._leaving = True
        self.set_draining(True, settings.drain_deadline)
        hurried: asyncio.CancelledError | None = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + settings.drain_deadline):
                    await engine.emptied()
        except asyncio.CancelledError as error:  # a second signal: there is a moment left for goodbyes
            hurried = error
        left = list(engine.episodes.values())
        if left:
            waited = engine.clock() - engine.draining_since
            engine.drains.end(fleet_pb2.DRAIN_OUTCOME_OVERDUE, waited)
            log.warning("%d episodes could not leave within %.1f s", len(left), waited)
        else:
            engine.drains.end(
                fleet_pb2.DRAIN_OUTCOME_EMPTIED, max(0.0, engine.empty_since - engine.draining_since)
            )
        refusal = Refusal("the host had to go before the episode could be moved", reason="PREEMPTED")
        engine.fall(left, refusal)
        for copy in left:
            engine.close(copy, refusal)
        for connection in list(self.servicer.connections.values()):
            connection.end(None)
        if self.membership is not None:
            registration = self.membership.registration
            registration.leave()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await registration.over.wait()
        if hurried is not None:
            raise hurried
