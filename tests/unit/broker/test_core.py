import pytest

from envmesh_broker.catalog import DeclaredPool
from envmesh_broker.core import CoreBounds, Refused
from envmesh_broker.fairness import Tenant
from envmesh_broker.hosts import HostState
from envmesh_broker.ledger import LedgerBounds
from envmesh_broker.queue import QueueBounds
from envmesh_broker.scheduler import SchedulerBounds
from tests.unit.broker.parts import World


def order(world):
    """In which order one slot at a time is given: the requests."""
    served: list[int] = []
    while True:
        world.host("h", slots=1)
        granted = world.granted()
        if not granted:
            return served
        served += granted
        del world.core.ledger.hosts["h"].grants[next(iter(world.core.ledger.hosts["h"].grants))]


def test_relocations_go_first_then_retried_then_priority_then_arrival():
    world = World()
    world.host("h", slots=1)
    late = world.ask(1).request.arrival
    later = world.ask(1).request.arrival
    high = world.ask(1, priority=5).request.arrival
    retried = world.ask(1, retried=True).request.arrival
    moved = world.ask(1, tenant="other", relocation=True).request.arrival
    assert order(world) == [moved, retried, high, late, later]


def test_tenants_with_equal_weights_get_equal_parts_at_once():
    world = World()
    world.host("h", slots=100)
    a, b, c = (world.ask(1000, tenant=name).request.arrival for name in "abc")
    granted = world.granted()
    assert sum(granted.values()) == 100
    assert max(granted.values()) - min(granted.values()) <= 2, granted
    assert set(granted) == {a, b, c}


def test_weights_count():
    world = World(a=Tenant("a", weight=3.0))
    world.host("h", slots=100)
    a, b = world.ask(1000, tenant="a").request.arrival, world.ask(1000, tenant="b").request.arrival
    granted = world.granted()
    assert granted[a] == pytest.approx(75, abs=3)
    assert granted[a] + granted[b] == 100


def test_who_has_had_slots_for_long_comes_after_who_has_not():
    world = World()
    world.host("h", slots=10)
    first = world.take(10, tenant="a")
    world.now += 300.0
    world.ask(10, tenant="a")
    newcomer = world.ask(10, tenant="b").request.arrival
    world.core.usage.advance(world.core.ledger.held, world.now)
    for grant in first:
        world.tables["h"].pop(grant.lease_id, None)
    world.report("h")
    assert world.granted() == {newcomer: 10}


def test_quota_holds_slots_back():
    world = World(a=Tenant("a", quota=3))
    world.host("h", slots=10)
    request = world.ask(5, tenant="a")
    assert world.granted() == {request.request.arrival: 3}
    assert "quota of tenant a: 3 of 3" in world.core.reason(request, world.now)
    assert world.core.wants() == []
    gang = world.ask(4, tenant="a", whole=True)
    assert isinstance(gang, Refused)
    assert (gang.reason, gang.retry_after is not None) == ("QUOTA_EXCEEDED", True)


def test_a_gang_is_not_starved_by_small_requests():
    world = World(bounds=CoreBounds(ledger=LedgerBounds(settle=0.0), scheduler=SchedulerBounds(patience=2.0)))
    world.host("h", slots=4)
    granted = {}
    held = world.take(1) + world.take(1) + world.take(1) + world.take(1)
    gang = world.ask(4, whole=True).request.arrival
    for grant in held:  # slots come free one by one while others always ask for one
        world.ask(1)
        world.tables["h"].pop(grant.lease_id)
        world.now += 1.0
        world.report("h")
        granted = world.granted()
        if gang in granted:
            break
        if world.now >= 1001.0 + 3.0:
            assert not granted, "the gang's patience is over: what comes free is kept for it"
        for decision_grant in list(world.core.ledger.hosts["h"].grants.values()):
            assert world.show(decision_grant)
            held.append(decision_grant)
    assert granted == {gang: 4}


def test_groups_stay_whole():
    world = World()
    world.host("h", slots=7)
    world.host("i", slots=4)
    request = world.ask(12, group_size=4)
    assert world.granted() == {request.request.arrival: 8}
    assert request.remaining == 4


def test_portions_of_one_request_on_one_host_are_one_lease():
    world = World()
    world.host("h", slots=100)
    for name in "ab":
        world.ask(60, tenant=name)
    decisions = world.decide()
    assert [len(decision.grants) for decision in decisions] == [1, 1]


@pytest.mark.parametrize(
    ("count", "wishes", "reason"),
    [
        (9, {"whole": True}, "GANG_IMPOSSIBLE"),
        (18, {"group_size": 9}, "GANG_IMPOSSIBLE"),
        (9, {}, None),
        (8, {"whole": True}, None),
        (1, {"environment": "f"}, "ENVIRONMENT_UNKNOWN"),
        (1, {"environment": "e@2"}, "ENVIRONMENT_UNKNOWN"),
    ],
)
def test_what_can_never_be_is_refused_at_once(count, wishes, reason):
    world = World()
    world.host("h", slots=8)
    answer = world.ask(count, **wishes)
    assert (answer.reason if isinstance(answer, Refused) else None) == reason


