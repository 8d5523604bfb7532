from dataclasses import replace

import pytest

from envmesh_autoscaler.demand import PoolPolicy, Terms
from envmesh_autoscaler.observation import FleetHost, Instance, Observation, vanished_hosts
from envmesh_autoscaler.plan import HostFacts, Phase, Plan, Planner, PoolFacts, allot, answer, hold_reason

NAMES = {"s": Phase.STARTING, "r": Phase.READY, "d": Phase.DRAINING, "x": Phase.SEALED, "?": Phase.SILENT}


def terms(hosts):
    return Terms(
        leased=0,
        queued=0,
        reserved=0,
        now=0,
        trend=0,
        forecast=0,
        buffer=0,
        want=0,
        hosts=hosts,
        reason="test",
    )


def host(text, number):
    """``r3`` is a ready host with 3 episodes; ``!`` its machine goes, ``p`` pinned, ``o`` drained by others, ``n``
    stranded, ``~`` cannot be singled out."""
    marks = set(text[1:].lstrip("0123456789"))
    digits = text[1:].rstrip("!pon~")
    return HostFacts(
        host_id=f"h{number}",
        phase=NAMES[text[0]],
        in_use=int(digits or 0),
        ours="o" not in marks,
        leaving="!" in marks,
        pinned="p" in marks,
        stranded="n" in marks,
        removable="~" not in marks,
    )


def facts(text, replicas=None, **more):
    hosts = tuple(host(word, number) for number, word in enumerate(text.split()))
    return PoolFacts(replicas=len(hosts) if replicas is None else replicas, hosts=hosts, **more)


def plan(text, wanted, *, maximum=20, replicas=None, **more):
    return Planner(PoolPolicy(max_hosts=maximum)).plan(terms(wanted), facts(text, replicas, **more), 100.0)


UP = [
    # hosts, wanted, then: replicas, drained, taken back, counted out
    ("", 5, 5, "", "", ""),
    ("r8 r8", 5, 5, "", "", ""),
    ("r8 s", 2, 2, "", "", ""),
    ("r8 d2", 2, 2, "", "h1", ""),  # a drain is taken back before a host is asked for
    ("r8 x d3", 2, 3, "", "h2", ""),  # the fullest first
    ("r8 x d3", 3, 3, "", "h2 h1", ""),
    ("r8 x!", 2, 3, "", "", ""),  # one whose machine goes cannot come back
    ("r8 do", 2, 3, "", "", ""),  # nor one that somebody else drained
    ("r8 ?", 2, 3, "", "", ""),  # silent: it may hold episodes, and is replaced
    ("r8 r8!", 2, 3, "h1", "", ""),
]


@pytest.mark.parametrize(("text", "wanted", "replicas", "drain", "back", "out"), UP)
def test_up(text, wanted, replicas, drain, back, out):
    found = plan(text, wanted)
    assert (found.replicas, found.drain, found.take_back, found.count_out) == (
        replicas,
        tuple(drain.split()),
        tuple(back.split()),
        tuple(out.split()),
    )


DOWN = [
    ("r5 r1 r3", 2, 3, "h1", "", ""),  # the least work goes
    ("r5 r1p r3", 2, 3, "h2", "", ""),  # pinned hosts stay
    ("r5 r1 s", 2, 3, "", "", ""),  # the one that starts goes first, once it is ready
    ("r5 sn r3", 2, 2, "", "", "h1"),  # never scheduled: it holds nothing
    ("r5 d1 x", 1, 2, "", "", "h2"),  # exactly the sealed one
    ("r5 d1 x~", 1, 3, "", "", ""),
    ("r5 xo", 1, 1, "", "", "h1"),
    ("r5 r0 r0 r0", 1, 4, "h1 h2 h3", "", ""),
    ("r5 r5", 0, 2, "h0 h1", "", ""),
    ("x x", 0, 0, "", "", "h0 h1"),
]


@pytest.mark.parametrize(("text", "wanted", "replicas", "drain", "back", "out"), DOWN)
def test_down(text, wanted, replicas, drain, back, out):
    found = plan(text, wanted)
    assert (found.replicas, found.drain, found.take_back, found.count_out) == (
        replicas,
        tuple(drain.split()),
        tuple(back.split()),
        tuple(out.split()),
    )


@pytest.mark.parametrize(("text", "wanted", "replicas"), [("r5 r0 x", 1, 3), ("r5 x", 1, 2), ("r5", 3, 3)])
def test_a_hold_raises_and_never_lowers(text, wanted, replicas):
    found = plan(text, wanted, hold="blind")
    assert (found.replicas, found.drain, found.count_out) == (replicas, (), ())
    assert wanted > 1 or "blind" in found.reason


def test_a_roll_with_more_ready_hosts_than_were_asked_for_drains_none():
    assert plan("r4 r4 r0", 2, replicas=2) == Plan(replicas=2, wanted=2, reason="as it is: test")
    assert plan("r4 r4 r0", 1, replicas=2).drain == ("h2",)


def test_hosts_drain_while_the_deployment_is_unsettled_but_nothing_is_counted_out():
    found = plan("r5 r0 x", 1, unsettled="a roll is under way")
    assert (found.replicas, found.drain, found.count_out) == (3, ("h1",), ())
    assert "a roll is under way" in found.reason


