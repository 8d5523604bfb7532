"""Frames of one row, spelled and read by hand: what protobuf makes of them is what they are."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from envmesh.lone_frames import read_outcome, read_step, spell_command, spell_event
from envmesh.v1 import environment_pb2 as pb

STEP, OUTCOME = pb.COMMAND_KIND_STEP, pb.EVENT_KIND_OUTCOME

numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1))
payloads = st.one_of(
    st.binary(max_size=300), st.integers(0, 70_000).map(bytes), st.integers(2**21 - 9, 2**21 + 9).map(bytes)
)
finite = st.floats(allow_nan=False)
events = st.tuples(payloads, finite, st.integers(0, 7), st.integers(0, 2**64 - 1), payloads)
command_kinds = st.sampled_from([kind for kind in pb.CommandKind.values() if kind])
event_kinds = st.sampled_from([kind for kind in pb.EventKind.values() if kind])


def request_of(*rows: tuple[int, int, int, bytes]) -> pb.StreamRequest:
    kinds: list[Any] = [kind for _, _, kind, _ in rows]
    return pb.StreamRequest(
        handles=[handle for handle, *_ in rows],
        indices=[index for _, index, *_ in rows],
        payloads=[payload for *_, payload in rows],
        kinds=kinds if set(kinds) - {STEP} else None,
    )


def response_of(*rows: tuple[int, int, int, tuple[Any, ...]], taken: int) -> pb.StreamResponse:
    kinds: list[Any] = [kind for _, _, kind, _ in rows]
    columns = [list(column) for column in zip(*(event for *_, event in rows), strict=True)]
    bodies, rewards, flags, digests, infos = columns
    return pb.StreamResponse(
        handles=[handle for handle, *_ in rows],
        indices=[index for _, index, *_ in rows],
        payloads=bodies,
        rewards=rewards if any(rewards) else None,
        flags=flags if any(flags) else None,
        digests=digests if any(digests) else None,
        kinds=kinds if set(kinds) - {OUTCOME} else None,
        infos=infos if any(infos) else None,
        taken=taken,
    )


@given(numbers, numbers, command_kinds, payloads)
def test_a_command_is_spelled_as_protobuf_spells_it(handle: int, index: int, kind: int, payload: bytes):
    frame = spell_command(handle, index, kind, payload)
    assert frame == request_of((handle, index, kind, payload)).SerializeToString()
    assert read_step(frame) == ((handle, index, payload) if kind == STEP else None)


@given(numbers, numbers, event_kinds, events, st.integers(0, 2**40))
def test_an_event_is_spelled_as_protobuf_spells_it(
    handle: int, index: int, kind: int, event: tuple[Any, ...], taken: int
):
    frame = spell_event(handle, index, kind, event, taken)
    assert frame == response_of((handle, index, kind, event), taken=taken).SerializeToString()
    read = read_outcome(frame)
    if kind != OUTCOME or not 0 < taken < 2**32:
        assert read is None
    else:
        assert read == (handle, (index, *event), taken)


def test_an_outcome_of_several_rows_or_with_more_beside_it_is_left_to_protobuf():
    row = (1, 2, OUTCOME, (b"x", 1.0, 0, 7, b""))
    assert read_outcome(response_of(row, row, taken=3).SerializeToString()) is None
    beating = response_of(row, taken=3)
    beating.heartbeat.sequence = 1
    assert read_outcome(beating.SerializeToString()) is None
    assert read_outcome(pb.StreamResponse(taken=3).SerializeToString()) is None
    assert read_outcome(b"") is None


def test_a_step_of_several_rows_or_with_more_beside_it_is_left_to_protobuf():
    row = (1, 2, STEP, b"x")
    assert read_step(request_of(row, row).SerializeToString()) is None
    for more in (
        pb.StreamRequest(hello=pb.Hello(protocol_version=1)),
        pb.StreamRequest(heartbeat=pb.Heartbeat(sequence=1)),
        pb.StreamRequest(timeouts=[5]),
        pb.StreamRequest(annotations=[b"a"]),
    ):
        frame = request_of(row)
        frame.MergeFrom(more)
        assert read_step(frame.SerializeToString()) is None
    assert read_step(b"") is None


def bent(frame: bytes, at: int, byte: int, cut: int) -> bytes:
    """A frame with one byte changed, and some of its end cut off."""
    changed = bytearray(frame)
    changed[at % len(changed)] = byte
    return bytes(changed[: len(changed) - cut % len(changed)])


bends = st.tuples(st.integers(0, 60), st.integers(0, 255), st.one_of(st.just(0), st.integers(0, 40)))
short_events = st.tuples(st.binary(max_size=20), finite, st.integers(0, 7), st.integers(0, 2**64 - 1),
                         st.binary(max_size=20))  # fmt: skip


@given(numbers, numbers, st.binary(max_size=40), bends)
@example(200, 1, b"", (1, 1, 0))
def test_a_broken_step_is_read_as_protobuf_reads_it_or_not_at_all(
    handle: int, index: int, payload: bytes, bend: tuple[int, int, int]
):
    frame = bent(spell_command(handle, index, STEP, payload), *bend)
    read = read_step(frame)
    if read is not None:
        assert pb.StreamRequest.FromString(frame) == request_of((read[0], read[1], STEP, read[2]))


@given(numbers, numbers, short_events, st.integers(1, 2**32 - 1), bends)
def test_a_broken_outcome_is_read_as_protobuf_reads_it_or_not_at_all(
    handle: int, index: int, event: tuple[Any, ...], taken: int, bend: tuple[int, int, int]
):
    frame = bent(spell_event(handle, index, OUTCOME, event, taken), *bend)
    read = read_outcome(frame)
    if read is not None:
        whole = pb.StreamResponse.FromString(frame)
        handle, (index, payload, reward, flags, digest, info), taken = read
        assert [list(column) for column in (whole.handles, whole.indices, whole.payloads)] == [
            [handle], [index], [payload],
        ]  # fmt: skip
        assert (list(whole.flags) or [0], list(whole.digests) or [0]) == ([flags], [digest])
        assert repr(reward) == repr(whole.rewards[0] if whole.rewards else 0.0)
        assert (list(whole.infos) or [b""], whole.taken) == ([info], taken)
        assert not whole.kinds
        assert not whole.HasField("heartbeat")


@given(st.binary(max_size=60))
def test_noise_is_read_as_protobuf_reads_it_or_not_at_all(noise: bytes):
    step, outcome = read_step(noise), read_outcome(noise)
    try:
        request = pb.StreamRequest.FromString(noise)
    except DecodeError:
        assert step is None
    else:
        assert step is None or request == request_of((step[0], step[1], STEP, step[2]))
    try:
        response = pb.StreamResponse.FromString(noise)
    except DecodeError:
        assert outcome is None
    else:
        assert outcome is None or list(response.handles) == [outcome[0]]
