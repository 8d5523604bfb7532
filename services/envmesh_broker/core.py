"""The broker's mind: ledger, queue and usage together, as one state machine without a clock, a network or a task.

The shell tells it what hosts and clients say, and when time has passed; it answers with decisions. It keeps nothing
that hosts could not tell it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from envmesh_broker.catalog import Catalog, DeclaredPool
from envmesh_broker.fairness import Quotas, Tenant, Usage
from envmesh_broker.hosts import Host, HostState, Report
from envmesh_broker.ledger import Ledger, LedgerBounds
from envmesh_broker.queue import Queue, QueueBounds, Request, Waiting
from envmesh_broker.recalls import Recalls, Want, plan_recalls, plan_retirement
from envmesh_broker.reservations import Missing, Reservation, Reservations
from envmesh_broker.scheduler import Decision, SchedulerBounds, schedule

__all__ = ["Core", "CoreBounds", "Directives", "Refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreBounds:
    """Everything the broker's decisions are bounded by."""

    ledger: LedgerBounds = field(default_factory=LedgerBounds)
    queue: QueueBounds = field(default_factory=QueueBounds)
    scheduler: SchedulerBounds = field(default_factory=SchedulerBounds)
    usage_half_life: float = 600.0
    order_patience: float = 30.0
    """So long a drain order is repeated to a host that does not heed it, in seconds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is not let in, or is sent away. ``reason`` is a name of ErrorReason; ``retry_after`` in seconds."""

    reason: str
    message: str
    retry_after: float | None = None
    arrival: int = 0


@dataclass(frozen=True, slots=True)
class Directives:
    """What a host is told. ``drain`` None: nothing."""

    recalls: Mapping[bytes, int]
    drain: bool | None


