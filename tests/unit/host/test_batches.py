"""Steps of a frame taken together: each once, in stretches, whatever they cost."""

import secrets
from collections.abc import Sequence
from typing import Any, cast

import pytest

from envmesh.frame_bounds import LARGE_VALUE_BYTES
from envmesh.stream import failure_of
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import decode, encode
from envmesh_environments.echo import STEPS
from envmesh_host.columns import Columns
from envmesh_host.connection import Connection
from envmesh_host.copy import CLOSED_TO_STEPS
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.outbox import Outbox
from envmesh_host.served import Served
from envmesh_host.slots import Claim, SlotTable
from envmesh_service.credentials import ANYBODY

STEP, RESET = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET


def hosted_of(target: str) -> Hosted:
    """An inline environment."""
    definition = load(target)
    served = Served.prepare(definition)
    return Hosted(served.info, served=served, runner=None, reuse=False, definition=definition)


def move_to(hosted: Hosted, connection: Connection, handles: tuple[int, ...]) -> None:
    """As if these episodes had begun in this environment."""
    connection.engine.hosted[hosted.key] = hosted
    for handle in handles:
        copy = connection.bindings[handle]
        copy.environment = hosted
        copy.seat = hosted.player()
        copy.seat.instance.reset()
        copy.play = copy.seat.step_instance


def connection_with(target: str, episodes: int) -> tuple[Connection, Hosted]:
    """A connection with this many episodes begun, by handles from 1."""
    hosted = hosted_of(target)
    engine = Engine([hosted], SlotTable(episodes), cast(Any, None))
    hello = pb.Hello(client_id=secrets.token_bytes(16), connection_id=secrets.token_bytes(16))
    connection = Connection(engine, hello, ANYBODY, lease_idle=60.0, liveness_window=10.0)
    claim = Claim(lease_id=secrets.token_bytes(16), tenant="default", environment=hosted.key, count=episodes)
    connection.leases._holdings[1_000_000] = engine.slots.show(claim, 0.0)
    resets = [
        pb.ResetRequest(episode_id=secrets.token_bytes(16), epoch=1, lease_number=1_000_000, seed=number)
        for number in range(episodes)
    ]
    frame = pb.StreamRequest(
        handles=range(1, episodes + 1),
        indices=[0] * episodes,
        kinds=[RESET] * episodes,
        payloads=[reset.SerializeToString() for reset in resets],
    )
    for _ in connection.work(Columns(frame, 0.0)):
        pass
    while len(connection.outbox):
        connection.outbox.take(10_000)
    return connection, hosted


def step_all(connection: Connection, episodes: int, index: int, actions: Sequence[bytes | str]) -> int:
    """Step every episode once. Returns in how many stretches."""
    frame = pb.StreamRequest(
        handles=range(1, episodes + 1),
        indices=[index] * episodes,
        payloads=[encode(action) for action in actions],
    )
    return sum(1 for _ in connection.work(Columns(frame, 0.0)))


def test_a_frame_that_takes_several_stretches_steps_each_episode_once():
    episodes = 300
    connection, hosted = connection_with("envmesh_environments.echo:Echo", episodes)
    hosted.row_cost = 0.001  # it will prove far cheaper, so the stretches grow while the frame is taken
    actions = [bytes([number % 256]) * 50 for number in range(episodes)]
    assert step_all(connection, episodes, 1, actions) > 1
    assert [copy.index for copy in connection.bindings.values()] == [1] * episodes
    replies = pb.StreamResponse()
    while len(connection.outbox):
        replies.MergeFrom(connection.outbox.take(10_000))
    assert list(replies.handles) == list(range(1, episodes + 1))
    assert [decode(payload)[:50] for payload in replies.payloads] == actions


def test_the_last_reply_can_be_had_again_and_another_action_is_a_conflict():
    connection, _ = connection_with("envmesh_environments.echo:Echo", 8)
    actions = [b"a" * 50] * 8
    step_all(connection, 8, 1, actions)
    first = connection.outbox.take(100)
    step_all(connection, 8, 1, actions)
    again = connection.outbox.take(100)
    assert list(again.payloads) == list(first.payloads)
    assert list(again.digests) == list(first.digests)
    step_all(connection, 8, 1, [b"b" * 50] * 8)
    assert set(connection.outbox.take(100).kinds) == {pb.EVENT_KIND_FAILURE}
    assert [copy.index for copy in connection.bindings.values()] == [1] * 8


