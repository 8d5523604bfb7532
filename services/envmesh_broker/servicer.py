"""PlacementService, as the broker answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import placement_pb2, placement_pb2_grpc
from envmesh_broker import views
from envmesh_broker.authentication import Authenticator
from envmesh_broker.core import Refused
from envmesh_broker.desk import Desk, Ticket
from envmesh_broker.fleet import Sessions
from envmesh_broker.gateways import gateway_of
from envmesh_broker.losses import Losses
from envmesh_broker.meters import Meters
from envmesh_broker.reservations import Reservation
from envmesh_broker.scheduler import Decision
from envmesh_broker.traced import BrokerTraces, placing_of
from envmesh_service.asks import Ask, read_ask, read_reservation
from envmesh_service.clock import Clock
from envmesh_service.credentials import Caller
from envmesh_service.leases import LeaseSigner, LeaseVerifier
from envmesh_service.passes import pass_entry

__all__ = ["Placement"]

MOST_EXPLAINING = 5.0
MOST_HOST_ID = 200
"""Characters of a host's id: a longer one is no host's, and would be kept for as long as its caller waits."""
MOST_RELEASED = 1_000
"""So many leases are given back in one call: each is a signature to be checked, on the loop that everybody shares."""


class Placement(placement_pb2_grpc.PlacementServiceServicer):
    """Gives out slots."""

    def __init__(
        self,
        desk: Desk,
        sessions: Sessions,
        authenticator: Authenticator,
        signer: LeaseSigner,
        meters: Meters,
        losses: Losses,
        *,
        wall: Clock,
        status_interval: float = 5.0,
        traces: BrokerTraces | None = None,
    ) -> None:
        self._traces = traces
        self._desk, self._sessions, self._authenticator = desk, sessions, authenticator
        self._signer = signer
        self._meters, self._losses, self._wall = meters, losses, wall
        self._status_interval = status_interval

    async def Acquire(
        self, request: placement_pb2.AcquireRequest, context: Any
    ) -> AsyncIterator[placement_pb2.AcquireResponse]:
        """Grant slots as they come free; tell the place in the queue meanwhile."""
        metadata = context.invocation_metadata() or ()
        caller = await self._authenticator.caller(metadata)
        tenant, ask, gateway = caller.tenant, read_ask(request), gateway_of(metadata)
        desk, core = self._desk, self._desk.core
        entered = desk.clock()
        warm = core.has_room(ask.environment, ask.count)
        waiting = core.ask(
            entered,
            tenant,
            ask.environment,
            ask.count,
            whole=ask.whole,
            group_size=ask.group_size,
            priority=ask.priority,
            client_id=ask.client_id,
            relocation=ask.relocation,
            retried=ask.retried,
            avoid=ask.avoid,
        )
        if isinstance(waiting, Refused):
            raise self._refusal(waiting)
        self._meters.asked(tenant)
        granted = 0
        metadata = context.invocation_metadata() or ()
        with desk.enter(waiting) as ticket, placing_of(self._traces, metadata, ask, tenant) as placing:
            await ticket.wait(self._status_interval)  # the pass at the end of this turn of the loop
            while True:
                while ticket.news:
                    news = ticket.news.popleft()
                    if isinstance(news, Refused):
                        raise self._refusal(news)
                    grant = self._grant(news, caller, gateway)
                    self._meters.granted(tenant, news, desk.clock() - entered, warm)
                    granted += ask.count - news.remaining - granted
                    placing.granted(grant)
                    yield placement_pb2.AcquireResponse(grant=grant)
                    if news.remaining == 0:
                        return
                left = entered + ask.timeout - desk.clock()
                if left <= 0:
                    if granted and not ask.timeout:
                        return
                    raise self._too_late(ticket, ask, granted)
                self._authenticator.check_standing(caller)
                status = self._status(ticket, entered)
                placing.queued(status)
                yield placement_pb2.AcquireResponse(queued=status)
                await ticket.wait(min(self._status_interval, left))

    async def Release(
        self, request: placement_pb2.ReleaseRequest, context: Any
    ) -> placement_pb2.ReleaseResponse:
        """Take back what was never shown."""
        tenant = (await self._authenticator.caller(context.invocation_metadata() or ())).tenant
        if len(request.tokens) > MOST_RELEASED:
            raise Refusal(
                f"tokens has {len(request.tokens):,} leases; at most {MOST_RELEASED:,} in one call are right",
                reason="ARGUMENT_INVALID",
            )
        verifier = LeaseVerifier(self._signer.public_keys)
        leases = [verifier.authentic(token) for token in request.tokens]
        if any(claims.tenant != tenant for claims in leases):
            raise Refusal("the lease is another tenant's", reason="NOT_YOURS")
        for claims in leases:
            if self._desk.core.release(tenant, claims.host_id, claims.lease_id):
                self._desk.freed()
        return placement_pb2.ReleaseResponse()

    async def ListPools(
        self, request: placement_pb2.ListPoolsRequest, context: Any
    ) -> placement_pb2.ListPoolsResponse:
        """The pools and what they serve."""
        metadata = context.invocation_metadata() or ()
        caller = await self._authenticator.caller(metadata)
        gateway, now = gateway_of(metadata), self._desk.clock()
        pools = views.pools(self._desk.core, self._sessions.pools, now, gateway)
        passes = [pass_entry(self._signer, caller, self._wall())]
        return placement_pb2.ListPoolsResponse(pools=pools, metadata=passes)

    async def Reserve(
        self, request: placement_pb2.ReserveRequest, context: Any
    ) -> placement_pb2.ReserveResponse:
        """Note what a client will hold."""
        caller = await self._authenticator.caller(context.invocation_metadata() or ())
        wish, now = read_reservation(request), self._desk.clock()
        refused = self._desk.core.reserve(
            Reservation(
                reservation_id=wish.reservation_id,
                tenant=caller.tenant,
                environment=wish.environment,
                slots=wish.slots,
                client_id=wish.client_id,
                starts_at=now + wish.starts_in,
                ends_at=now + wish.starts_in + wish.lasts,
            ),
            now,
        )
        if refused is not None:
            raise self._refusal(refused)
        self._desk.moved()
        return placement_pb2.ReserveResponse()

    async def ExplainLoss(
        self, request: placement_pb2.ExplainLossRequest, context: Any
    ) -> placement_pb2.ExplainLossResponse:
        """Why a host was lost."""
        caller = await self._authenticator.caller(context.invocation_metadata() or ())
        if not 0 < len(request.host_id) <= MOST_HOST_ID:
            raise Refusal(
                f"host_id has 1 to {MOST_HOST_ID} characters; got {len(request.host_id):,}",
                reason="ARGUMENT_INVALID",
            )
        timeout = request.timeout.ToNanoseconds() / 1e9
        if not 0 <= timeout <= MOST_EXPLAINING:
            raise Refusal(
                f"timeout must be 0 to {MOST_EXPLAINING:g} s; got {timeout:g} s", reason="ARGUMENT_INVALID"
            )
        verdict = await self._losses.explain(caller.tenant, request.host_id, timeout)
        return placement_pb2.ExplainLossResponse(cause=verdict.cause, message=verdict.message)  # type: ignore[arg-type]

    def _grant(self, decision: Decision, caller: Caller, gateway: str) -> placement_pb2.Grant:
        entry = pass_entry(self._signer, caller, self._wall())
        hosts = self._desk.core.ledger.hosts
        # It counts as long as the ledger keeps the slots for it, however late its client reads it.
        ahead = self._wall() - self._desk.clock()
        return placement_pb2.Grant(
            leases=[
                views.lease(
                    grant, hosts[grant.host_id].host, self._signer, ahead + grant.lapses_at, entry, gateway
                )
                for grant in decision.grants
                if grant.host_id in hosts
            ],
            remaining=decision.remaining,
        )

    def _status(self, ticket: Ticket, entered: float) -> placement_pb2.QueueStatus:
        core, now = self._desk.core, self._desk.clock()
        status = placement_pb2.QueueStatus(
            position=core.position(ticket.waiting),
            remaining=ticket.waiting.remaining,
            reason=core.reason(ticket.waiting, now),
        )
        status.waited.FromNanoseconds(int((now - entered) * 1e9))
        return status

    def _too_late(self, ticket: Ticket, ask: Ask, granted: int) -> Refusal:
        core = self._desk.core
        self._meters.refused("COMMAND_DEADLINE" if ask.timeout else "NO_CAPACITY")
        why = core.reason(ticket.waiting, self._desk.clock())
        place = f"position {core.position(ticket.waiting)} of {len(core.queue)} in the queue"
        if ask.timeout:
            message = f"waited {ask.timeout:g} s; {granted} of {ask.count} slots were granted: {why}; {place}"
            return Refusal(message, reason="COMMAND_DEADLINE")
        reason = "QUOTA_EXCEEDED" if why.startswith("held back") else "NO_CAPACITY"
        return Refusal(f"{why}; {place}", reason=reason, retry_after=core.retry_after(len(core.queue)))

    def _refusal(self, refused: Refused) -> Refusal:
        self._meters.refused(refused.reason)
        return Refusal(refused.message, reason=refused.reason, retry_after=refused.retry_after)