class Core:
    """Decides who gets which slots."""

    def __init__(
        self,
        now: float,
        *,
        new_id: Callable[[], bytes],
        tenant: Callable[[str], Tenant] = Tenant,
        pools: Iterable[DeclaredPool] = (),
        bounds: CoreBounds = CoreBounds(),
    ) -> None:
        self.bounds = bounds
        self.ledger = Ledger(now, bounds.ledger)
        self.queue = Queue(bounds.queue)
        self.usage = Usage(now, bounds.usage_half_life)
        self.reservations = Reservations()
        self.catalog = Catalog(self.ledger, pools)
        self.tenant = tenant
        self.quotas = Quotas(self.ledger, tenant)
        self.lapsed = 0
        """Slots whose grants were never shown."""
        self.freed = False
        """Whether a host has had more room since the last pass."""
        self.moved = False
        """Whether a host has come, gone, or changed what it does since somebody last looked."""
        self._new_id = new_id
        self._arrivals = 0
        self._recalls: Recalls = {}
        self._orders: dict[str, tuple[bool, float]] = {}

    def declare(self, pools: Iterable[DeclaredPool]) -> None:
        """These are the declared pools from now on."""
        self.catalog.replace(pools)
        self.moved = True

    # ---- hosts

    def register(self, host: Host, now: float) -> int:
        """A host's session begins; its number is to be given with what the host says."""
        self.moved = True
        return self.ledger.register(host, now)

    def report(self, host_id: str, session: int, report: Report, now: float) -> Directives | None:
        """Take a host's report. Returns what to tell it; None: this session was superseded, or the host forgotten."""
        record = self.ledger.current(host_id, session)
        if record is None:
            return None
        taken = record.load.used if record.placeable else record.host.slots
        self.moved = self.moved or record.report is None or record.report.state is not report.state
        self.ledger.report(record, report, now)
        self.freed = self.freed or (record.load.used < taken and report.state is HostState.READY)
        order = self._orders.get(host_id)
        if order is not None:
            draining = report.state in (HostState.DRAINING, HostState.SEALED)
            if draining == order[0] or now - order[1] > self.bounds.order_patience:
                del self._orders[host_id]
                order = None
                self.ledger.leave(host_id, False)  # from now on its own word counts
        return Directives(self._recalls.get(host_id, {}), order[0] if order is not None else None)

    def disconnected(self, host_id: str, session: int, now: float) -> bool:
        """A host's session is over. Returns whether the host is gone, and not only silent."""
        gone = self.ledger.disconnected(host_id, session, now)
        self.moved = True
        if gone:
            self._orders.pop(host_id, None)
            self._recalls.pop(host_id, None)
        return gone

    def gone(self, host_id: str, now: float) -> bool:
        """Somebody who can tell says that a host is gone for good. False: it is heard, so it is not."""
        gone = self.ledger.gone(host_id, now)
        if gone:
            self.moved = True
            self._orders.pop(host_id, None)
            self._recalls.pop(host_id, None)
        return gone

    def order_drain(self, host_id: str, drain: bool, now: float) -> bool:
        """Tell a host to drain, or to take its drain back, with its next directives. False: it is not known."""
        if host_id not in self.ledger.hosts:
            return False
        self._orders[host_id] = (drain, now)
        self.ledger.leave(host_id, drain)
        return True

    # ---- clients

    def ask(
        self, now: float, tenant: str, environment: str, count: int, **wishes: object
    ) -> Waiting | Refused:
        """Let a request into the queue. ``wishes`` are the other fields of ``Request``."""
        self._look_at_catalog()
        request = Request(
            arrival=self._arrivals + 1,
            tenant=tenant,
            environment=environment,
            count=count,
            entered_at=now,
            **wishes,  # type: ignore[arg-type]
        )
        refused = self._judge(request, now)
        if refused is not None:
            return refused
        self._arrivals += 1
        return self.queue.add(request, self.meaning(environment) or environment)

    def withdraw(self, arrival: int) -> Waiting | None:
        """A request was given up. Returns it, if it was still waiting."""
        return self.queue.remove(arrival)

    def release(self, tenant: str, host_id: str, lease_id: bytes) -> bool:
        """A grant that was never shown comes back. False: it is not that tenant's, or no longer provisional."""
        record = self.ledger.hosts.get(host_id)
        grant = record.grants.get(lease_id) if record is not None else None
        mine = grant is not None and grant.tenant == tenant
        return mine and self.ledger.release(host_id, lease_id, told=True)

    def reserve(self, reservation: Reservation, now: float) -> Refused | None:
        """Note what a client will hold."""
        refused = self._nobody(reservation.environment, now)
        if refused is not None:
            return refused
        quota = self.tenant(reservation.tenant).quota
        if quota and reservation.slots > quota:
            return Refused(
                "QUOTA_EXCEEDED",
                f"{reservation.slots} slots are more than the quota of tenant {reservation.tenant}, which is {quota}",
                self.retry_after(0),
            )
        if not self.reservations.put(reservation, now):
            return Refused("QUEUE_FULL", "there are too many reservations", self.retry_after(len(self.queue)))
        self.moved = True
        return None

    def reserved(self, now: float) -> list[Missing]:
        """What is reserved, and neither held nor waited for."""
        taken: dict[tuple[bytes, str], int] = {}
        for record in self.ledger.hosts.values():
            rows = record.report.rows if record.report is not None else ()
            for row in rows:
                key = row.client_id, row.environment
                taken[key] = taken.get(key, 0) + row.in_use + row.idle
            for grant in record.grants.values():
                key = grant.client_id, grant.environment
                taken[key] = taken.get(key, 0) + grant.count
        for waiting in self.queue.all():
            key = waiting.request.client_id, waiting.environment
            taken[key] = taken.get(key, 0) + waiting.remaining
        return list(self.reservations.missing(now, self.meaning, taken, self.quotas.room))

    def meaning(self, environment: str) -> str | None:
        """The name@version that a name means now; None: nobody has served it, and no pool declares it."""
        self._look_at_catalog()
        return self.catalog.meaning(environment)

    def has_room(self, environment: str, count: int) -> bool:
        """Whether so many slots for an environment are free now."""
        (shelf,) = self.ledger.shelves(self.meaning(environment) or environment)
        return shelf.free() >= count

    # ---- time

    def decide(self, now: float) -> list[Decision]:
        """Give out what is free."""
        self._look_at_catalog()
        self.freed = False
        if not len(self.queue):
            return []
        self.usage.advance(self.ledger.held, now)
        return schedule(
            self.queue,
            self.ledger,
            self.usage,
            self.quotas,
            self.tenant,
            self._new_id,
            now,
            self.bounds.scheduler,
        )

    def tick(self, now: float) -> list[Refused]:
        """Once a second or so: promises lapse, silent hosts are forgotten, recalls are planned. Returns the requests
        that are sent away, because it has turned out that they can never be served: hosts and quotas change while they
        wait."""
        self.lapsed += sum(grant.count for grant in self.ledger.tick(now))
        self._orders = {host: order for host, order in self._orders.items() if host in self.ledger.hosts}
        self.usage.advance(self.ledger.held, now)
        if self.ledger.settled(now):
            self.quotas.look()
        self._look_at_catalog()
        away = []
        # A host that is away for a moment makes no gang impossible.
        complete = len(self.queue) > 0 and self.ledger.complete(now)
        for waiting in list(self.queue.all()) if self.ledger.settled(now) else ():
            request = waiting.request
            refused = self._nobody(request.environment, now, request.relocation, request.arrival)
            refused = refused or (self._impossible(request, now) if complete else None)
            if refused is not None:
                self.queue.remove(request.arrival)
                away.append(refused)
        wants = self.wants()
        recalls = plan_recalls(self.ledger, wants, self.tenant, self.usage, self._recalls) if wants else {}
        self._recalls = recalls | plan_retirement(self.ledger.retiring(), now)
        return away

    # ---- what is told about those who wait

    def wants(self) -> list[Want]:
        """What waits and is within quota."""
        taken: dict[str, int] = {}
        wants = []
        for lane in self.queue.lanes():
            for waiting in lane.waiting:
                request = waiting.request
                slots = waiting.remaining
                room = self.quotas.room(request.tenant, relocation=request.relocation)
                if room is not None:
                    before = taken.get(request.tenant, 0)
                    slots = min(slots, room - before)
                    if slots < request.least:
                        continue
                    taken[request.tenant] = before + slots
                wants.append(
                    Want(
                        request.tenant,
                        waiting.environment,
                        slots,
                        request.client_id,
                        request.relocation,
                        request.entered_at,
                    )
                )
        return wants

    def position(self, waiting: Waiting) -> int:
        """How many requests go before one, as far as can be told."""
        return self.queue.position(waiting, {name: self.tenant(name).weight for name in self.queue.tenants()})

    def reason(self, waiting: Waiting, now: float) -> str:
        """Why a request waits, for people."""
        request, environment = waiting.request, waiting.environment
        room = self.quotas.room(request.tenant, relocation=request.relocation)
        if room is not None and request.least > room:
            return self._held_back(request)
        records = self.ledger.placeable(environment, relocation=request.relocation)
        if not records:
            others = len(list(self.ledger.serving(environment)))
            return f"no host serves {environment} now" + (f" ({others} are not ready)" if others else "")
        free = sum(record.free(environment) for record in records)
        slots = sum(record.host.slots for record in records)
        hosts = f"{len(records)} host{'s' if len(records) > 1 else ''}"
        if request.least > 1:
            return f"waits for {request.least} slots at once: {free} of {slots} are free on {hosts}"
        if free:
            return f"{free} of {slots} slots are free on {hosts}, but others go first"
        return f"all {slots} slots on {hosts} are taken"

    def _held_back(self, request: Request) -> str:
        taken = self.quotas.taken(request.tenant, relocation=request.relocation)
        most = self.quotas.most(request.tenant, relocation=request.relocation)
        words = f"held back by the quota of tenant {request.tenant}: {taken} of {most} slots are taken"
        if request.relocation:
            words += " (episodes on the move may take three times the quota)"
        if back := self.ledger.returned.slots.get(request.tenant, 0):
            words += f"; {back} of them by leases that were not shown in time, or given back, and may still be shown"
        return words

    def retry_after(self, waiting_requests: int) -> float:
        """When to ask again, in seconds: longer where more wait."""
        return min(30.0, 1.0 + waiting_requests / 100)

    def _judge(self, request: Request, now: float) -> Refused | None:
        refused = self._nobody(request.environment, now, request.relocation, request.arrival)
        refused = refused or self._impossible(request, now)
        if refused is not None:
            return refused
        if not self.queue.room_for(request.tenant):
            return Refused(
                "QUEUE_FULL",
                f"the queue is full: {len(self.queue)} requests wait, {self.queue.of_tenant(request.tenant)} of "
                f"tenant {request.tenant}; this would be position {len(self.queue)}",
                self.retry_after(len(self.queue)),
            )
        return None

    def _impossible(self, request: Request, now: float) -> Refused | None:
        """Why the slots that a request takes at once can never be had; None: they can, or it is too early to tell."""
        least = request.least
        quota = self.quotas.most(request.tenant, relocation=request.relocation)
        if quota is not None and least > quota:
            bound = "three times the quota" if request.relocation else "the quota"
            return Refused(
                "QUOTA_EXCEEDED",
                f"{least} slots at once are more than {bound} of tenant {request.tenant}, which is {quota}; "
                f"{self.queue.of_tenant(request.tenant)} of its requests wait",
                self.retry_after(len(self.queue)),
                request.arrival,
            )
        environment = self.meaning(request.environment) if least > 1 and self.ledger.settled(now) else None
        most = self.catalog.most(environment, request.relocation) if environment is not None else None
        if most is None or least <= most:
            return None
        message = f"{least} slots at once can never be had: {environment} has {most} at most"
        return Refused("GANG_IMPOSSIBLE", message, arrival=request.arrival)

    def _nobody(
        self, environment: str, now: float, relocation: bool = False, arrival: int = 0
    ) -> Refused | None:
        """Why an environment can be had from nobody; None: it can, or it is too early to tell."""
        if not self.ledger.settled(now):
            return None
        key = self.meaning(environment)
        if key is None:
            known = self.catalog.known()
            listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            message = f"nobody serves {environment}; there is {listed or 'no host at all'}"
            return Refused("ENVIRONMENT_UNKNOWN", message, arrival=arrival)
        pool = None if relocation else self.catalog.retired_with(key)
        if pool is None:
            return None
        message = f"{key} takes no new episode, for pool {pool} is retiring"
        if others := self.catalog.others(key):
            message += f"; there is {', '.join(others)}"
        return Refused("VERSION_RETIRING", message, arrival=arrival)

    def _look_at_catalog(self) -> None:
        if self.catalog.look() and len(self.queue):
            self.queue.rename(lambda name: self.catalog.meaning(name) or name)