def test_one_bad_action_harms_no_neighbour():
    connection, _ = connection_with("gymnasium:CartPole-v1", 4)
    frame = pb.StreamRequest(
        handles=[1, 2, 3, 4], indices=[1] * 4, payloads=[encode(0), encode(7), encode("left"), encode(1)]
    )
    for _ in connection.work(Columns(frame, 0.0)):
        pass
    replies = connection.outbox.take(100)
    kinds = dict(zip(replies.handles, replies.kinds, strict=True))
    outcome, failure = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_FAILURE
    assert kinds == {1: outcome, 2: failure, 3: failure, 4: outcome}
    assert [copy.index for copy in connection.bindings.values()] == [1, 0, 0, 1]
    assert [copy.next_index for copy in connection.bindings.values()] == [2, 1, 1, 2]


def test_the_cheapest_environment_of_a_frame_goes_first_and_is_sent_before_the_next_begins():
    connection, cheap = connection_with("envmesh_environments.echo:Echo", 4)
    dear = hosted_of("envmesh_environments.echo:Frames?size=300000")
    cheap_before, dear_before = cheap.row_cost, 0.01
    dear.row_cost = dear_before
    move_to(dear, connection, (1, 2))
    frame = pb.StreamRequest(
        handles=[1, 2, 3, 4],
        indices=[1] * 4,
        payloads=[encode(7), encode(7), encode(b"x" * 50), encode(b"y" * 50)],
    )
    work = connection.work(Columns(frame, 0.0))
    next(work)
    assert connection.outbox.handles == [3, 4]
    assert sum(1 for _ in work) >= 2, "one dear row a stretch"
    assert connection.outbox.handles == [3, 4, 1, 2]
    assert (cheap.row_cost != cheap_before, dear.row_cost != dear_before) == (True, True), (
        "each learns its own cost"
    )


def break_the_timing(hosted: Hosted) -> None:
    """A defect of the host's own, where it has stepped and not answered yet."""
    hosted.observed.step_times = cast(Any, None)


def test_a_defect_of_ours_ends_the_episodes_it_meets_and_not_the_stream():
    connection, broken = connection_with("envmesh_environments.echo:Echo", 4)
    whole = hosted_of("gymnasium:CartPole-v1")
    whole.row_cost = 1.0  # it comes after the broken one
    move_to(whole, connection, (3, 4))
    break_the_timing(broken)
    payloads = [encode(b"x" * 50), encode(b"y" * 50), encode(0), encode(1)]
    frame = pb.StreamRequest(handles=[1, 2, 3, 4], indices=[1] * 4, payloads=payloads)
    for _ in connection.work(Columns(frame, 0.0)):
        pass
    replies = connection.outbox.take(100)
    assert list(replies.handles) == [1, 2, 3, 4]
    assert list(replies.kinds) == [pb.EVENT_KIND_FAILURE] * 2 + [pb.EVENT_KIND_OUTCOME] * 2
    error = failure_of(replies.payloads[0])
    assert error.reason == "INTERNAL"
    assert "AttributeError" in str(error)
    assert [copy.failed for copy in connection.bindings.values()] == [True, True, False, False]


def test_a_defect_of_ours_in_a_lone_step_ends_its_episode():
    connection, hosted = connection_with("envmesh_environments.echo:Echo", 1)
    break_the_timing(hosted)
    assert connection.step_alone(1, 1, encode(b"x" * 50), 0.0)
    replies = connection.outbox.take(100)
    assert list(replies.kinds) == [pb.EVENT_KIND_FAILURE]
    assert failure_of(replies.payloads[0]).reason == "INTERNAL"
    assert connection.bindings[1].failed


def test_a_defect_of_ours_in_what_is_only_counted_harms_no_episode():
    connection, hosted = connection_with("envmesh_environments.echo:Echo", 4)
    actions = [b"x" * 50] * 4
    for index in range(1, STEPS):
        step_all(connection, 4, index, actions)
    connection.outbox.take(1000)
    hosted.observed.lengths = cast(Any, None)
    step_all(connection, 4, STEPS, actions)
    replies = connection.outbox.take(100)
    assert not replies.kinds, "all of them are outcomes"
    assert list(replies.flags) == [pb.OUTCOME_FLAG_TERMINATED] * 4
    assert all(copy.ended and not copy.failed for copy in connection.bindings.values())
    assert {copy.next_index for copy in connection.bindings.values()} == {CLOSED_TO_STEPS}


