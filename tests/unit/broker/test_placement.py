import pytest
from hypothesis import given
from hypothesis import strategies as st

from envmesh_broker.placement import EXPOSURE, Room, Shelf


def shelf(spread=False, **hosts):
    """host=(used, slots), with a third item for one whose event loop lags."""
    built = Shelf()
    for name, (used, slots, *lagging) in hosts.items():
        built.put(name, Room(slots - used, used, slots, spread, bool(lagging)))
    return built


@pytest.mark.parametrize(
    ("hosts", "count", "here", "expected"),
    [
        # the tightest fit among hosts in use
        ({"a": (1, 8), "b": (4, 8), "c": (0, 8)}, 4, {}, {"b": 4}),
        # a host in use before an empty one
        ({"a": (0, 8), "b": (1, 8)}, 2, {}, {"b": 2}),
        # an empty host before crumbs, for crumbs mean more connections
        ({"a": (0, 8), "b": (7, 8)}, 1, {}, {"a": 1}),
        # the largest first when one is not enough, then the tightest fit for the rest
        ({"a": (2, 8), "b": (4, 8), "c": (5, 8)}, 9, {}, {"a": 6, "c": 3}),
        # the client's own hosts before all
        ({"a": (1, 8), "b": (4, 8)}, 2, {"a": 1}, {"a": 2}),
        ({"a": (6, 8), "b": (4, 8)}, 4, {"a": 1}, {"a": 2, "b": 2}),
        # a lagging host last, even one's own
        ({"a": (1, 8, "lagging"), "b": (0, 8)}, 10, {"a": 1}, {"b": 8, "a": 2}),
        # all there is
        ({"a": (7, 8), "b": (7, 8)}, 5, {}, {"b": 1, "a": 1}),
        ({}, 5, {}, {}),
    ],
)
def test_packing(hosts, count, here, expected):
    assert shelf(**hosts).choose(count, here) == expected


@pytest.mark.parametrize(
    ("hosts", "count", "here", "expected"),
    [
        # no more than a quarter on one host, the emptiest first
        (
            {"a": (0, 8), "b": (1, 8), "c": (2, 8), "d": (3, 8), "e": (4, 8)},
            8,
            {},
            {"a": 2, "b": 2, "c": 2, "d": 2},
        ),
        # what the client holds already counts
        ({"a": (0, 8), "b": (1, 8)}, 4, {"a": 2, "c": 2}, {"b": 2, "a": 2}),
        # without room elsewhere the bound gives way
        ({"a": (0, 8)}, 8, {}, {"a": 8}),
        # a lagging host is worse than a crowded one
        ({"a": (0, 8, "lagging"), "b": (4, 8)}, 5, {}, {"b": 4, "a": 1}),
    ],
)
def test_spreading(hosts, count, here, expected):
    assert shelf(spread=True, **hosts).choose(count, here) == expected


rooms = st.builds(
    lambda slots, used, spread, lagging: Room(max(0, slots - used), used, slots, spread, lagging),
    st.integers(1, 16), st.integers(0, 20), st.booleans(), st.booleans(),
)  # fmt: skip
names = st.sampled_from([f"h{n}" for n in range(12)])


@given(
    st.lists(st.tuples(names, st.none() | rooms), max_size=40),
    st.integers(1, 120),
    st.dictionaries(names, st.integers(1, 8), max_size=4),
    st.frozensets(names, max_size=4),
)
def test_a_choice_is_exact_and_overfills_nobody(changes, count, here, without):
    built, now = Shelf(), {}
    for name, room in changes:  # a shelf knows the last that was said of each host, and nothing else
        built.put(name, room)
        now[name] = room
    free = {name: room.free for name, room in now.items() if room is not None and room.free}
    allowed = {name: slots for name, slots in free.items() if name not in without}
    assert built.free() == sum(free.values())
    assert built.free(without) == sum(allowed.values())
    chosen = built.choose(count, here, without)
    assert sum(chosen.values()) == min(count, sum(allowed.values()))
    assert all(0 < slots <= allowed[name] for name, slots in chosen.items())
    assert built.free() == sum(free.values())  # a choice takes nothing


@given(st.integers(1, 64), st.integers(4, 10))
def test_spreading_bounds_what_the_loss_of_one_host_costs(count, hosts):
    built = shelf(spread=True, **{f"h{n}": (0, 64) for n in range(hosts)})
    assert max(built.choose(count, {}).values()) <= -(-count // EXPOSURE)
