"""What a pool needs for an environment of which a host may have only a few."""

from envmesh_autoscaler.demand import Signals
from envmesh_autoscaler.observation import Waits
from envmesh_autoscaler.picture import Picture

SERVES = ("walk@1", "chess@1")


def test_what_is_taken_and_waits_is_divided_by_what_a_host_may_have():
    picture = Picture(
        use={"chess@1": (6, 2)}, queues={"chess@1": Waits(admissible=3), "chess": Waits(admissible=1)}
    )
    assert picture.bounded(SERVES, Signals(leased=50, slots=8)) == 5
    assert picture.bounded(("walk@1",), Signals(leased=50, slots=8)) == 0


def test_what_is_taken_in_other_pools_is_not_this_ones():
    picture = Picture(use={"chess@1": (20, 2)})
    assert picture.bounded(SERVES, Signals(leased=0, slots=8)) == 0
    assert picture.bounded(SERVES, Signals(leased=4, slots=8)) == 2


def test_a_bound_that_is_all_of_a_host_is_none():
    picture = Picture(use={"chess@1": (20, 4)})
    assert picture.bounded(SERVES, Signals(leased=20, slots=4)) == 0


def test_a_retiring_pool_has_hosts_only_for_what_moves():
    picture = Picture(use={"chess@1": (0, 2)}, queues={"chess@1": Waits(admissible=20, relocating=3)})
    assert picture.bounded(SERVES, Signals(slots=8), retiring=True) == 2
    assert picture.bounded(SERVES, Signals(slots=8)) == 10