def test_a_defect_of_ours_in_what_is_only_counted_harms_no_lone_step():
    connection, hosted = connection_with("envmesh_environments.echo:Echo", 1)
    action = encode(b"x" * 50)
    for index in range(1, STEPS):
        assert connection.step_alone(1, index, action, 0.0)
        connection.outbox.take_alone(0)
    hosted.observed.lengths = cast(Any, None)
    assert connection.step_alone(1, STEPS, action, 0.0)
    replies = connection.outbox.take(100)
    assert (list(replies.handles), list(replies.kinds)) == ([1], []), "an outcome"
    assert connection.bindings[1].ended
    assert not connection.bindings[1].failed


@pytest.mark.parametrize(
    ("size", "together"), [(100, True), (7_000, True), (70_000, False), (300_000, False)]
)
def test_replies_are_kept_together_unless_one_of_them_is_large(size: int, together: bool):
    connection, _ = connection_with(f"envmesh_environments.echo:Frames?size={size}", 64)
    frame = pb.StreamRequest(handles=range(1, 65), indices=[1] * 64, payloads=[encode(7)] * 64)
    for _ in connection.work(Columns(frame, 0.0)):
        pass
    copies = connection.bindings.values()
    assert {copy.record is not None for copy in copies} == {together}
    assert {copy.index for copy in copies} == {1}
    assert {len(copy.row[0]) > size for copy in copies} == {True}
    assert connection.outbox.total_bytes > 64 * size
    sent: list[int] = []
    while len(connection.outbox):
        frame_of = connection.outbox.begins_large or len(connection.outbox) == 1
        taken = (
            connection.outbox.take_alone(0) if frame_of else connection.outbox.take(64).SerializeToString()
        )
        sent += pb.StreamResponse.FromString(taken).handles
    assert sent == list(range(1, 65))
    assert connection.outbox.total_bytes == connection.outbox.large_bytes == 0


def test_a_large_value_takes_a_frame_of_its_own():
    outbox = Outbox()
    large = bytes(LARGE_VALUE_BYTES)
    rows = [
        (large, 1.0, 0, 7, b""),
        (b"small", 2.0, 0, 8, b""),
        (large, 3.0, 0, 9, b""),
        (large, 4.0, 0, 9, b""),
    ]
    for handle, row in enumerate(rows, start=1):
        outbox.add(handle, 5, pb.EVENT_KIND_OUTCOME, row)
    seen = []
    while len(outbox):
        begins_large = outbox.begins_large
        frame = outbox.take_alone(3)
        response = pb.StreamResponse.FromString(frame)
        assert (len(response.payloads[0]) == len(large)) is begins_large
        assert outbox.large_bytes == sum(len(payload) for payload in outbox.payloads if payload is large)
        seen.append((response.handles[0], response.rewards[0], response.taken))
    assert seen == [(1, 1.0, 3), (2, 2.0, 3), (3, 3.0, 3), (4, 4.0, 3)]


def test_an_error_that_has_no_form_in_utf_8_harms_no_neighbour():
    connection, _ = connection_with("tests.environments.slow_to_begin:Unsayable", 4)
    step_all(connection, 4, 1, ["walk", "raise", "walk", "walk"])
    replies = connection.outbox.take(100)
    kinds = dict(zip(replies.handles, replies.kinds, strict=True))
    outcome, failure = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_FAILURE
    assert kinds == {1: outcome, 2: failure, 3: outcome, 4: outcome}
    error = failure_of(replies.payloads[list(replies.handles).index(2)])
    assert (error.reason, r"caf\udce9.txt" in str(error)) == ("ENVIRONMENT_RAISED", True)


def test_a_copy_that_goes_between_two_stretches_is_not_stepped_by_the_frame():
    connection, hosted = connection_with("envmesh_environments.echo:Echo", 3)
    hosted.row_cost = 1.0  # a stretch for each row
    frame = pb.StreamRequest(handles=[1, 2, 3], indices=[1] * 3, payloads=[encode(b"a" * 50)] * 3)
    work = connection.work(Columns(frame, 0.0))
    next(work)
    second, third = connection.bindings[2], connection.bindings[3]
    connection.engine.close(second)
    third.close_to_steps()
    third.settle(1, encode(b"b" * 50), third.row)  # as if another owner had acted meanwhile
    for _ in work:
        pass
    replies = connection.outbox.take(100)
    reasons = {
        handle: failure_of(payload).reason
        for handle, kind, payload in zip(replies.handles, replies.kinds, replies.payloads, strict=True)
        if kind == pb.EVENT_KIND_FAILURE
    }
    assert reasons == {2: "EPISODE_UNKNOWN", 3: "STEP_CONFLICT"}
    assert (second.index, third.index) == (0, 1)
