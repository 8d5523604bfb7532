"""PlacementService of a host alone: it gives out its own slots, in the order in which it was asked."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2

from envmesh.errors import Refusal
from envmesh.v1 import placement_pb2 as pb
from envmesh.v1 import placement_pb2_grpc
from envmesh_host.engine import Engine
from envmesh_host.slots import Claim
from envmesh_service.leases import LEASE_VALIDITY, LeaseSigner, LeaseVerifier

__all__ = ["SelfPlacement"]

DEFAULT_WAIT, MAX_WAIT = 600.0, 86400.0
MAX_COUNT = 100_000
MAX_QUEUE = 10_000
STATUS_SECONDS = 5.0


class SelfPlacement(placement_pb2_grpc.PlacementServiceServicer):
    """Gives out the slots of one engine."""

    def __init__(
        self,
        engine: Engine,
        signer: LeaseSigner,
        host_id: str,
        address: Callable[[], str],
        pool: str,
        *,
        tenant_of: Callable[[Any], str] = lambda context: "default",
    ):
        self._engine = engine
        self._signer = signer
        self._host_id = host_id
        self._address = address
        self._pool = pool
        self._tenant_of = tenant_of
        self._queue: deque[object] = deque()
        self._freed = asyncio.Event()
        engine.on_slot_freed = self._freed.set

    async def Acquire(self, request: pb.AcquireRequest, context: Any) -> AsyncIterator[pb.AcquireResponse]:
        """Grant slots as they are free, first come, first served."""
        environment = self._engine.environment(request.environment)
        remaining, step = self._checked(request)
        wait = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else DEFAULT_WAIT
        loop = asyncio.get_running_loop()
        started, told = loop.time(), float("-inf")
        place = object()
        self._queue.append(place)
        try:
            while True:
                if self._queue[0] is place:
                    count = min(remaining, self._engine.slots.free(environment.key)) // step * step
                    if count:
                        remaining -= count
                        lease = self._lease(count, environment.key, self._tenant_of(context), request.client_id)
                        yield pb.AcquireResponse(grant=pb.Grant(leases=[lease], remaining=remaining))
                    if not remaining:
                        return
                waited = loop.time() - started
                if waited >= min(wait, MAX_WAIT):
                    reason = "NO_CAPACITY" if wait == 0 else "COMMAND_DEADLINE"
                    raise Refusal(
                        f"{remaining} slots of {environment.key} were not free within {wait:g} s",
                        reason=reason, retry_after=1.0,
                    )  # fmt: skip
                if waited - told >= STATUS_SECONDS or told < 0:
                    told = waited
                    yield self._status(self._queue.index(place), remaining, waited)
                await self._change(min(STATUS_SECONDS, wait - waited))
        finally:
            self._queue.remove(place)
            self._freed.set()

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:
        """Take back leases that were never shown."""
        verifier = LeaseVerifier(self._signer.public_keys)
        for token in request.tokens:
            claims = verifier.authentic(token)
            holding = self._engine.slots.holding(claims.lease_id)
            if holding is not None and holding.lapses_at is not None:
                self._engine.slots.give_back(holding, 0)
        self._freed.set()
        return pb.ReleaseResponse()

    async def ListPools(self, request: pb.ListPoolsRequest, context: Any) -> pb.ListPoolsResponse:
        """The one pool of the one host."""
        engine = self._engine
        pool = pb.Pool(
            name=self._pool,
            environments=[hosted.info for _, hosted in sorted(engine.hosted.items())],
            ready_hosts=0 if engine.draining else 1,
            slots=engine.slots.slots,
            leased=engine.slots.held,
            address=self._address(),
            queued=len(self._queue),
        )
        return pb.ListPoolsResponse(pools=[pool])

    def _checked(self, request: pb.AcquireRequest) -> tuple[int, int]:
        count, group = request.count, max(1, request.group_size)
        if not 1 <= count <= MAX_COUNT:
            raise Refusal(f"count is 1 to {MAX_COUNT}; got {count}", reason="ARGUMENT_INVALID")
        if count % group:
            raise Refusal(f"group_size {group} does not divide count {count}", reason="ARGUMENT_INVALID")
        step = count if request.mode == pb.ACQUIRE_MODE_ALL else group
        if step > self._engine.slots.slots:
            raise Refusal(
                f"{step} slots at once can never be had: this host has {self._engine.slots.slots}",
                reason="GANG_IMPOSSIBLE",
            )
        if self._engine.draining:
            raise Refusal("this host drains", reason="DRAINING")
        if len(self._queue) >= MAX_QUEUE:
            raise Refusal(
                f"{len(self._queue)} requests wait already; this would be the next", reason="QUEUE_FULL", retry_after=1.0
            )
        return count, step

    def _lease(self, count: int, environment: str, tenant: str, client_id: bytes) -> pb.Lease:
        engine = self._engine
        lease_id = secrets.token_bytes(16)
        claim = Claim(lease_id=lease_id, tenant=tenant, environment=environment, count=count, client_id=client_id)
        now = engine.clock()
        engine.slots.grant(claim, now, now + LEASE_VALIDITY)
        until = time.time() + LEASE_VALIDITY
        claims = pb.LeaseClaims(
            lease_id=lease_id, tenant=tenant, host_id=self._host_id, environment=environment, count=count,
            show_before=timestamp_pb2.Timestamp(seconds=int(until), nanos=int(until % 1 * 1e9)),
        )  # fmt: skip
        return pb.Lease(
            lease_id=lease_id, token=self._signer.sign(claims), host_id=self._host_id, address=self._address(),
            count=count, environment=environment,
        )  # fmt: skip

    def _status(self, position: int, remaining: int, waited: float) -> pb.AcquireResponse:
        slots = self._engine.slots
        return pb.AcquireResponse(
            queued=pb.QueueStatus(
                position=position,
                remaining=remaining,
                waited=duration_pb2.Duration(seconds=int(waited), nanos=int(waited % 1 * 1e9)),
                reason=f"{slots.held} of {slots.slots} slots of this host are leased ({slots.in_use} in use)",
            )
        )

    async def _change(self, timeout: float) -> None:
        self._freed.clear()
        try:
            async with asyncio.timeout(max(0.01, timeout)):
                await self._freed.wait()
        except TimeoutError:
            return
