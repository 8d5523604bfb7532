"""FleetService: hosts report here, operators and the autoscaler look and steer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from envmesh.errors import Refusal
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc, placement_pb2
from envmesh_broker import views
from envmesh_broker.authentication import Authenticator
from envmesh_broker.core import Core, Directives
from envmesh_broker.desk import Desk
from envmesh_broker.gates import Gate
from envmesh_broker.losses import Losses
from envmesh_broker.page.server import LivePage
from envmesh_service.leases import LeaseSigner

__all__ = ["FleetServicer", "Sessions"]

_log = logging.getLogger(__name__)

_LEAST_WATCH = 0.1
_LEAST_GAP = 0.05
_GAP_EACH = 0.0001
"""Seconds between two pictures for each host in them."""
_GAP = 0.05, 0.0005
"""Between two reports of a host: seconds at least, and more for each host, so that they are 2,000 a second at most."""
_EMPTY_REPORT = fleet_pb2.HostReport()


class Sessions:
    """What hosts said, as it came, and whose session is which."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[fleet_pb2.HostIdentity, fleet_pb2.HostReport]] = {}
        self.pools: dict[str, fleet_pb2.HostIdentity] = {}
        """By pool, the whole identity of the host that registered last."""
        self.contexts: dict[str, Any] = {}

    def begin(self, identity: fleet_pb2.HostIdentity) -> fleet_pb2.HostIdentity:
        """A host registers. Until it reports, what it said in a session before is what is known of it, here as in the
        ledger: its totals must not seem to begin anew. Returns its slim identity, which is kept with what it says."""
        _, before = self.said.get(identity.host_id, (None, _EMPTY_REPORT))
        slim = views.slim(identity)
        self.said[identity.host_id] = slim, before
        self.pools[identity.pool] = identity
        return slim

    def prune(self, core: Core) -> None:
        """Drop what is said of hosts that the ledger has forgotten."""
        hosts = core.ledger.hosts
        for host_id in [host_id for host_id in self.said if host_id not in hosts]:
            del self.said[host_id]
        kept = {record.host.pool for record in hosts.values()} | core.catalog.pools.keys()
        for pool in [pool for pool in self.pools if pool not in kept]:
            del self.pools[pool]


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """The broker's side towards hosts, autoscaler and operators."""

    def __init__(
        self,
        desk: Desk,
        sessions: Sessions,
        authenticator: Authenticator,
        signer: LeaseSigner,
        gate: Gate,
        losses: Losses,
        *,
        page: LivePage | None = None,
        report_interval: float = 1.0,
    ) -> None:
        self._page = page
        self._desk, self._sessions, self._authenticator = desk, sessions, authenticator
        self._signer, self._gate = signer, gate
        self._report_interval = report_interval
        self._losses = losses

    async def Register(  # type: ignore[override]  # the stubs do not know grpc.aio's read and write
        self, requests: AsyncIterator[fleet_pb2.RegisterRequest], context: Any
    ) -> None:
        """One host's session."""
        await self._gate.check(context, registers=True)
        desk, core, said = self._desk, self._desk.core, self._sessions.said
        first = await context.read()
        if first is grpc.aio.EOF or not first.HasField("identity"):
            raise Refusal("the first message must be the host's identity", reason="ARGUMENT_INVALID")
        host = views.host_of(first.identity)
        await self._supersede(host.host_id, context)
        session = core.register(host, desk.clock())
        identity = self._sessions.begin(first.identity)
        try:
            gap, keys = self._gap(), self._signer.public_keys
            await context.write(self._greeted(gap))
            while (request := await context.read()) is not grpc.aio.EOF:
                if not request.HasField("report"):
                    raise Refusal("after the identity, every message is a report", reason="ARGUMENT_INVALID")
                directives = core.report(host.host_id, session, views.report_of(request.report), desk.clock())
                if directives is None:
                    await context.abort(grpc.StatusCode.ABORTED, f"{host.host_id} registered anew")
                    return
                if self._page is not None:
                    self._page.hear(host.name or host.host_id, request.report)
                for told_once in (
                    "failures",
                    "watched",
                ):  # for the page, and for nobody who looks at the fleet
                    request.report.ClearField(told_once)
                said[host.host_id] = (identity, request.report)
                self._losses.heard(host.host_id)
                desk.moved()
                if core.freed:
                    desk.freed()
                answer = self._answer(host.host_id, request.report.sequence, directives)
                if keys is not self._signer.public_keys:
                    keys = self._signer.public_keys
                    answer.lease_keys.extend(keys)
                if not 0.75 * gap <= (now_right := self._gap()) <= 1.25 * gap:
                    gap = now_right
                    answer.report_gap.FromNanoseconds(int(gap * 1e9))
                await context.write(answer)
        finally:
            gone = core.disconnected(host.host_id, session, desk.clock())
            desk.moved()
            if self._sessions.contexts.get(host.host_id) is context:
                del self._sessions.contexts[host.host_id]
            _log.info("a host has left" if gone else "a host is silent", extra={"host": host.host_id})

    async def GetFleet(self, request: fleet_pb2.GetFleetRequest, context: Any) -> fleet_pb2.GetFleetResponse:
        """The picture now."""
        await self._gate.check(context)
        return fleet_pb2.GetFleetResponse(fleet=self._picture())

    async def WatchFleet(
        self, request: fleet_pb2.WatchFleetRequest, context: Any
    ) -> AsyncIterator[fleet_pb2.WatchFleetResponse]:
        """The picture now, and again at every interval."""
        await self._gate.check(context)
        interval = request.interval.ToNanoseconds() / 1e9 if request.HasField("interval") else 1.0
        if not _LEAST_WATCH <= interval <= 3600:
            raise Refusal(f"interval must be 100 ms to 1 h; got {interval:g} s", reason="ARGUMENT_INVALID")
        gap = request.gap.ToNanoseconds() / 1e9 if request.HasField("gap") else interval
        if not _LEAST_GAP <= gap <= interval:
            raise Refusal(f"gap must be 50 ms to the interval; got {gap:g} s", reason="ARGUMENT_INVALID")
        with self._desk.watch() as changed:
            while True:
                changed.clear()
                yield fleet_pb2.WatchFleetResponse(fleet=self._picture(brief=request.brief))
                least = min(interval, max(gap, _GAP_EACH * len(self._desk.core.ledger.hosts)))
                await asyncio.sleep(least)
                if least < interval:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(interval - least):
                            await changed.wait()

    async def Drain(self, request: fleet_pb2.DrainRequest, context: Any) -> fleet_pb2.DrainResponse:
        """Tell a host to drain."""
        await self._order(request.host_id, True, context)
        return fleet_pb2.DrainResponse()

    async def CancelDrain(
        self, request: fleet_pb2.CancelDrainRequest, context: Any
    ) -> fleet_pb2.CancelDrainResponse:
        """Tell a host to take its drain back."""
        await self._order(request.host_id, False, context)
        return fleet_pb2.CancelDrainResponse()

    async def Forget(self, request: fleet_pb2.ForgetRequest, context: Any) -> fleet_pb2.ForgetResponse:
        """Whoever runs hosts says that one is gone for good."""
        await self._gate.check(context)
        if not self._desk.core.gone(request.host_id, self._desk.clock()):
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"host {request.host_id!r} is heard: it is not gone"
            )
        _log.info("a host is said to be gone", extra={"host": request.host_id})
        return fleet_pb2.ForgetResponse()

    async def ReportLoss(
        self, request: fleet_pb2.ReportLossRequest, context: Any
    ) -> fleet_pb2.ReportLossResponse:
        """A witness tells how its host ended."""
        await self._gate.check(context, registers=True)
        lost = request.cause != placement_pb2.LOSS_CAUSE_ALIVE
        _log.info(
            "its witness speaks of a host", extra={"host": request.host_id, "why": request.message[:300]}
        )
        self._losses.report(request.host_id, request.cause, request.message[:300])
        self._desk.core.ledger.suspend(request.host_id, lost)
        return fleet_pb2.ReportLossResponse()

    async def _order(self, host_id: str, drain: bool, context: Any) -> None:
        await self._gate.check(context)
        if not self._desk.core.order_drain(host_id, drain, self._desk.clock()):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no host {host_id!r} is known here")

    def _picture(self, *, brief: bool = False) -> fleet_pb2.Fleet:
        return views.fleet(self._desk.core, self._sessions.said, self._desk.clock(), brief=brief)

    def _gap(self) -> float:
        least, for_each = _GAP
        return min(self._report_interval, max(least, for_each * len(self._desk.core.ledger.hosts)))

    def _greeted(self, gap: float) -> fleet_pb2.RegisterResponse:
        greeting = fleet_pb2.RegisterResponse(
            lease_keys=self._signer.public_keys, pass_required=self._authenticator.required
        )
        greeting.report_interval.FromNanoseconds(int(self._report_interval * 1e9))
        greeting.report_gap.FromNanoseconds(int(gap * 1e9))
        self._tell_revoked(greeting)
        return greeting

    def _tell_revoked(self, answer: fleet_pb2.RegisterResponse) -> None:
        authenticator = self._authenticator
        if authenticator.required:
            answer.revoked_tenants.extend(sorted(authenticator.revoked_tenants(self._desk.core.ledger.held)))
            answer.revoked_credentials.extend(sorted(authenticator.revoked_credentials))

    def _answer(self, host_id: str, sequence: int, directives: Directives) -> fleet_pb2.RegisterResponse:
        answer = fleet_pb2.RegisterResponse(acknowledged=sequence)
        if self._page is not None and len(self._page.watches):
            answer.watches.extend(self._page.watches.of_host(host_id))
        for lease_id, keep in directives.recalls.items():
            answer.recalls.add(lease_id=lease_id, keep=keep)
        if directives.drain is not None:
            answer.drain_order = (
                fleet_pb2.DRAIN_ORDER_DRAIN if directives.drain else fleet_pb2.DRAIN_ORDER_CANCEL
            )
        self._tell_revoked(answer)
        return answer

    async def _supersede(self, host_id: str, context: Any) -> None:
        """End the session that this host had, if any; only the newest one counts."""
        old = self._sessions.contexts.get(host_id)
        self._sessions.contexts[host_id] = context
        if old is not None:
            with contextlib.suppress(grpc.aio.AbortError, grpc.aio.UsageError, asyncio.InvalidStateError):
                await old.abort(grpc.StatusCode.ABORTED, f"{host_id} registered anew")
