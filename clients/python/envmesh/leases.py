"""Slots for episodes: taken from the broker in bulk, used for one episode after another, given back in the end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
from google.protobuf import duration_pb2

from envmesh import errors
from envmesh.errors import Backpressure, DeadlineExceeded, EnvmeshError, MeshUnavailable
from envmesh.slot import LeaseBinding, Slot
from envmesh.slot_line import Ask, Line
from envmesh.stream import HostConnection
from envmesh.traces import with_traceparent
from envmesh.v1 import placement_pb2

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["LeasePool"]

log = logging.getLogger("envmesh.client")

REFUSED_PAUSE = 0.1
RETRY_AFTER_LIMIT = 1.0
RELOCATION_CONNECT_SECONDS = 3.0
"""An episode that lost its host does not wait longer for another one to answer."""
UNREACHED_SECONDS = 3.0
"""A host that did not answer is asked again no sooner."""
AVOIDING_SECONDS = 2
"""A request that names hosts to avoid waits no longer before it asks again: they may be fine by then."""
GATEWAY_SECONDS, GATEWAY_PAUSE = 6.0, 0.2
"""How long, and how often, a gateway is asked for a host that it does not know yet; a lease is good for 10 s."""


class LeasePool:
    """The slots a client holds for one environment, and those who wait for one."""

    def __init__(self, mesh: Mesh, environment: str):
        self._mesh = mesh
        self.environment = environment
        self._idle: deque[Slot] = deque()
        self._line: Line[Slot] = Line(environment, lambda: self.queued, relocation=False)
        self._relocations: Line[Slot] = Line(environment, lambda: self.queued, relocation=True)
        self._placing = False
        self._bindings: set[LeaseBinding] = set()
        self._ids = itertools.count(1)
        self.queued = ""
        self.last_error: EnvmeshError | None = None

    # ---- taking and giving

    async def take(self, timeout: float, traceparent: str = "") -> Slot:
        """A slot, as soon as one is there, for an episode whose trace that is.

        Raises:
            NotFound: no such environment. Backpressure: the queue is full, or beyond quota, for ``timeout`` seconds.
            MeshUnavailable: nobody answers for so long. DeadlineExceeded: none came free for so long.
        """
        slot = self.take_idle()
        if slot is not None:
            return slot
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Slot] = loop.create_future()
        self._line.waiters.append(waiter)
        self._line.traceparent = traceparent or self._line.traceparent
        self._place_soon()
        taken = False
        try:
            await asyncio.wait((waiter,), timeout=timeout)
            if not waiter.done():
                raise self._patience_ended(timeout)
            if waiter.cancelled():
                raise MeshUnavailable("the client was closed while a slot was waited for")
            taken = True
            return waiter.result()
        finally:
            if waiter in self._line.waiters:
                self._line.left(waiter)
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None and not taken:
                self.give(waiter.result())

    def take_idle(self) -> Slot | None:
        """A slot that is there already, or None."""
        while self._idle:
            slot = self._idle.pop()
            if slot.usable:
                return slot
        return None

    def want(
        self, count: int, on_slot: Callable[[Slot], None], on_error: Callable[[EnvmeshError], None], *,
        relocation: bool = False,
    ) -> list[asyncio.Future[Slot]]:  # fmt: skip
        """Ask for many slots without waiting; ``on_slot`` is called for each as it comes. Who does not want one any
        more cancels its future. A ``relocation`` goes before all others."""
        line = self._relocations if relocation else self._line
        waiters: list[asyncio.Future[Slot]] = []
        loop = asyncio.get_running_loop()

        def arrived(future: asyncio.Future[Slot]) -> None:
            if future.cancelled():
                line.left(future)
                return
            error = future.exception()
            if isinstance(error, EnvmeshError):
                on_error(error)
            elif error is None:
                on_slot(future.result())

        for _ in range(count):
            slot = self._take_idle_for_relocation() if relocation else self.take_idle()
            waiter: asyncio.Future[Slot] = loop.create_future()
            waiter.add_done_callback(arrived)
            waiters.append(waiter)
            if slot is not None:
                waiter.set_result(slot)
            else:
                line.waiters.append(waiter)
        self._place_soon()
        return waiters

    def give(self, slot: Slot) -> None:
        """The slot is free for the next episode."""
        slot.close_over()
        if slot.usable and not self._serves_relocation(slot) and not self._line.serve(slot):
            self._idle.append(slot)

    def _serves_relocation(self, slot: Slot) -> bool:
        """Whether an episode without a host takes the slot."""
        return any(
            pool._relocations.serve(slot)
            for pool in self._mesh.pools_of_slots()
            if pool._relocations.waiters and pool._may_relocate_to(slot)
        )

    def _take_idle_for_relocation(self) -> Slot | None:
        """A slot that is there already, under whatever name, or None."""
        for pool in self._mesh.pools_of_slots():
            for slot in reversed(pool._idle):
                if slot.usable and self._may_relocate_to(slot):
                    pool._idle.remove(slot)
                    return slot
        return None

    def _may_relocate_to(self, slot: Slot) -> bool:
        """Whether the slot is one for episodes without a host that wait here. They ask for their very version, whatever
        name they were begun by; and what has failed them on a host must not be tried again there at once."""
        spec = slot.binding.spec
        serves = spec is not None and spec.key == self.environment
        return serves and slot.connection.host_id not in self._mesh.recovery.avoided()

    def bound(self, binding: LeaseBinding, idle: int) -> None:
        """A lease was shown; ``idle`` of its slots are free."""
        self._bindings.add(binding)
        for _ in range(idle):
            self.give(Slot(binding))

    def slots_returned(self, connection: HostConnection, number: int, count: int) -> None:
        """The host took idle slots of a lease back, under whatever names they lie here. A lease that gives none any
        more is forgotten."""
        binding = next((each for each in self.bindings_on(connection) if each.number == number), None)
        if binding is None:
            return
        pools = self._mesh.pools_of_slots()
        idle = (slot for pool in pools for slot in pool._idle if slot.binding is binding)
        gone = set(itertools.islice(idle, count))
        for pool in pools:
            pool._idle = deque(slot for slot in pool._idle if slot not in gone)
        binding.count -= count
        if binding.count <= 0:
            self._bindings.discard(binding)
            connection.unbind(number)

    def bindings_on(self, connection: HostConnection) -> list[LeaseBinding]:
        """The leases shown on a connection."""
        return [binding for binding in self._bindings if binding.connection is connection]

    def forget_idle(self, connection: HostConnection) -> None:
        """A host drains, and has taken its idle slots back."""
        self._idle = deque(slot for slot in self._idle if slot.connection is not connection)

    def forget(self, connection: HostConnection) -> None:
        """A host is lost: its slots are no use any more."""
        self.forget_idle(connection)
        self._bindings = {binding for binding in self._bindings if binding.connection is not connection}

    def turn_away(self) -> None:
        """The client closes: whoever waits is not given the slots that come free by that."""
        self._line.turn_away()
        self._relocations.turn_away()

    async def leave_off(self) -> None:
        """Nobody waits any more: what is still asked for is called off, before any slot goes back. The slots would
        else be granted to this very client, which is about to go, and nobody would have them for a while."""
        await asyncio.gather(self._line.leave_off(), self._relocations.leave_off())

    def close(self) -> None:
        """All idle slots go back."""
        counts: dict[LeaseBinding, int] = {}
        while self._idle:
            binding = self._idle.pop().binding
            assert isinstance(binding, LeaseBinding)
            counts[binding] = counts.get(binding, 0) + 1
        for binding, count in counts.items():
            if binding.connection.lost is None:
                binding.give_back(count)

    # ---- asking

    def _place_soon(self) -> None:
        if not self._placing:
            self._placing = True
            asyncio.get_running_loop().call_soon(self._place)

    def _place(self) -> None:
        self._placing = False
        for line in (self._relocations, self._line):
            wanted = line.waiting - line.asked
            if wanted > 0:
                line.watch()
                name = f"envmesh-acquire-{self.environment}-{next(self._ids)}"
                ask = Ask(wanted)
                line.begin(ask, self._mesh.spawn(self._acquire(line, ask), name=name))

    async def _acquire(self, line: Line[Slot], ask: Ask) -> None:
        """Ask for slots until they have come or nobody wants them any more."""
        backoff = REFUSED_PAUSE
        again = False
        traces, own = self._mesh.traces, None
        traceparent, line.traceparent = line.traceparent, ""
        if traces is not None and not traceparent:
            own, traceparent = traces.acquire(self.environment, ask.remaining, line.relocation)
        try:
            while ask.remaining > 0 and line.waiting:
                if line.relocation and (slot := self._take_idle_for_relocation()) is not None:
                    line.serve(slot)  # its host is not to be avoided any more
                    ask.remaining -= 1
                    continue
                try:
                    async with aclosing(self._grants(line, ask.remaining, traceparent, again)) as grants:
                        async for grant in grants:
                            got = await self._show_all(line, grant, traceparent if own is not None else "")
                            ask.remaining -= got
                            backoff = REFUSED_PAUSE
                    again = True
                    if ask.remaining > 0:
                        await asyncio.sleep(backoff)
                except (Backpressure, MeshUnavailable, DeadlineExceeded) as error:
                    self.last_error = error
                    self.queued = str(error)
                    await asyncio.sleep(min(RETRY_AFTER_LIMIT, error.retry_after or backoff))
                    backoff = min(RETRY_AFTER_LIMIT, backoff * 2)
                except EnvmeshError as error:
                    self._fail(line, error)
                    return
        finally:
            if own is not None:
                own.end()

    async def _grants(self, line: Line[Slot], count: int, traceparent: str, again: bool):  # type: ignore[no-untyped-def]
        avoided = self._mesh.recovery.avoided()
        request = placement_pb2.AcquireRequest(
            environment=self.environment,
            count=count,
            mode=placement_pb2.ACQUIRE_MODE_PARTIAL,
            group_size=1,
            timeout=duration_pb2.Duration(seconds=AVOIDING_SECONDS if avoided else 3600),
            client_id=self._mesh.client_id,
            relocation=line.relocation,
            avoid_hosts=avoided,
            retried=again,
        )
        metadata = with_traceparent(self._mesh.metadata, traceparent)
        call = self._mesh.placement.Acquire(request, metadata=metadata)
        try:
            async for response in call:
                if response.WhichOneof("event") == "grant":
                    self.queued = ""
                    yield response.grant
                    if not line.waiting:
                        return
                else:
                    status = response.queued
                    self.queued = f"{status.position} requests go first; {status.reason}"
        except grpc.aio.AioRpcError as error:
            if avoided and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return  # to ask again, and name whom to avoid by then
            raise errors.from_rpc_error(error) from None
        finally:
            call.cancel()

    async def _show_all(self, line: Line[Slot], grant: placement_pb2.Grant, acquired: str) -> int:
        """Show the leases of a grant to their hosts. Returns how many slots came of it."""
        return sum(await asyncio.gather(*(self._show(line, lease, acquired) for lease in grant.leases)))

    async def _show(self, line: Line[Slot], lease: placement_pb2.Lease, acquired: str) -> int:
        """Show a lease to its host. Returns how many slots it gives: none where the host refuses or cannot be
        reached."""
        self._mesh.links.learn(lease.address, lease.server_name, lease.metadata)
        patience = self._mesh.settings.connect_timeout
        if line.relocation:
            patience = min(patience, RELOCATION_CONNECT_SECONDS)
        metadata = tuple((entry.key, entry.value) for entry in lease.metadata)
        try:
            async with asyncio.timeout(patience):
                connection = await self._reach(lease, metadata)
                binding = LeaseBinding(self, connection, lease.token)
                binding.acquired = acquired
                count = await binding.show()
        except (EnvmeshError, TimeoutError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, EnvmeshError):
                error = MeshUnavailable(f"host {lease.address} did not take a lease within {patience:g} s")
            if isinstance(error, MeshUnavailable):
                self._mesh.recovery.avoid(lease.host_id, UNREACHED_SECONDS)
            log.info("host %s did not take a lease: %s", lease.address, error)
            self.last_error = error
            return 0
        self.bound(binding, count)
        return count

    async def _reach(
        self, lease: placement_pb2.Lease, metadata: tuple[tuple[str, str], ...]
    ) -> HostConnection:
        """The connection to the host of a lease. A gateway hears of a new host a moment later than the broker: it is
        asked again for a while, as long as the lease may still be shown.

        Raises:
            MeshUnavailable, EnvmeshError: as ``Mesh.connection``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + (GATEWAY_SECONDS if self._mesh.links.way(metadata) else 0.0)
        while True:
            try:
                return await self._mesh.connection(lease.address, lease.host_id, metadata)
            except MeshUnavailable:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(GATEWAY_PAUSE)

    def _fail(self, line: Line[Slot], error: EnvmeshError) -> None:
        waiters, line.waiters = line.waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _patience_ended(self, waited: float) -> EnvmeshError:
        what = f"no slot of {self.environment} within {round(waited, 2):g} s"
        error = self.last_error
        if isinstance(error, Backpressure | MeshUnavailable):
            return type(error)(f"{what}: {error}", reason=error.reason)
        return DeadlineExceeded(f"{what}: {self.queued or 'no answer yet'}")