def test_how_large_a_gang_may_be_is_what_the_pool_can_grow_to():
    world = World(pools=[DeclaredPool(name="q", environments=("f@1",), slots=4, max_hosts=3)])
    world.host("h", slots=8, max_hosts=2)
    assert not isinstance(world.ask(16, whole=True), Refused)
    assert isinstance(world.ask(17, whole=True), Refused)
    assert not isinstance(world.ask(12, environment="f", whole=True), Refused)
    assert isinstance(world.ask(13, environment="f", whole=True), Refused)
    world.host("i", slots=8, environments=("f@1",), pool="q", environment_slots={"f@1": 2})
    assert not isinstance(world.ask(12, environment="f", whole=True), Refused)


def test_the_queue_is_bounded_in_all_and_for_each_tenant():
    bounds = CoreBounds(ledger=LedgerBounds(settle=0.0), queue=QueueBounds(requests=3, tenant_requests=2))
    world = World(bounds=bounds)
    world.host("h", slots=1)
    assert not isinstance(world.ask(1, tenant="a"), Refused)
    assert not isinstance(world.ask(1, tenant="a"), Refused)
    assert world.ask(1, tenant="a").reason == "QUEUE_FULL"
    assert not isinstance(world.ask(1, tenant="b"), Refused)
    full = world.ask(1, tenant="c")
    assert full.reason == "QUEUE_FULL"
    assert "3 requests wait" in full.message


def test_environments_have_slots_of_their_own():
    world = World()
    world.host("h", slots=8, environments=("e@1", "f@1"), environment_slots={"f@1": 2})
    f = world.ask(5, environment="f").request.arrival
    e = world.ask(8, environment="e").request.arrival
    assert world.granted() == {f: 2, e: 6}


def test_draining_silent_and_avoided_hosts_get_nothing_and_lagging_ones_come_last():
    world = World()
    for name in "abcd":
        world.host(name, slots=4)
    world.states["a"] = HostState.DRAINING
    world.lags["b"] = 1.0
    world.report_all()
    request = world.ask(16, avoid=frozenset("c"))
    assert {grant.host_id: grant.count for d in world.decide() for grant in d.grants} == {"d": 4, "b": 4}
    world.core.withdraw(request.request.arrival)
    world.now += 6.0
    world.core.tick(world.now)
    world.report("a")
    world.ask(1)
    assert world.granted() == {}
    assert world.core.ledger.state(world.core.ledger.hosts["b"], world.now) is HostState.SILENT


def test_a_draining_host_of_the_newest_version_sends_a_bare_name_to_the_one_that_stays():
    world = World()
    world.host("old", environments=("e@1",))
    world.host("new", environments=("e@2",))
    assert world.core.meaning("e") == "e@2"
    waiting = world.ask(9)
    assert world.granted() == {waiting.request.arrival: 8}
    world.states["new"] = HostState.DRAINING
    world.report("new")
    assert world.core.meaning("e") == "e@1"
    assert world.granted() == {waiting.request.arrival: 1}


def test_promises_lapse_and_what_was_shown_does_not():
    world = World()
    world.host("h", slots=4)
    kept = world.take(2)
    world.ask(2)
    assert world.granted()
    world.now += 10.0
    world.core.tick(world.now)
    assert world.core.lapsed == 2
    assert world.core.ledger.hosts["h"].load.used == 2
    assert world.tables["h"].keys() == {grant.lease_id for grant in kept}


def test_a_session_that_was_superseded_no_longer_counts():
    world = World()
    world.host("h", slots=4)
    old = world.sessions["h"]
    world.host("h", slots=4)
    world.core.disconnected("h", old, world.now)
    world.ask(4)
    assert sum(world.granted().values()) == 4


def test_the_picture_is_complete_when_every_host_is_heard_or_has_left():
    world = World(bounds=CoreBounds(ledger=LedgerBounds(settle=2.0)))
    complete = lambda: world.core.ledger.complete(world.now)  # noqa: E731
    assert not complete()
    world.now += 1.5
    assert complete()
    world.host("h")
    assert complete()
    world.core.disconnected("h", world.sessions["h"], world.now)
    assert not complete()
    world.host("h")
    assert complete()
    world.states["h"] = HostState.SEALED
    world.report("h")
    assert world.core.disconnected("h", world.sessions["h"], world.now)
    assert complete()
    world.host("i")
    world.now += 301.0
    world.core.tick(world.now)
    assert complete()
    assert not world.core.ledger.hosts


