"""The code that plans, on a modelled control plane. ``python -m benchmarks.scaling`` runs all traces and rivals."""

import random

import pytest

from benchmarks.scaling.model import Cluster, Trace
from benchmarks.scaling.policies import RIVALS, Envmesh
from benchmarks.scaling.traces import traces

SEEDS = range(6)


@pytest.fixture(params=SEEDS)
def seed(request):
    print(f"repeat with: pytest '{request.node.nodeid}'")
    return request.param


def random_trace(seed):
    """Waves of demand with pauses, machines that go, a trainer that vanishes; then nothing."""
    dice = random.Random(seed)
    arrivals, now = [], 0.0
    while now < 900.0:
        burst = dice.choice((0, 1, 8, 40))
        arrivals += [(now + dice.random(), dice.uniform(2, 90)) for _ in range(burst)]
        now += dice.uniform(1, 30)
    lost = tuple(sorted(dice.uniform(100, 900) for _ in range(3)))
    vanish = (dice.uniform(300, 900),) if seed % 2 else ()
    return Trace(
        "random", tuple(sorted(arrivals)), 2400.0, slots=dice.choice((1, 4, 16)), lost=lost, vanish=vanish
    )


def test_nothing_is_interrupted_and_nothing_is_left(seed):
    cluster = Cluster(random_trace(seed), Envmesh(idle_after=120.0), seed)
    result = cluster.run()
    assert result.interrupted == 0
    assert (cluster.replicas, cluster.hosts, list(cluster.queue)) == (0, [], [])
    assert result.paid >= result.used > 0


@pytest.mark.parametrize("name", ["bulk", "gangs"])
def test_no_rival_waits_less_and_costs_less(name):
    trace = traces()[name]
    ours = Cluster(trace, Envmesh(), 1).run()
    assert ours.interrupted == 0
    for make, settings in RIVALS.values():
        for setting in settings:
            theirs = Cluster(trace, make(setting), 1).run()
            waits_less = theirs.wait(0.99) < 0.95 * ours.wait(0.99) - 1.0
            assert not (waits_less and theirs.paid < 0.95 * ours.paid), theirs.policy
