"""A tenant never has more than its quota lets it have, and what really moves is never held back by it."""

from envmesh_broker.core import CoreBounds, Refused
from envmesh_broker.fairness import Tenant
from envmesh_broker.hosts import HostState
from envmesh_broker.ledger import LedgerBounds
from tests.unit.broker.parts import World


def slots_of(world, request):
    """How many slots a pass gives a request."""
    return world.granted().get(request.request.arrival, 0)


def promised(world, count):
    """The one grant that tenant a is given for its request, and that its host was not shown yet."""
    world.ask(count, tenant="a")
    (grant,) = [grant for decision in world.decide() for grant in decision.grants]
    return grant


def pass_time(world, seconds):
    world.now += seconds
    world.report_all()
    world.core.tick(world.now)


def lose(world, host_id):
    world.core.disconnected(host_id, world.sessions.pop(host_id), world.now)


# ---- episodes on the move


def test_whoever_calls_everything_a_relocation_comes_to_three_times_its_quota_and_no_further():
    world = World(a=Tenant("a", quota=2))
    world.host("h", slots=10)
    world.take(2, tenant="a")
    moving = world.ask(8, tenant="a", relocation=True)
    assert slots_of(world, moving) == 4
    assert (
        "6 of 6 slots are taken (episodes on the move may take three times the quota)"
        in world.core.reason(moving, world.now)
    )
    assert world.core.wants() == [], "nobody scales up for it"
    assert slots_of(world, world.ask(1, tenant="b")) == 1, "nor is it in the way of others"
    gang = world.ask(7, tenant="a", whole=True, relocation=True)
    assert isinstance(gang, Refused)
    assert gang.reason == "QUOTA_EXCEEDED"


def test_relocations_beyond_a_quota_are_in_no_other_ones_way_however_many_there_are():
    world = World(a=Tenant("a", quota=1))
    world.host("h", slots=400)
    world.take(3, tenant="a", relocation=True)
    for _ in range(200):
        world.ask(1, tenant="a", relocation=True)
    moving = world.ask(3, tenant="b", relocation=True)
    assert world.granted() == {moving.request.arrival: 3}


def test_a_tenant_that_has_all_of_its_quota_moves_all_of_it():
    world = World(a=Tenant("a", quota=8))
    world.host("h", slots=8)
    old = world.take(8, tenant="a")
    world.states["h"] = HostState.DRAINING
    world.report("h")
    world.host("i", slots=8)
    assert sum(grant.count for grant in world.take(8, tenant="a", relocation=True)) == 8
    for grant in old:
        del world.tables["h"][grant.lease_id]
    world.report("h")
    assert world.core.quotas.room("a") == 0


def test_a_tenant_at_its_quota_moves_on_at_once_though_the_first_host_that_it_was_given_is_of_no_use():
    world = World(a=Tenant("a", quota=8))
    world.host("old", slots=8)
    world.take(8, tenant="a")
    world.states["old"] = HostState.DRAINING
    world.report("old")
    world.host("unreachable", slots=8)
    world.ask(8, tenant="a", relocation=True)
    assert sum(grant.count for decision in world.decide() for grant in decision.grants) == 8
    world.host("good", slots=8)
    avoid = frozenset({"unreachable"})
    again = world.ask(8, tenant="a", relocation=True, retried=True, avoid=avoid)
    assert slots_of(world, again) == 8


def test_hosts_that_are_lost_one_after_the_other_hold_no_relocation_back():
    world = World(a=Tenant("a", quota=8))
    world.host("h0", slots=8)
    world.take(8, tenant="a")
    for number in range(1, 5):  # all within the minutes for which a lost host's leases are kept
        lose(world, f"h{number - 1}")
        world.host(f"h{number}", slots=8)
        assert sum(grant.count for grant in world.take(8, tenant="a", relocation=True)) == 8
    assert world.core.ledger.held["a"] == 40


def test_episodes_move_on_though_the_quota_was_lowered_meanwhile():
    world = World(a=Tenant("a", quota=16))
    world.host("h", slots=16)
    world.take(16, tenant="a")
    world.core.tick(world.now)
    world.tenants["a"] = Tenant("a", quota=2)
    world.core.tick(world.now)
    lose(world, "h")
    world.host("i", slots=16)
    world.host("j", slots=16)
    world.take(16, tenant="a", relocation=True)
    world.core.tick(world.now)
    world.states["i"] = HostState.DRAINING
    world.report("i")
    assert sum(grant.count for grant in world.take(16, tenant="a", relocation=True)) == 16


def test_episodes_move_on_though_a_new_broker_never_saw_the_quota_that_let_them_in():
    world = World(bounds=CoreBounds(ledger=LedgerBounds(settle=0.0)))
    world.host("h", slots=16)
    world.take(16, tenant="a")
    world.tenants["a"] = Tenant("a", quota=2)
    world.core.tick(world.now)
    world.host("i", slots=16)
    assert sum(grant.count for grant in world.take(16, tenant="a", relocation=True)) == 16


# ---- what was given back and may still be shown


def test_a_lease_that_was_given_back_counts_against_the_quota_until_it_can_be_shown_no_more():
    world = World(a=Tenant("a", quota=2))
    world.host("h", slots=8)
    grant = promised(world, 2)
    assert world.core.release("a", "h", grant.lease_id)
    assert world.core.ledger.hosts["h"].free("e@1") == 8, "its host has the room again"
    assert world.core.ledger.held == {}
    waiting = world.ask(1, tenant="a")
    assert slots_of(world, waiting) == 0
    assert "2 of 2 slots are taken; 2 of them by leases that were not shown in time, or given back" in (
        world.core.reason(waiting, world.now)
    )
    pass_time(world, 14.9)  # shown for 10 s, and clocks differ by 5 s
    assert slots_of(world, waiting) == 0
    pass_time(world, 0.2)
    assert slots_of(world, waiting) == 1


def test_a_lease_that_lapsed_counts_as_long_as_its_host_may_still_take_it():
    world = World(a=Tenant("a", quota=2))
    world.host("h", slots=8)
    world.ask(2, tenant="a")
    world.decide()
    waiting = world.ask(2, tenant="a")
    pass_time(world, 10.0)
    assert world.core.lapsed == 2
    assert slots_of(world, waiting) == 0
    pass_time(world, 5.0)
    assert slots_of(world, waiting) == 2


def test_a_lease_that_was_given_back_and_shown_all_the_same_is_counted_once():
    world = World(a=Tenant("a", quota=3))
    world.host("h", slots=8)
    grant = promised(world, 2)
    world.core.release("a", "h", grant.lease_id)
    assert world.show(grant)
    world.report("h")
    assert world.core.quotas.taken("a") == 2
    del world.tables["h"][grant.lease_id]
    world.report("h")
    assert world.core.quotas.taken("a") == 0


def test_a_promise_that_nobody_was_told_of_counts_no_longer():
    world = World(a=Tenant("a", quota=2))
    world.host("h", slots=8)
    grant = promised(world, 2)
    world.core.ledger.release("h", grant.lease_id)  # as the desk does for a call that was cancelled
    assert slots_of(world, world.ask(2, tenant="a")) == 2