def test_what_nobody_serves_waits_until_the_picture_is_whole_and_is_then_sent_away():
    world = World(bounds=CoreBounds(ledger=LedgerBounds(settle=2.0)))
    waiting = world.ask(1, environment="f")
    assert world.core.tick(world.now) == []
    world.now += 2.0
    (away,) = world.core.tick(world.now)
    assert (away.arrival, away.reason) == (waiting.request.arrival, "ENVIRONMENT_UNKNOWN")
    assert not len(world.core.queue)


def test_an_environment_is_remembered_for_a_while_when_its_last_host_has_left():
    world = World()
    world.host("h")
    world.states["h"] = HostState.SEALED
    world.report("h")
    world.core.disconnected("h", world.sessions["h"], world.now)
    assert not isinstance(world.ask(1), Refused)
    assert "no host serves e@1 now" in world.core.reason(next(iter(world.core.queue.all())), world.now)
    world.now += 601.0
    assert [refused.reason for refused in world.core.tick(world.now)] == ["ENVIRONMENT_UNKNOWN"]


def recalls(world):
    for _ in range(2):  # what stays idle is seen in two reports
        world.report_all()
    world.core.tick(world.now)
    return {host: dict(world.report(host).recalls) for host in world.sessions}


def test_idle_slots_are_recalled_for_others_but_not_from_those_who_ask():
    world = World()
    world.host("h", slots=8)
    (lease,) = world.take(8, client_id=b"1" * 16)
    row = world.tables["h"][lease.lease_id]
    world.tables["h"][lease.lease_id] = type(row)(
        row.lease_id, row.tenant, row.environment, 5, 3, row.client_id
    )
    assert recalls(world) == {"h": {}}
    own = world.ask(2, client_id=b"1" * 16)
    assert recalls(world) == {"h": {}}
    world.core.withdraw(own.request.arrival)
    other = world.ask(2, client_id=b"2" * 16)
    assert recalls(world) == {"h": {lease.lease_id: 6}}
    assert recalls(world) == {"h": {lease.lease_id: 6}}  # told twice, it takes nothing twice
    world.core.withdraw(other.request.arrival)
    assert recalls(world) == {"h": {}}


def test_slots_in_use_are_recalled_from_who_has_more_than_its_share_and_only_down_to_it():
    world = World(b=Tenant("b", weight=3.0))
    world.host("h", slots=8)
    (lease,) = world.take(8, tenant="a")
    world.ask(100, tenant="b")
    assert recalls(world) == {"h": {lease.lease_id: 2}}
    small = World()
    small.host("h", slots=8)
    (lease,) = small.take(8, tenant="a")
    small.ask(1, tenant="b")
    assert recalls(small) == {"h": {lease.lease_id: 7}}
    same = World()
    same.host("h", slots=8)
    same.take(8, tenant="a")
    same.ask(4, tenant="a")
    assert recalls(same) == {"h": {}}


def test_drain_orders_are_told_until_they_are_heeded():
    world = World()
    world.host("h")
    assert not world.core.order_drain("nobody", True, world.now)
    assert world.core.order_drain("h", True, world.now)
    assert world.report("h").drain is True
    assert world.report("h").drain is True
    world.states["h"] = HostState.DRAINING
    assert world.report("h").drain is None
    world.core.order_drain("h", False, world.now)
    assert world.report("h").drain is False
    world.now += 31.0  # a host that is about to end does not heed it
    assert world.report("h").drain is None
    assert world.report("h").drain is None


def test_nothing_is_placed_on_a_host_that_is_to_drain_though_it_registers_anew_meanwhile():
    world = World()
    world.host("h")
    assert world.core.order_drain("h", True, world.now)
    waiting = world.ask(1).request.arrival
    world.sessions["h"] = world.core.register(world.core.ledger.hosts["h"].host, world.now)
    assert world.granted() == {}
    assert world.report("h").drain is True
    assert world.granted() == {}
    world.core.order_drain("h", False, world.now)
    assert world.granted() == {waiting: 1}


def test_positions():
    world = World()
    world.host("h", slots=1)
    first, second = world.ask(1, tenant="a"), world.ask(1, tenant="a")
    other = world.ask(1, tenant="b")
    moved = world.ask(1, tenant="c", relocation=True)
    position = world.core.position
    assert [position(w) for w in (moved, first)] == [0, 1]
    assert position(second) > position(first)
    assert position(other) == 2
    high = world.ask(1, tenant="a", priority=1)
    assert position(high) == 2  # behind the relocation, and one of b's, which has waited longer
    assert position(first) == 3


def test_a_silent_host_that_is_said_to_be_gone_is_forgotten_and_one_that_is_heard_is_not():
    world = World()
    world.host("h", slots=4)
    world.take(3)
    assert not world.core.gone("h", world.now)
    world.core.disconnected("h", world.sessions["h"], world.now)
    assert not world.core.ledger.complete(world.now)
    assert world.core.gone("h", world.now)
    assert world.core.ledger.complete(world.now)
    assert world.core.ledger.held == {}
    assert world.core.gone("h", world.now), "it is gone already"
