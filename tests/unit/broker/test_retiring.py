"""A pool on its way out takes episodes on the move and nothing new."""

from dataclasses import replace

import pytest

from envmesh_broker.catalog import DeclaredPool
from envmesh_broker.core import Refused
from envmesh_broker.hosts import Grant
from envmesh_broker.reservations import Reservation
from tests.unit.broker.parts import World

OLD = DeclaredPool(name="old", environments=("e@1",), slots=8, max_hosts=5)
NEW = DeclaredPool(name="new", environments=("e@2",), slots=8, max_hosts=5)
RETIRING = DeclaredPool(name="old", environments=("e@1",), slots=8, max_hosts=5, retiring=True)


def world(*pools: DeclaredPool) -> World:
    """Two hosts of the old pool."""
    made = World(pools=pools)
    for name in ("o0", "o1"):
        made.host(name, pool="old")
    return made


def test_a_new_lease_is_refused_with_its_reason_and_what_there_is_instead():
    old = world(RETIRING, NEW)
    refused = old.ask(1, environment="e@1")
    assert isinstance(refused, Refused)
    assert refused.reason == "VERSION_RETIRING"
    assert refused.message == "e@1 takes no new episode, for pool old is retiring; there is e@2"
    alone = world(RETIRING).ask(1, environment="e")
    assert isinstance(alone, Refused)
    assert alone.message == "e@1 takes no new episode, for pool old is retiring"
    wish = Reservation(
        reservation_id=b"r",
        tenant="t",
        environment="e@1",
        slots=4,
        client_id=b"c",
        starts_at=0.0,
        ends_at=9e9,
    )
    reserved = old.core.reserve(wish, old.now)
    assert reserved is not None
    assert reserved.reason == "VERSION_RETIRING"


def test_a_bare_name_means_the_pool_beside_it_even_while_that_has_no_host():
    old = world(RETIRING, NEW)
    waiting = old.ask(4)
    assert waiting.environment == "e@2"
    assert old.granted() == {}
    old.host("n0", pool="new", environments=("e@2",))
    (decision,) = old.decide()
    assert {grant.host_id for grant in decision.grants} == {"n0"}


def test_an_episode_on_the_move_is_placed_there_and_waits_there():
    old = world(RETIRING, NEW)
    moved = old.ask(12, environment="e@1", relocation=True)
    assert old.granted() == {moved.request.arrival: 12}
    more = old.ask(8, environment="e@1", relocation=True)
    assert old.granted() == {more.request.arrival: 4}
    assert not old.core.tick(old.now), "it is not sent away"
    assert [want.slots for want in old.core.wants()] == [4]
    without_a_host = World(pools=[RETIRING, NEW])
    assert not isinstance(without_a_host.ask(1, environment="e@1", relocation=True), Refused)


def test_of_two_pools_with_one_version_the_retiring_one_is_used_last_and_only_for_what_moves():
    both = world(RETIRING, DeclaredPool(name="beside", environments=("e@1",), slots=8, max_hosts=5))
    both.host("b0", pool="beside")
    assert {grant.host_id for grant in both.take(3)} == {"b0"}
    assert {grant.host_id for grant in both.take(5, relocation=True)} == {"b0"}
    assert {grant.host_id for grant in both.take(1, relocation=True)} <= {"o0", "o1"}
    waiting = both.ask(1)
    assert both.granted() == {}
    assert both.core.reason(waiting, both.now) == "all 8 slots on 1 host are taken"


def test_a_gang_is_measured_by_the_hosts_that_take_it():
    both = world(RETIRING, DeclaredPool(name="beside", environments=("e@1",), slots=8, max_hosts=2))
    assert not isinstance(both.ask(16, whole=True), Refused)
    assert both.ask(17, whole=True).reason == "GANG_IMPOSSIBLE"


def test_what_waits_when_a_pool_is_told_to_retire_is_sent_away_and_what_moves_is_not():
    old = world(OLD, NEW)
    old.take(16, environment="e@1")
    new, moved = old.ask(1, environment="e@1"), old.ask(1, environment="e@1", relocation=True)
    old.core.declare([RETIRING, NEW])
    (away,) = old.core.tick(old.now)
    assert (away.arrival, away.reason) == (new.request.arrival, "VERSION_RETIRING")
    assert old.core.queue.get(moved.request.arrival) is moved


def test_every_slot_is_asked_back_and_taking_the_retirement_back_stops_that():
    old = world(OLD, NEW)
    busy, idle = old.take(3, environment="e@1"), old.take(2, environment="e@1", idle=True)
    assert all(not old.report(name).recalls for name in ("o0", "o1"))
    old.core.declare([RETIRING, NEW])
    old.core.tick(old.now)
    recalled = {lease: keep for name in ("o0", "o1") for lease, keep in old.report(name).recalls.items()}
    assert recalled == {grant.lease_id: 0 for grant in (*busy, *idle)}
    old.core.declare([OLD, NEW])
    old.core.tick(old.now)
    assert all(not old.report(name).recalls for name in ("o0", "o1"))
    assert not isinstance(old.ask(1, environment="e@1"), Refused)


def recalled(made: World, grant: Grant) -> bool:
    """Whether a lease is asked back now."""
    made.core.tick(made.now)
    return grant.lease_id in made.report(grant.host_id).recalls


def test_a_lease_of_what_moves_is_let_be_until_that_has_arrived():
    old = world(RETIRING, NEW)
    (grant,) = old.take(2, environment="e@1", relocation=True, idle=True)
    row = old.tables[grant.host_id][grant.lease_id]
    assert not recalled(old, grant)
    old.tables[grant.host_id][grant.lease_id] = replace(row, in_use=1, idle=1)
    assert not recalled(old, grant)
    old.tables[grant.host_id][grant.lease_id] = replace(row, in_use=2, idle=0)
    old.report(grant.host_id)
    assert recalled(old, grant)
    old.tables[grant.host_id][grant.lease_id] = replace(row, in_use=1, idle=1)
    old.report(grant.host_id)
    assert recalled(old, grant), "what has arrived and gone leaves its slot to nobody"


def test_what_never_arrives_keeps_no_slot_for_long():
    old = world(RETIRING, NEW)
    (grant,) = old.take(1, environment="e@1", relocation=True, idle=True)
    old.now += 9.0
    old.report_all()
    assert not recalled(old, grant)
    old.now += 2.0
    old.report_all()
    assert recalled(old, grant)


@pytest.mark.parametrize("first", ["declared", "registered"])
def test_it_is_the_same_whether_hosts_or_the_pools_file_come_first(first):
    made = World(pools=[RETIRING, NEW] if first == "declared" else [])
    made.host("o0", pool="old")
    if first == "registered":
        made.core.declare([RETIRING, NEW])
    assert made.ask(1, environment="e@1").reason == "VERSION_RETIRING"
    assert [record.host.host_id for record in made.core.ledger.retiring()] == ["o0"]
