"""Gangs wait no longer than they must, and whoever is behind one that can never come is served."""

from collections import deque
from dataclasses import replace

import pytest

from envmesh_broker.catalog import DeclaredPool
from envmesh_broker.core import CoreBounds
from envmesh_broker.fairness import Tenant
from envmesh_broker.ledger import LedgerBounds
from tests.unit.broker.parts import World


def leave(world, host_id):
    """Its node is gone, and somebody who can tell says so."""
    world.core.disconnected(host_id, world.sessions.pop(host_id), world.now)
    assert world.core.gone(host_id, world.now)


def sent_away(world):
    return [(refused.arrival, refused.reason) for refused in world.core.tick(world.now)]


def test_a_gang_that_asked_before_the_picture_was_whole_is_sent_away_when_it_turns_out_impossible():
    world = World(bounds=CoreBounds(ledger=LedgerBounds(settle=2.0)))
    world.host("h", slots=8)
    gang = world.ask(9, whole=True).request.arrival
    groups = world.ask(18, group_size=9).request.arrival
    small = world.ask(1).request.arrival
    assert sent_away(world) == []
    world.now += 5.0
    world.report_all()
    assert sorted(sent_away(world)) == [(gang, "GANG_IMPOSSIBLE"), (groups, "GANG_IMPOSSIBLE")]
    assert world.granted() == {small: 1}


def test_a_gang_that_has_become_impossible_is_sent_away_but_not_for_a_host_that_is_away_for_a_moment():
    world = World()
    world.host("h", slots=8)
    world.host("g", slots=8)
    world.take(1)
    gang = world.ask(16, whole=True).request.arrival
    fits = world.ask(8, whole=True).request.arrival
    world.core.disconnected("g", world.sessions["g"], world.now)
    assert sent_away(world) == []
    world.host("i", slots=1)
    leave(world, "i")
    assert sent_away(world) == [], "g may come back"
    leave(world, "g")
    assert sent_away(world) == [(gang, "GANG_IMPOSSIBLE")]
    assert world.core.queue.get(fits) is not None


def test_a_gang_that_its_pool_can_grow_to_waits_on():
    pool = DeclaredPool(name="p", environments=("e@1",), slots=8, max_hosts=4)
    world = World(pools=[pool])
    world.host("h", slots=8)
    gang = world.ask(32, whole=True).request.arrival
    assert sent_away(world) == []
    world.core.declare([replace(pool, max_hosts=3)])
    assert sent_away(world) == [(gang, "GANG_IMPOSSIBLE")]


def test_a_gang_on_the_move_is_measured_by_retiring_hosts_too():
    pool = DeclaredPool(name="p", environments=("e@1",))
    world = World(pools=[pool])
    world.host("h", slots=8)
    world.host("i", slots=2, pool="q")
    world.take(5)
    moving = world.ask(9, whole=True, relocation=True).request.arrival
    world.core.declare([replace(pool, retiring=True)])
    assert sent_away(world) == []
    assert world.core.queue.get(moving) is not None
    assert world.ask(3, whole=True).reason == "GANG_IMPOSSIBLE"


def test_a_gang_over_a_quota_that_was_lowered_is_sent_away():
    world = World(t=Tenant("t", quota=8))
    world.host("h", slots=16)
    world.take(4)
    gang = world.ask(8, whole=True).request.arrival
    world.tenants["t"] = Tenant("t", quota=6)
    assert sent_away(world) == [(gang, "QUOTA_EXCEEDED")]


@pytest.mark.parametrize("wishes", [{"whole": True}, {"group_size": 8}])
def test_a_gang_that_only_quota_holds_back_is_not_overtaken_by_its_own_tenant_for_ever(wishes):
    world = World(t=Tenant("t", quota=8))
    world.host("h", slots=16)
    live = deque(world.take(1)[0] for _ in range(8))
    gang = world.ask(8, **wishes).request.arrival
    granted: dict[int, int] = {}
    for _ in range(20):  # episodes end one by one, and another is asked for each time
        world.ask(1)
        del world.tables["h"][live.popleft().lease_id]
        world.now += 1.0
        world.report("h")
        granted = world.granted()
        if gang in granted or not live:
            break
        for promised in list(world.core.ledger.hosts["h"].grants.values()):
            assert world.show(promised)
            live.append(promised)
    assert granted == {gang: 8}


def test_while_a_gang_is_held_back_by_quota_other_tenants_are_served():
    world = World(t=Tenant("t", quota=8))
    world.host("h", slots=16)
    world.take(1)
    world.ask(8, whole=True)
    world.now += 5.0
    world.report("h")
    own, other = world.ask(1).request.arrival, world.ask(4, tenant="other").request.arrival
    assert world.granted() == {other: 4}
    assert world.core.queue.get(own) is not None
