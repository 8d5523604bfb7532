"""PlacementService of a host alone: it gives out its own slots, in the order in which it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import placement_pb2 as pb
from envmesh.v1 import placement_pb2_grpc
from envmesh_host.engine import Engine
from envmesh_host.slots import Claim
from envmesh_service.asks import Ask, read_ask, read_reservation
from envmesh_service.credentials import ANYBODY, Caller, Metadata
from envmesh_service.leases import LEASE_VALIDITY, LeaseSigner, LeaseVerifier
from envmesh_service.passes import pass_entry

__all__ = ["SelfPlacement"]

MAX_QUEUE = 10_000
STATUS_SECONDS = 5.0
MOST_RELEASED = 1000
"""Leases in one Release: the signature of each is checked in the loop's thread."""


class SelfPlacement(placement_pb2_grpc.PlacementServiceServicer):
    """Gives out the slots of one engine. There is one queue, and nobody in it is overtaken, so a gang is not starved;
    relocations and retried requests come before new ones. Only who waits for a slot of an environment that is bounded
    to fewer than the host has keeps nobody from the slots of others."""

    def __init__(
        self,
        engine: Engine,
        signer: LeaseSigner,
        host_id: str,
        address: Callable[[], str],
        pool: str,
        *,
        server_name: str = "",
        caller_of: Callable[[Metadata], Caller] = lambda metadata: ANYBODY,
    ):
        self._engine = engine
        self._signer = signer
        self._host_id = host_id
        self._address = address
        self._pool = pool
        self._server_name = server_name
        self._caller_of = caller_of
        self._queue: deque[_Place] = deque()
        engine.on_slot_freed = self._wake

    async def Acquire(self, request: pb.AcquireRequest, context: Any) -> AsyncIterator[pb.AcquireResponse]:
        """Grant slots as they are free, first come, first served."""
        caller = self._caller(context)
        ask = read_ask(request)
        environment = self._engine.environment(ask.environment).key
        self._judge(ask, environment)
        loop = asyncio.get_running_loop()
        place = _Place(ask, environment, loop.time())
        self._enter(place)
        told = float("-inf")
        try:
            while True:
                place.changed.clear()
                count = self._grantable(place)
                if count:
                    place.remaining -= count
                    lease = self._lease(count, environment, caller, ask)
                    yield pb.AcquireResponse(grant=pb.Grant(leases=[lease], remaining=place.remaining))
                if not place.remaining:
                    return
                now = loop.time()
                left = place.entered_at + ask.timeout - now
                if left <= 0:
                    if not ask.timeout and place.remaining < ask.count:
                        return
                    raise self._too_late(place)
                if now - told >= STATUS_SECONDS:
                    told = now
                    yield pb.AcquireResponse(queued=self._status(place, now))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(STATUS_SECONDS, left)):
                        await place.changed.wait()
        finally:
            self._queue.remove(place)
            self._wake()

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:
        """Take back leases that were never shown."""
        if len(request.tokens) > MOST_RELEASED:
            raise Refusal(
                f"tokens has {len(request.tokens):,} leases; at most {MOST_RELEASED:,} in one call are right",
                reason="ARGUMENT_INVALID",
            )
        tenant, verifier = self._caller(context).tenant, LeaseVerifier(self._signer.public_keys)
        claims = [verifier.authentic(token) for token in request.tokens]
        if any(lease.tenant != tenant for lease in claims):
            raise Refusal("the lease is another tenant's", reason="NOT_YOURS")
        for lease in claims:
            holding = self._engine.slots.holding(lease.lease_id)
            if holding is not None and holding.lapses_at is not None:
                self._engine.slots.give_back(holding, 0)
        self._wake()
        return pb.ReleaseResponse()

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:
        """A host alone has the slots that it has: what they could never be is refused."""
        self._caller(context)
        wish = read_reservation(request)
        self._judge_count(wish.slots, self._engine.environment(wish.environment).key)
        return pb.ReserveResponse()

    async def ListPools(self, request: pb.ListPoolsRequest, context: Any) -> pb.ListPoolsResponse:
        """The one pool of the one host."""
        caller = self._caller(context)
        engine = self._engine
        pool = pb.Pool(
            name=self._pool,
            environments=[hosted.info for _, hosted in sorted(engine.hosted.items())],
            ready_hosts=0 if engine.draining else 1,
            slots=engine.slots.slots,
            leased=engine.slots.held,
            address=self._address(),
            queued=sum(place.remaining for place in self._queue),
            environment_slots=[
                pb.EnvironmentSlots(environment=key, slots=most)
                for key, most in sorted(engine.slots.bounds.items())
            ],
            server_name=self._server_name,
        )
        return pb.ListPoolsResponse(pools=[pool], metadata=[pass_entry(self._signer, caller, time.time())])

    def _caller(self, context: Any) -> Caller:
        return self._caller_of(context.invocation_metadata() or ())

    async def ExplainLoss(self, request: pb.ExplainLossRequest, context: Any) -> pb.ExplainLossResponse:
        """This host is there; it knows of no other."""
        self._caller(context)
        here = request.host_id == self._host_id
        cause = pb.LOSS_CAUSE_ALIVE if here else pb.LOSS_CAUSE_UNSPECIFIED
        return pb.ExplainLossResponse(cause=cause, message="it is here" if here else "nobody knows")

    def _judge_count(self, count: int, environment: str) -> None:
        slots = self._engine.slots
        most = min(slots.slots, slots.bounds.get(environment, slots.slots))
        if count > most:
            raise Refusal(
                f"{count} slots at once can never be had: this host has {most} for {environment}",
                reason="GANG_IMPOSSIBLE",
            )

    def _judge(self, ask: Ask, environment: str) -> None:
        self._judge_count(ask.least, environment)
        if self._engine.draining or self._host_id in ask.avoid:
            raise Refusal(
                "this host drains" if self._engine.draining else "this host is to be avoided",
                reason="DRAINING",
            )
        if len(self._queue) >= MAX_QUEUE:
            raise Refusal(
                f"the queue is full: {len(self._queue)} requests wait; this would be position {len(self._queue)}",
                reason="QUEUE_FULL",
                retry_after=5.0,
            )

    def _enter(self, place: _Place) -> None:
        """Behind everybody of the same rank."""
        index = len(self._queue)
        while index and self._queue[index - 1].rank > place.rank:
            index -= 1
        self._queue.insert(index, place)

    def _grantable(self, place: _Place) -> int:
        """How many slots it may have now: none while somebody before it could use them."""
        if self._engine.draining:
            return 0
        slots = self._engine.slots
        unleased = slots.slots - slots.held
        for before in self._queue:
            if before is place:
                break
            if before.environment == place.environment or unleased < before.ask.least:
                return 0
            if slots.free(before.environment) >= before.ask.least:
                return 0  # it is awake, and takes them first
        step = place.ask.least
        return min(place.remaining, slots.free(place.environment)) // step * step

    def _wake(self) -> None:
        """The first of each environment looks again."""
        woken: set[str] = set()
        for place in self._queue:
            if place.environment not in woken:
                woken.add(place.environment)
                place.changed.set()
            if len(woken) == len(self._engine.hosted):
                return

    def _lease(self, count: int, environment: str, caller: Caller, ask: Ask) -> pb.Lease:
        engine, tenant = self._engine, caller.tenant
        claim = Claim(
            lease_id=secrets.token_bytes(16),
            tenant=tenant,
            environment=environment,
            count=count,
            client_id=ask.client_id,
            relocation=ask.relocation,
        )
        now = engine.clock()
        engine.slots.grant(claim, now, now + LEASE_VALIDITY)
        claims = pb.LeaseClaims(
            lease_id=claim.lease_id,
            tenant=tenant,
            host_id=self._host_id,
            environment=environment,
            count=count,
            relocation=ask.relocation,
        )
        claims.show_before.FromNanoseconds(int((time.time() + LEASE_VALIDITY) * 1e9))
        return pb.Lease(
            lease_id=claim.lease_id,
            token=self._signer.sign(claims),
            host_id=self._host_id,
            address=self._address(),
            count=count,
            environment=environment,
            metadata=[pass_entry(self._signer, caller, time.time())],
            server_name=self._server_name,
        )

    def _status(self, place: _Place, now: float) -> pb.QueueStatus:
        status = pb.QueueStatus(
            position=self._queue.index(place),
            remaining=place.remaining,
            reason=self._reason(place.environment),
        )
        status.waited.FromNanoseconds(int((now - place.entered_at) * 1e9))
        return status

    def _reason(self, environment: str) -> str:
        slots = self._engine.slots
        if environment in slots.bounds and slots.held < slots.slots:
            most = slots.bounds[environment]
            return (
                f"{most - slots.free(environment)} of {most} slots of {environment} on this host are leased"
            )
        return f"{slots.held} of {slots.slots} slots of this host are leased ({slots.in_use} in use)"

    def _too_late(self, place: _Place) -> Refusal:
        where = f"position {self._queue.index(place)} of {len(self._queue)} in the queue"
        if not place.ask.timeout:
            return Refusal(
                f"{self._reason(place.environment)}; {where}", reason="NO_CAPACITY", retry_after=1.0
            )
        granted = place.ask.count - place.remaining
        return Refusal(
            f"waited {place.ask.timeout:g} s for {place.environment}; {granted} of {place.ask.count} slots were "
            f"granted: {self._reason(place.environment)}; {where}",
            reason="COMMAND_DEADLINE",
        )


class _Place:
    """A place in the queue. ``changed``: it may be served now."""

    __slots__ = ("ask", "changed", "entered_at", "environment", "rank", "remaining")

    def __init__(self, ask: Ask, environment: str, entered_at: float) -> None:
        self.ask = ask
        self.environment = environment
        self.remaining = ask.count
        self.entered_at = entered_at
        self.rank = 0 if ask.relocation else 1 if ask.retried else 2
        self.changed = asyncio.Event()
