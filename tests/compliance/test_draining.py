"""The table "A host that drains" of docs/protocol.md, as far as a host alone shows it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import error_reason_pb2
from tests.compliance.hosts import serving, write_key
from tests.compliance.messages import Episode, Refused, content
from tests.compliance.stream import Row, Stream
from tests.compliance.wire import StreamWire, UnaryWire, acquire, channel_to

DRAINING = "UNAVAILABLE DRAINING"


@pytest.fixture
def key(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The key of a host that these tests may end."""
    if request.config.getoption("--host", default=None):
        pytest.skip("a running host is not ours to end")
    write_key(tmp_path / "lease.pem")
    return tmp_path / "lease.pem"


async def test_it_says_so_takes_nothing_new_saves_goes_on_and_ends_as_soon_as_it_is_empty(key: Path):
    with serving(key, ENVMESH_HOST_DRAIN_DEADLINE="300") as host:
        async with channel_to(host.address) as channel, Stream.opened(channel) as stream:
            wire, unary = StreamWire(channel, stream), UnaryWire(channel)
            tally, saved, late = Episode("tally"), Episode("saved"), Episode("tally")
            await wire.reset(tally, seed=7)
            await wire.reset(saved, seed=7)
            await wire.step(saved, 1, 5)
            unshown = await acquire(channel, "tally")
            await wire.slot(late)  # an idle slot

            host.process.send_signal(signal.SIGTERM)
            notice = await stream.notice(pb.NOTICE_KIND_DRAINING)
            assert 290 <= notice.deadline.seconds <= 300

            kept = await stream.next_event(lambda event: event.kind == pb.EVENT_KIND_CHECKPOINT)
            assert pb.SealedCheckpoint.FromString(kept.payload).index == 1
            for refused_call in (
                wire.bind(unshown.token), wire.reset(late), unary.reset(Episode("tally")), acquire(channel, "tally"),
            ):  # fmt: skip
                with pytest.raises(Refused) as refused:
                    await refused_call
                assert refused.value.verdict in (DRAINING, "PERMISSION_DENIED LEASE_INVALID")
            with pytest.raises(Refused) as refused:
                await unary.reset(Episode("tally"))
            assert refused.value.verdict == DRAINING

            assert content((await wire.step(tally, 1, 5)).observation) == 12
            assert host.process.poll() is None, "it waits for its episodes"
            await wire.close(tally)
            await wire.close(saved)
        assert host.wait() == 0


async def test_everything_that_went_on_since_its_last_checkpoint_is_saved_at_once(key: Path):
    with serving(key, ENVMESH_HOST_DRAIN_DEADLINE="300") as host:
        async with channel_to(host.address) as channel, Stream.opened(channel) as stream:
            wire = StreamWire(channel, stream)
            episodes = [Episode("saved") for _ in range(20)]
            for number, episode in enumerate(episodes):
                await wire.reset(episode, seed=number)
                await wire.step(episode, 1, 5)
            host.process.send_signal(signal.SIGTERM)
            await stream.notice(pb.NOTICE_KIND_DRAINING)
            saved: set[int] = set()
            while len(saved) < len(episodes):
                kept = await stream.next_event(lambda event: event.kind == pb.EVENT_KIND_CHECKPOINT)
                saved.add(kept.handle)
                assert pb.SealedCheckpoint.FromString(kept.payload).index == 1
            for episode in episodes:
                await wire.step(episode, 2, 5)
                await wire.close(episode)
        assert host.wait() == 0


async def test_what_is_left_at_the_deadline_is_preempted(key: Path):
    with serving(key, ENVMESH_HOST_DRAIN_DEADLINE="1") as host:
        async with channel_to(host.address) as channel, Stream.opened(channel) as stream:
            wire = StreamWire(channel, stream)
            await wire.reset(Episode("tally"), seed=7)
            host.process.send_signal(signal.SIGTERM)
            notice = await stream.notice(pb.NOTICE_KIND_COPIES_LOST)
            assert notice.failure.cause == error_reason_pb2.ERROR_REASON_PREEMPTED
            assert len(notice.handles) == 1
            assert notice.failure.retryable
        assert host.wait() == 0


async def test_an_episode_moves_and_its_old_copy_is_closed_under_the_newer_epoch(key: Path):
    with serving(key, ENVMESH_HOST_DRAIN_DEADLINE="300") as host:
        async with channel_to(host.address) as channel, Stream.opened(channel) as stream:
            wire = StreamWire(channel, stream)
            episode = Episode("tally")
            await wire.reset(episode, seed=7)
            host.process.send_signal(signal.SIGTERM)
            await stream.notice(pb.NOTICE_KIND_DRAINING)
            moved = pb.CloseRequest(episode_id=episode.episode_id, epoch=episode.epoch + 1)
            closed = await stream.ask(Row(999, pb.COMMAND_KIND_CLOSE, payload=moved.SerializeToString()))
            assert closed.kind == pb.EVENT_KIND_CLOSED
        assert host.wait() == 0
