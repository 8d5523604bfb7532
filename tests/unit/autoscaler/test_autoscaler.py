"""What the loop does with a plan: carries it out, only says it, or leaves a pool alone."""

import asyncio
from dataclasses import replace
from typing import NamedTuple

import pytest

from envmesh_autoscaler.autoscaler import Autoscaler, Fleet
from envmesh_autoscaler.backends import BackendRefused
from envmesh_autoscaler.demand import PoolPolicy
from envmesh_autoscaler.meters import Meters
from envmesh_autoscaler.observation import FleetHost, Instance, Observation, Waits
from envmesh_autoscaler.picture import Picture
from envmesh_autoscaler.plan import Phase
from envmesh_autoscaler.pools import ScaledPool
from envmesh_service.metrics import Registry

POLICY = PoolPolicy(slots=4, max_hosts=20, buffer_min=0, buffer_factor=0, look_back=0, idle_after=0)


class Recorded:
    """A backend that notes what it is told. ``refuse`` is raised by the next action."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.leading = True
        self.seen: dict[str, Observation] = {}
        self.told: list[tuple] = []
        self.refuse: BackendRefused | None = None

    async def run(self) -> None:
        """There is nothing to watch."""

    def observe(self, pool: ScaledPool, now: float) -> Observation | None:
        return self.seen.get(pool.name)

    async def mark(self, pool, hosts) -> None:
        self.told.append(("mark", pool.name, *hosts))

    async def unmark(self, pool, hosts) -> None:
        self.told.append(("unmark", pool.name, *hosts))

    async def seal(self, pool, hosts) -> None:
        self.told.append(("seal", pool.name, *hosts))

    async def tend(self, pool) -> None:
        """No roll goes on."""

    async def announce(self, pool, before, replicas, reason) -> None:
        """Nobody reads it."""

    async def scale(self, pool, replicas, gone) -> None:
        if self.refuse is not None:
            refused, self.refuse = self.refuse, None
            raise refused
        self.told.append(("scale", pool.name, replicas, *gone))
        self.seen[pool.name] = replace(self.seen[pool.name], replicas=replicas)


class Heard(Fleet):
    """The broker's picture as a test sets it, and the orders to hosts. A ``deaf`` broker takes none."""

    def __init__(self, clock) -> None:
        super().__init__(lambda: pytest.fail("nobody is called"), tuple, clock)
        self.heard_at = clock()
        self.orders: list[tuple[str, bool]] = []
        self.deaf = False

    async def drain(self, hosts, drain):
        told = [] if self.deaf else list(hosts)
        self.orders += [(host, drain) for host in told]
        return told

    async def forget(self, hosts) -> None:
        assert not list(hosts)


class Host(NamedTuple):
    """A host of four slots, and its marks."""

    host_id: str
    phase: Phase = Phase.READY
    in_use: int = 0
    ours: bool = False
    sealed: bool = False


class World:
    """An autoscaler that has led for long, over pools without hosts at first."""

    def __init__(self, *pools: ScaledPool, cap: int = 0) -> None:
        self.now = 1000.0
        self.backend, self.fleet = Recorded(), Heard(lambda: self.now)
        self.meters = Meters(Registry(), lambda: True)
        for pool in pools:
            self.backend.seen[pool.name] = Observation(replicas=0)
        self.autoscaler = Autoscaler(pools, self.fleet, self.backend, self.meters, lambda: self.now, cap=cap)
        self.autoscaler._leading_since = self.now
        self.now += 3600.0

    def hears(self, **queues: Waits) -> None:
        """What waits, by environment without its version."""
        named = {f"{name}@1": waits for name, waits in queues.items()}
        self.fleet.picture = Picture(queues=named, complete=True, uptime=1e6)

    def has(self, pool: str, *hosts: Host, replicas: int | None = None, unsettled: str = "") -> None:
        """The pool's hosts from now on. ``replicas`` None: as many are asked for."""
        instances = tuple(
            Instance(host_id=h.host_id, ready=True, ready_for=60.0, ours=h.ours, sealed=h.sealed)
            for h in hosts
        )
        count = len(hosts) if replicas is None else replicas
        self.backend.seen[pool] = Observation(replicas=count, instances=instances, unsettled=unsettled)
        heard = {h.host_id: FleetHost(h.host_id, pool, h.host_id, h.phase, 4, h.in_use, 0, 0) for h in hosts}
        self.fleet.picture = Picture(hosts={pool: heard}, complete=True, uptime=1e6)

    async def step(self, seconds: float = 1.0, *, heard: bool = True) -> list[tuple]:
        """Time passes; what the backend is told then."""
        self.now += seconds
        if heard:
            self.fleet.heard_at = self.now
        self.backend.told.clear()
        await self.autoscaler.step()
        return list(self.backend.told)


def pool(name: str, **more) -> ScaledPool:
    return ScaledPool(name=name, environments=(f"{name}@1",), policy=POLICY, **more)