def test_at_the_bound_drains_are_taken_back_and_nothing_is_asked_for():
    found = plan("r8 r8 d4", 3, maximum=3)
    assert (found.replicas, found.take_back) == (3, ("h2",))


def test_at_the_bound_a_sealed_host_whose_machine_goes_makes_room():
    found = plan("r8 r8 x!", 3, maximum=3)
    assert (found.replicas, found.count_out) == (2, ("h2",))


def test_creations_that_are_not_seen_yet_count():
    assert plan("r8", 4, replicas=4).replicas == 4


def test_up_is_written_at_once_and_then_every_quarter_of_a_second():
    planner = Planner(PoolPolicy(max_hosts=100))
    assert planner.plan(terms(4), facts(""), 0.0).replicas == 4
    assert planner.plan(terms(8), facts("", 4), 0.1).replicas == 4
    assert planner.plan(terms(8), facts("", 4), 0.3).replicas == 8


def test_a_host_that_does_not_empty_is_taken_back_and_another_chosen():
    planner = Planner(PoolPolicy(drain_patience=10.0))
    assert planner.plan(terms(2), facts("r5 d1 r3"), 0.0).drain == ()
    late = planner.plan(terms(2), facts("r5 d1 r3"), 11.0)
    assert (late.take_back, late.drain) == (("h1",), ("h2",))
    again = planner.plan(terms(2), facts("r5 r1 r3"), 12.0)
    assert again.drain == ("h2",)  # not the stubborn one


def test_a_host_that_does_not_empty_goes_on_draining_where_no_other_can():
    planner = Planner(PoolPolicy(drain_patience=10.0))
    planner.plan(terms(0), facts("d1"), 0.0)
    assert planner.plan(terms(0), facts("d1"), 11.0).take_back == ()


def test_a_drain_whose_machine_goes_is_never_taken_back():
    planner = Planner(PoolPolicy(drain_patience=10.0))
    planner.plan(terms(1), facts("r5 d1! r3"), 0.0)
    assert planner.plan(terms(1), facts("r5 d1! r3"), 60.0).take_back == ()


CALM = {
    "complete": True,
    "age": 0.1,
    "uptime": 1e6,
    "leading": 1e6,
    "look_back": 120.0,
    "disagreement": 0.0,
    "oldest": 0.0,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"complete": False}, "not complete"),
        ({"age": 6.0}, "last heard 6 s ago"),
        ({"uptime": 60.0}, "the broker is younger"),
        ({"leading": 60.0}, "what this autoscaler remembers is younger"),
        ({"disagreement": 6.0}, "disagree"),
        ({"oldest": 1.5}, "waited for 1.5 s"),
    ],
)
def test_blindness_is_not_idleness(change, says):
    found = hold_reason(**{**CALM, **change})
    assert (says in found) if says else not found


@pytest.mark.parametrize(
    ("cap", "wants", "ceilings"),
    [
        (10, {"a": (0, 4), "b": (0, 4)}, {"a": 4, "b": 4}),
        (10, {"a": (0, 9), "b": (0, 9)}, {"a": 5, "b": 5}),
        (10, {"a": (0, 2), "b": (0, 90)}, {"a": 2, "b": 8}),
        (10, {"a": (8, 8), "b": (0, 9)}, {"a": 8, "b": 2}),
        (10, {"a": (12, 20), "b": (0, 9)}, {"a": 12, "b": 0}),  # what is there is not taken by the cap
    ],
)
def test_a_cap_over_all_pools_is_shared(cap, wants, ceilings):
    assert allot(cap, wants) == ceilings


def test_a_pool_heeds_its_share_of_the_cap():
    found = Planner(PoolPolicy(max_hosts=20)).plan(terms(9), replace(facts("r8"), ceiling=3), 0.0)
    assert found.replicas == 3


@pytest.mark.parametrize(
    ("planned", "replicas", "left_out", "settled", "answered"),
    [
        (3, 3, 0, True, 3),
        (5, 3, 0, False, 5),  # up at once
        (2, 3, 0, True, 2),
        (3, 5, 2, True, 3),  # two were left out, and are still there
        (3, 5, 2, False, 5),  # but somebody else might go: wait
        (5, 5, 2, True, 7),  # two more are needed beside those that were left out
    ],
)
def test_an_answer_to_somebody_who_writes_later(planned, replicas, left_out, settled, answered):
    plan = Plan(replicas=planned, wanted=planned)
    assert answer(plan, replicas=replicas, left_out=left_out, settled=settled) == answered


def test_a_silent_host_has_vanished_when_the_backend_has_nothing_of_it():
    def heard(host_id, phase):
        return FleetHost(host_id=host_id, pool="p", name="", phase=phase, slots=4, in_use=4, idle=0, ended=0)

    hosts = {name: heard(name, Phase(phase)) for name, phase in (
        ("there", "silent"), ("going", "silent"), ("gone", "silent"), ("heard", "ready"), ("drains", "draining"),
    )}  # fmt: skip
    seen = Observation(replicas=2, instances=(Instance(host_id="there"),), going=frozenset({"going"}))
    assert vanished_hosts(hosts, seen) == ("gone",)
