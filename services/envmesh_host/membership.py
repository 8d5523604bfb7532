"""A host as a member of a mesh: what it says of itself to the broker, and what it does with what it is told."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmesh.links import Links
from envmesh.v1 import error_reason_pb2, fleet_pb2, placement_pb2
from envmesh_host.hosted import Hosted
from envmesh_host.registration import Registration
from envmesh_host.taps import Taps
from envmesh_service.build_info import build_info
from envmesh_service.loop_lag import LoopLag
from envmesh_service.rpc import BROKER_CHANNEL_OPTIONS

if TYPE_CHECKING:
    from envmesh_host.host import Host

__all__ = ["Membership"]

log = logging.getLogger("envmesh.host")


_PLACEMENT = {
    "pack": fleet_pb2.PLACEMENT_POLICY_PACK,
    "spread": fleet_pb2.PLACEMENT_POLICY_SPREAD,
}


@dataclass(frozen=True, slots=True)
class _Told:
    """What a broker has acknowledged: the interrupted episodes by environment and reason, the last drain's number."""

    interrupted: Mapping[tuple[str, int], int]
    drains: int


class Membership:
    """Keeps a host registered with its broker."""

    def __init__(self, host: Host, lag: LoopLag, on_drain: Callable[[bool], None]):
        self._host = host
        self._lag = lag
        self._on_drain = on_drain
        broker = host.settings.broker
        access = host.settings.access_to(broker, host.settings.broker_token_file)
        self._links = Links(access, BROKER_CHANNEL_OPTIONS)
        self.registered = asyncio.Event()
        """Set once the broker has heard this host for the first time."""
        self.registration = Registration(
            lambda: self._links.channel(broker),
            self._identity(),
            self.report,
            self,
            heard=self._acknowledged,
            metadata=lambda: access.metadata,
        )
        self._told = self._known = _Told({}, 0)
        host.engine.on_slot_freed = self.registration.changed
        host.engine.on_slot_taken = self.registration.changed
        self._taps = Taps(host.engine, self.registration.changed)

    async def run(self) -> None:
        """Stay registered until cancelled, or until told to leave."""
        try:
            await self.registration.run()
        finally:
            await self._links.close()

    def _identity(self) -> fleet_pb2.HostIdentity:
        host = self._host
        return fleet_pb2.HostIdentity(
            host_id=host.host_id,
            pool=host.settings.pool,
            address=host.address,
            slots=host.slots,
            environments=[hosted.info for _, hosted in sorted(host.engine.hosted.items())],
            software_version=build_info().version,
            name=host.settings.name or host.host_id[:8],
            placement=_PLACEMENT[host.settings.placement],
            server_name=host.server_name,
            environment_slots=[
                placement_pb2.EnvironmentSlots(environment=key, slots=slots)
                for key, slots in sorted(host.engine.slots.bounds.items())
            ],
        )

    def report(self) -> fleet_pb2.HostReport:
        """The whole picture, now."""
        engine = self._host.engine
        report = fleet_pb2.HostReport(
            state=self.state(),
            leases=[
                fleet_pb2.LeaseState(
                    lease_id=holding.lease_id,
                    tenant=holding.tenant,
                    environment=holding.environment,
                    in_use=holding.in_use,
                    idle=holding.idle,
                    client_id=holding.client_id,
                )
                for holding in (*engine.slots, *engine.slots.take_ended())
            ],
            unleased=engine.slots.stuck,
            event_loop_lag=self._lag.take(),
            memory_bytes=_resident_bytes(),
            cpu_seconds=_cpu_seconds(),
        )
        live: dict[str, int] = dict.fromkeys(engine.hosted, 0)
        for copy in engine.episodes.values():
            live[copy.environment.key] += 1
        for key, hosted in engine.hosted.items():
            load = report.environments.add(
                environment=key,
                live=live[key],
                begun=hosted.begun,
                ended=hosted.ended,
                failed=hosted.failed,
                steps=hosted.steps,
                slot_seconds=hosted.slot_seconds,
                return_sum=hosted.return_sum,
                step_buckets=self._host.meters.step_buckets(hosted),
            )
            for reason, episodes in hosted.interrupted.items():
                number = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")
                known = self._known.interrupted.get((key, number), 0)
                load.interrupted.add(reason=number, episodes=episodes, known=known)
            self._add_failures(report, hosted)
        for drain in engine.drains.ended:
            added = report.drains.add(
                number=drain.number, outcome=drain.outcome, known=drain.number <= self._known.drains
            )
            added.duration.FromNanoseconds(int(drain.seconds * 1e9))
        report.watched.extend(self._taps.take())
        return report

    def _acknowledged(self, report: fleet_pb2.HostReport) -> None:
        """The broker has heard this report."""
        self._told = _Told(
            {
                (load.environment, row.reason): row.episodes
                for load in report.environments
                for row in load.interrupted
            },
            max((drain.number for drain in report.drains), default=0),
        )

    @staticmethod
    def _add_failures(report: fleet_pb2.HostReport, hosted: Hosted) -> None:
        failures, now = hosted.recent_failures, time.monotonic()
        while failures:
            failure = failures.popleft()
            added = report.failures.add(
                environment=hosted.key,
                episode_id=failure.episode_id,
                index=max(0, failure.index),
                reason=failure.reason,
                message=failure.message,
            )
            added.ago.FromNanoseconds(int((now - failure.at) * 1e9))

    def state(self) -> fleet_pb2.HostState.ValueType:
        """What this host is doing."""
        engine = self._host.engine
        if not engine.draining:
            return fleet_pb2.HOST_STATE_READY
        return fleet_pb2.HOST_STATE_DRAINING if engine.slots.held else fleet_pb2.HOST_STATE_SEALED

    # ---- what the broker tells

    def lease_keys(self, public_keys: Sequence[bytes]) -> None:
        """These keys sign valid leases."""
        self._host.verifier.accept(public_keys)

    def recalls(self, keep: Mapping[bytes, int]) -> None:
        """By lease, to how many slots it shall shrink."""
        engine = self._host.engine
        for holding, count in engine.slots.recall(keep):
            for connection in self._host.servicer.connections.values():
                connection.slots_returned(holding, count)
        self.registration.changed()

    def drain(self, wanted: bool) -> None:
        """Drain, or take the drain back."""
        if wanted != self._host.engine.draining:
            self._on_drain(wanted)

    def revoked(self, tenants: frozenset[str], credentials: frozenset[bytes]) -> None:
        """End the streams of these tenants, and those begun with these credentials."""
        if self._host.callers.revoked(tenants, credentials):
            self._host.end_revoked()

    def watches(self, watches: Sequence[fleet_pb2.Watch]) -> None:
        """These episodes are looked at, and no others."""
        self._taps.watch(watches)

    def pass_required(self, required: bool) -> None:
        """Whether whoever calls must show a pass."""
        self._host.callers.required = required

    def connected(self, up: bool) -> None:
        """The broker hears this host, or no longer does."""
        self._known = self._told
        if not up:
            self._host.callers.broker_away()
        if up and not self.registered.is_set():
            self.registered.set()
            log.info("registered", extra={"broker": self._host.settings.broker, "host": self._host.host_id})


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - read once a second
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