async def test_a_pool_with_an_hpa_of_its_own_is_left_to_it_and_its_plan_is_said():
    world = World(pool("walk", mode="hpa"), pool("chess"))
    world.hears(walk=Waits(admissible=10), chess=Waits(admissible=4))
    assert await world.step() == [("scale", "chess", 1)]
    views = world.meters.views
    assert (views["walk"].plan.wanted, views["walk"].hpa, views["chess"].hpa) == (3, True, False)


@pytest.mark.parametrize("said", ["paused", "dry_run"])
async def test_an_operator_holds_a_pool_and_hears_what_would_be_done(said):
    world = World(pool("walk"), pool("chess"))
    world.hears(walk=Waits(admissible=10), chess=Waits(admissible=4))
    world.backend.seen["walk"] = Observation(replicas=0, paused=said == "paused", dry_run=said == "dry_run")
    assert await world.step() == [("scale", "chess", 1)]
    assert world.meters.views["walk"].plan.replicas == 3
    assert getattr(world.meters.views["walk"], said)
    world.backend.seen["walk"] = Observation(replicas=0)
    assert await world.step() == [("scale", "walk", 3)]


async def test_a_retiring_pool_has_hosts_for_what_moves_and_none_for_what_is_new():
    world = World(pool("walk", retiring=True))
    world.hears(walk=Waits(admissible=40, relocating=0, oldest=9.0))
    assert await world.step() == []
    world.hears(walk=Waits(admissible=46, relocating=6))
    assert await world.step() == [("scale", "walk", 2)]


async def test_a_cap_over_all_pools_holds():
    world = World(pool("walk"), pool("chess"), cap=5)
    world.hears(walk=Waits(admissible=40), chess=Waits(admissible=8))
    told = await world.step()
    assert sorted(told) == [("scale", "chess", 2), ("scale", "walk", 3)]


async def test_a_refusal_is_counted_and_tried_again_after_the_pause_that_was_asked_for():
    world = World(pool("walk"))
    world.hears(walk=Waits(admissible=4))
    world.backend.refuse = BackendRefused("throttled (HTTP 429)", retry_after=3.0)
    assert await world.step() == []
    assert world.meters.refused.labels("walk").value == 1
    assert await world.step(2.9) == []
    assert await world.step(0.2) == [("scale", "walk", 1)]
    assert world.meters.refused.labels("walk").value == 1


async def test_a_pool_whose_pods_are_refused_is_exported_and_said_once(caplog):
    world = World(pool("walk"))
    for words in ("exceeded quota: a", "exceeded quota: b"):
        world.backend.seen["walk"] = Observation(replicas=2, refused=words)
        await world.step()
        assert world.meters.views["walk"].refused
    world.backend.seen["walk"] = Observation(replicas=2)
    await world.step()
    assert not world.meters.views["walk"].refused
    said = [(record.message, record.why) for record in caplog.records if "cluster" in record.message]
    assert said == [("the cluster refuses hosts", "exceeded quota: a"), ("the cluster takes hosts again", "")]


async def test_a_host_is_drained_seals_itself_and_is_counted_out_in_this_order():
    world = World(pool("walk"))
    world.has("walk", Host("a"))
    assert await world.step() == [("mark", "walk", "a")]
    assert world.fleet.orders == [("a", True)]
    world.has("walk", Host("a", Phase.SEALED, ours=True))
    assert await world.step(6.0) == [("seal", "walk", "a"), ("scale", "walk", 0, "a")]


async def test_a_sealed_host_that_serves_again_is_protected_again():
    world = World(pool("walk"))
    world.has("walk", Host("a", in_use=4), Host("b", in_use=4, ours=True, sealed=True))
    assert await world.step() == [("unmark", "walk", "b")]
    assert world.fleet.orders == [("b", False)]


async def test_marks_stay_while_the_host_may_have_heard_of_its_drain():
    world = World(pool("walk"))
    world.has("walk", Host("a", in_use=4), Host("b"))
    assert await world.step() == [("mark", "walk", "b")]
    world.has("walk", Host("a", in_use=4), Host("b", ours=True))  # as it was before it heard
    assert await world.step(4.0, heard=False) == []
    assert await world.step(2.0, heard=False) == []
    world.has("walk", Host("a", in_use=4), Host("b", in_use=4, ours=True))  # it never did
    assert await world.step(0.1) == [("unmark", "walk", "b")]


async def test_a_drain_that_could_not_be_taken_back_stays_ours_and_is_taken_back_later():
    world = World(pool("walk"))
    world.has("walk", Host("a", in_use=4), Host("b", Phase.DRAINING, in_use=2, ours=True))
    world.fleet.deaf = True
    assert await world.step() == []
    world.fleet.deaf = False
    assert await world.step() == [("unmark", "walk", "b")]
    assert world.fleet.orders == [("b", False)]


