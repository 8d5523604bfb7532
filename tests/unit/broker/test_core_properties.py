"""Whatever happens in whatever order: slots are conserved, no host is overfilled, nobody gets what is not theirs."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from envmesh_broker.catalog import DeclaredPool
from envmesh_broker.core import CoreBounds, Refused
from envmesh_broker.fairness import Tenant
from envmesh_broker.hosts import Grant, HostState
from envmesh_broker.ledger import LedgerBounds
from envmesh_broker.queue import Waiting
from envmesh_broker.scheduler import SchedulerBounds
from tests.unit.broker.parts import World

HOSTS = [f"h{number}" for number in range(5)]
POOLS = [DeclaredPool(name=name, environments=("e@1", "f@1"), slots=8, max_hosts=5) for name in "pq"]
QUOTA = 6
BOUNDS = CoreBounds(ledger=LedgerBounds(settle=0.0), scheduler=SchedulerBounds(patience=2.0))


class BrokerMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World(
            bounds=BOUNDS,
            pools=POOLS,
            heavy=Tenant("heavy", weight=4.0),
            bounded=Tenant("bounded", quota=QUOTA),
        )
        self.waiting: dict[int, Waiting] = {}
        self.promised: dict[bytes, Grant] = {}
        self.given: dict[int, int] = {}

    # ---- hosts

    @rule(
        host=st.sampled_from(HOSTS),
        slots=st.integers(1, 8),
        f_slots=st.none() | st.integers(0, 8),
        spread=st.booleans(),
    )
    def register(self, host, slots, f_slots, spread):
        before = self.world.core.ledger.hosts.get(host)
        if before is not None:  # a host does not change while it lives
            identity = before.host
            slots, spread = identity.slots, identity.spread
            f_slots = identity.environment_slots.get("f@1")
        elif host in self.world.tables:
            self.world.tables[host].clear()  # another process
        self.world.host(
            host,
            slots=slots,
            environments=("e@1", "f@1"),
            environment_slots={} if f_slots is None else {"f@1": f_slots},
            spread=spread,
            pool="pq"[HOSTS.index(host) % 2],
        )

    @rule(retiring=st.booleans())
    def retire(self, retiring):
        self.world.core.declare([POOLS[0], replace(POOLS[1], retiring=retiring)])

    @rule(
        host=st.sampled_from(HOSTS),
        state=st.sampled_from([HostState.READY, HostState.DRAINING]),
        lag=st.floats(0, 1),
    )
    def report(self, host, state, lag):
        if host in self.world.sessions:
            self.world.states[host], self.world.lags[host] = state, lag
            self.world.report(host)

    @rule(host=st.sampled_from(HOSTS))
    def disconnect(self, host):
        if host in self.world.sessions:
            self.world.core.disconnected(host, self.world.sessions[host], self.world.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 11.0, 400.0]))
    def time_passes(self, seconds):
        self.world.now += seconds
        for refused in self.world.core.tick(self.world.now):
            self.waiting.pop(refused.arrival)

    # ---- clients

    @rule(
        tenant=st.sampled_from(["heavy", "light", "bounded"]),
        environment=st.sampled_from(["e", "f", "e@1"]),
        groups=st.integers(1, 4),
        group_size=st.integers(1, 4),
        whole=st.booleans(),
        priority=st.integers(-1, 1),
        relocation=st.booleans(),
        avoid=st.frozensets(st.sampled_from(HOSTS), max_size=2),
        client=st.integers(0, 2),
    )
    def ask(self, tenant, environment, groups, group_size, client, **wishes):
        answer = self.world.ask(
            groups * group_size,
            tenant=tenant,
            environment=environment,
            group_size=group_size,
            client_id=bytes([client]) * 16,
            **wishes,
        )
        if not isinstance(answer, Refused):
            self.waiting[answer.request.arrival] = answer
            self.given[answer.request.arrival] = 0

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        arrival = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[arrival]
        self.world.core.withdraw(arrival)

    @rule()
    def decide(self):
        ledger = self.world.core.ledger
        free = {host: record.free("") for host, record in ledger.hosts.items()}
        held = dict(ledger.held)
        there_before = held.get("bounded", 0) - ledger.away.get("bounded", 0)
        for decision in self.world.decide():
            request = self.waiting[decision.arrival].request
            slots = sum(grant.count for grant in decision.grants)
            self.given[decision.arrival] += slots
            assert slots > 0
            assert self.given[decision.arrival] + decision.remaining == request.count
            assert slots % request.group_size == 0
            if request.whole:
                assert slots == request.count
            if decision.remaining == 0:
                del self.waiting[decision.arrival]
            for grant in decision.grants:
                record = ledger.hosts[grant.host_id]
                assert record.placeable
                assert request.relocation or not record.retiring
                assert grant.host_id not in request.avoid
                assert (grant.tenant, grant.relocation) == (request.tenant, request.relocation)
                free[grant.host_id] -= grant.count
                self.promised[grant.lease_id] = grant
                if not grant.relocation:
                    held[grant.tenant] = held.get(grant.tenant, 0) + grant.count
        assert all(slots >= 0 for host, slots in free.items() if ledger.hosts[host].placeable)
        relocated = sum(
            g.count
            for r in ledger.hosts.values()
            for g in r.grants.values()
            if g.tenant == "bounded" and g.relocation
        )
        assert ledger.held.get("bounded", 0) <= max(QUOTA, held.get("bounded", 0)) + relocated
        there = ledger.held.get("bounded", 0) - ledger.away.get("bounded", 0)
        assert there <= max(3 * QUOTA, there_before)
        self._check_nothing_is_left_lying()

    def _check_nothing_is_left_lying(self):
        """Where slots are free, nobody who could have them waits, unless they are kept for a gang."""
        core = self.world.core
        if any(w.request.whole or w.request.group_size > 1 or w.request.avoid for w in self.waiting.values()):
            return
        for waiting in self.waiting.values():
            request = waiting.request
            if request.tenant != "bounded" or request.relocation:
                shelves = core.ledger.shelves(waiting.environment, relocation=request.relocation)
                assert sum(shelf.free() for shelf in shelves) == 0

    @precondition(lambda self: self.promised)
    @rule(data=st.data(), in_use=st.booleans())
    def show(self, data, in_use):
        grant = self.promised.pop(data.draw(st.sampled_from(sorted(self.promised))))
        if grant.host_id in self.world.core.ledger.hosts:
            self.world.show(grant, in_use=in_use)

    @precondition(lambda self: self.promised)
    @rule(data=st.data())
    def release(self, data):
        grant = self.promised[data.draw(st.sampled_from(sorted(self.promised)))]
        self.world.core.release(grant.tenant, grant.host_id, grant.lease_id)

    @precondition(lambda self: any(self.world.tables.values()))
    @rule(data=st.data())
    def end(self, data):
        host = data.draw(st.sampled_from(sorted(host for host, table in self.world.tables.items() if table)))
        table = self.world.tables[host]
        del table[data.draw(st.sampled_from(sorted(table)))]

    # ---- what always holds

    @invariant()
    def counts_are_what_the_tables_say(self):
        ledger = self.world.core.ledger
        held: dict[str, int] = {}
        away: dict[str, int] = {}
        for host_id, record in ledger.hosts.items():
            assert record.load == record.count()
            for tenant, slots in record.load.tenants.items():
                held[tenant] = held.get(tenant, 0) + slots
                if not record.heard:
                    away[tenant] = away.get(tenant, 0) + slots
            for environment in record.host.environments:
                free = record.free(environment) if record.placeable else 0
                shelves = ledger.shelves(environment, relocation=True)
                found = [shelf.rooms[host_id].free if host_id in shelf.rooms else 0 for shelf in shelves]
                assert found == ([0, free] if record.retiring else [free, 0])
        assert ledger.held == held
        assert ledger.away == away
        for shelf in (s for key in ledger.served() for s in ledger.shelves(key, relocation=True)):
            assert shelf.rooms.keys() <= ledger.hosts.keys()
            assert shelf.free() == sum(room.free for room in shelf.rooms.values())
        for client in range(3):
            held_by_client = ledger.of_client(bytes([client]) * 16)
            assert all(slots > 0 for slots in held_by_client.values())

    @invariant()
    def the_queue_knows_who_waits(self):
        core = self.world.core
        assert len(core.queue) == len(self.waiting) == sum(len(lane.waiting) for lane in core.queue.lanes())
        for waiting in self.waiting.values():
            assert core.queue.get(waiting.request.arrival) is waiting
            assert 0 <= core.position(waiting) < len(core.queue)
            assert core.reason(waiting, self.world.now)

    @invariant()
    def recalls_never_ask_for_more_than_there_is(self):
        for host, recalls in self.world.core._recalls.items():
            record = self.world.core.ledger.hosts.get(host)
            rows = (
                {row.lease_id: row.in_use + row.idle for row in record.report.rows}
                if record and record.report
                else {}
            )
            for lease_id, keep in recalls.items():
                assert keep >= 0
                assert lease_id not in rows or keep <= 64


TestBroker = BrokerMachine.TestCase
TestBroker.settings = settings(max_examples=60, stateful_step_count=40)
