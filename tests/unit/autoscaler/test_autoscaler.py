"""What the loop does with a plan: carries it out, only says it, or leaves a pool alone."""

import asyncio
from dataclasses import replace

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
    """The broker's picture as a test sets it, and the orders to hosts."""

    def __init__(self, clock) -> None:
        super().__init__(lambda: pytest.fail("nobody is called"), tuple, clock)
        self.heard_at = clock()
        self.orders: list[tuple[str, bool]] = []

    async def drain(self, hosts, drain):
        told = list(hosts)
        self.orders += [(host, drain) for host in told]
        return told

    async def forget(self, hosts) -> None:
        assert not list(hosts)


class World:
    """An autoscaler over pools without hosts."""

    def __init__(self, *pools: ScaledPool, cap: int = 0) -> None:
        self.now = 1000.0
        self.backend, self.fleet = Recorded(), Heard(lambda: self.now)
        self.meters = Meters(Registry(), lambda: True)
        for pool in pools:
            self.backend.seen[pool.name] = Observation(replicas=0)
        self.autoscaler = Autoscaler(pools, self.fleet, self.backend, self.meters, lambda: self.now, cap=cap)

    def hears(self, **queues: Waits) -> None:
        """What waits, by environment without its version."""
        named = {f"{name}@1": waits for name, waits in queues.items()}
        self.fleet.picture = Picture(queues=named, complete=True, uptime=1e6)

    async def step(self, seconds: float = 1.0) -> list[tuple]:
        """Time passes; what the backend is told then."""
        self.now += seconds
        self.fleet.heard_at = self.now
        self.backend.told.clear()
        await self.autoscaler.step()
        return list(self.backend.told)


def pool(name: str, **more) -> ScaledPool:
    return ScaledPool(name=name, environments=(f"{name}@1",), policy=POLICY, **more)


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
    now = {"a": Phase.READY}

    def look() -> None:
        instances = (Instance(host_id="a", ready=True, ready_for=60.0, ours=True, removable=True),)
        world.backend.seen["walk"] = Observation(replicas=1, instances=instances)
        host = FleetHost("a", "walk", "a", now["a"], slots=4, in_use=0, idle=0, ended=0)
        world.fleet.picture = Picture(hosts={"walk": {"a": host}}, complete=True, uptime=1e6)

    look()
    assert await world.step() == [("mark", "walk", "a")]
    assert world.fleet.orders == [("a", True)]
    now["a"] = Phase.SEALED
    look()
    assert await world.step(6.0) == [("seal", "walk", "a"), ("scale", "walk", 0, "a")]