async def test_an_autoscaler_that_leads_no_more_begins_nothing():
    world = World(pool("walk"))
    world.has("walk", Host("a", in_use=4), Host("b"), Host("c", Phase.SEALED, ours=True, sealed=True))

    async def mark(pool, hosts) -> None:
        world.backend.leading = False  # the marks took longer than the Lease

    world.backend.mark = mark  # type: ignore[method-assign]
    assert await world.step() == []
    assert world.fleet.orders == []


async def test_orders_end_with_the_leadership():
    world = World(pool("walk"))
    world.has("walk", Host("a"), Host("b"), Host("c"))

    async def drain(hosts, drain):
        for host in hosts:
            world.fleet.orders.append((host, drain))
            world.backend.leading = len(world.fleet.orders) < 2
        return []

    world.fleet.drain = drain  # type: ignore[method-assign]
    await world.step()
    assert world.fleet.orders == [("a", True), ("b", True)]


async def test_no_answer_is_left_for_a_pool_that_was_removed_meanwhile():
    world = World(pool("walk", mode="keda"))

    async def tend(pool) -> None:
        world.autoscaler.replace([], 0)

    world.backend.tend = tend  # type: ignore[method-assign]
    await world.step()
    assert world.autoscaler.answers == {}


async def test_an_empty_retiring_pool_goes_though_one_beside_it_serves_the_same_environment():
    world = World(ScaledPool(name="old", environments=("walk@1", "chess@1"), policy=POLICY, retiring=True))
    world.has("old", Host("a"), Host("b"))
    use = {"chess@1": (20, 2)}
    world.fleet.picture = replace(world.fleet.picture, use=use, queues={"chess@1": Waits(admissible=9)})
    assert await world.step() == [("mark", "old", "a", "b")]


async def test_an_answer_that_keda_has_carried_out_is_not_raised_again_while_the_pods_are_still_there():
    world = World(pool("walk", mode="keda"))
    busy = Host("a", in_use=4), Host("b", in_use=4), Host("c", in_use=4)
    sealed = Host("d", Phase.SEALED, ours=True, sealed=True), Host("e", Phase.SEALED, ours=True, sealed=True)
    world.has("walk", *busy, Host("d"), Host("e"))
    await world.step()
    world.has("walk", *busy, *sealed)
    await world.step(6.0)
    assert world.autoscaler.answers == {"walk": 3}
    world.has("walk", *busy, *sealed, replicas=3, unsettled="5 pods are there, and 3 are asked for")
    await world.step()
    assert world.autoscaler.answers == {"walk": 3}
    world.has("walk", *busy)
    await world.step()
    assert world.autoscaler.answers == {"walk": 3}


async def test_a_drain_goes_on_while_keda_carries_an_answer_out():
    world = World(pool("walk", mode="keda"))
    busy = (
        Host("a", in_use=4),
        Host("b", in_use=4),
        Host("c", in_use=3),
        Host("d", Phase.DRAINING, 1, ours=True),
    )
    sealed = Host("e", Phase.SEALED, ours=True, sealed=True)
    world.has("walk", *busy, Host("e"))
    await world.step()
    world.has("walk", *busy, sealed)
    await world.step(6.0)
    assert world.autoscaler.answers == {"walk": 4}
    world.fleet.orders.clear()
    world.has("walk", *busy, sealed, replicas=4, unsettled="5 pods are there, and 4 are asked for")
    assert await world.step() == []
    assert (world.fleet.orders, world.autoscaler.answers) == ([], {"walk": 4})


REMEMBERS = replace(POLICY, look_back=120.0)


async def test_a_changed_policy_keeps_what_is_remembered():
    before = ScaledPool(name="walk", environments=("walk@1",), policy=REMEMBERS)
    world = World(before)
    world.has("walk", Host("a", in_use=4), Host("b", in_use=4))
    await world.step()
    world.has("walk", Host("a"), Host("b"))  # the trainer trains
    assert await world.step(10.0) == []
    world.autoscaler.replace([replace(before, policy=replace(REMEMBERS, max_hosts=40))], 0)
    assert await world.step() == []
    assert world.meters.views["walk"].plan.wanted == 2
    assert world.meters.views["walk"].max_hosts == 40
    world.autoscaler.replace([replace(before, policy=replace(REMEMBERS, look_back=5.0))], 0)
    assert await world.step() == [("mark", "walk", "a", "b")]  # and the new one holds at once


async def test_a_pool_that_serves_something_else_lowers_nothing_for_one_look_back():
    before = ScaledPool(name="walk", environments=("walk@1",), policy=REMEMBERS)
    world = World(before)
    world.has("walk", Host("a"))
    world.autoscaler.replace([replace(before, environments=("walk@1", "chess@1"))], 0)
    assert await world.step(119.0) == []
    assert world.meters.views["walk"].held
    assert await world.step(2.0) == [("mark", "walk", "a")]
