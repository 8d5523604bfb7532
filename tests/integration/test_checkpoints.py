"""Checkpoints of a real host, spoken to by hand: when they are taken, where they are kept, and what comes back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, value
from tests.compliance.stream import Event, Row, Stream
from tests.compliance.wire import StreamWire, channel_to
from tests.integration.command_line import Running, eventually, started

ROOT = Path(__file__).resolve().parents[2]
SERVED = {
    "saved": "Saved",
    "thread": "SavedInThread",
    "process": "SavedInWorker",
    "aside": "SavedAside",
    "aside-thread": "SavedAsideInThread",
    "aside-process": "SavedAsideInWorker",
    "often": "SavedOften",
    "chancy": "Chancy",
    "unsavable": "Unsavable",
    "slow": "Saved?pause=0.01&length=1000",
    "large": "Saved?ballast=200000&length=1000",
    "large-process": "SavedInWorker?ballast=200000&length=1000",
    "large-chancy": "Chancy?ballast=200000&length=1000",
}
ISOLATIONS = ["saved", "thread", "process", "aside", "aside-thread", "aside-process"]
CHECKPOINT = pb.EVENT_KIND_CHECKPOINT

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("checkpoints")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def host(store: Path) -> Iterator[Running]:
    targets = [f"{name}=tests.environments.recoverable:{target}" for name, target in SERVED.items()]
    variables = {
        "ENVMESH_HOST_CHECKPOINT_STORE": store.as_uri(),
        "ENVMESH_HOST_CHECKPOINT_STEPS": "1000",
        "ENVMESH_HOST_WORKERS": "1",
    }
    with started("serve", *targets, "--listen", "127.0.0.1:0", cwd=ROOT, **variables) as running:
        yield running


@asynccontextmanager
async def client(host: Running, **hello: Any) -> AsyncIterator[StreamWire]:
    async with AsyncExitStack() as stack:
        channel: grpc.aio.Channel = await stack.enter_async_context(channel_to(host.address))
        wire = StreamWire(channel, await stack.enter_async_context(Stream.opened(channel, **hello)))
        stack.push_async_callback(wire.leave)
        yield wire


async def unasked(wire: StreamWire, episode: Episode) -> Event:
    """The next checkpoint of an episode that nobody asked for."""
    handle = wire.handle(episode)
    return await wire.stream.next_event(lambda event: event.kind == CHECKPOINT and event.handle == handle)


def held(wire: StreamWire, episode: Episode) -> list[int]:
    """The steps of its checkpoints that have come and were not looked at yet."""
    return [e.index for e in wire.stream.events if e.kind == CHECKPOINT and e.handle == wire.handle(episode)]


def seen(outcome: pb.Outcome) -> bytes:
    return outcome.observation.SerializeToString(deterministic=True)


def files(store: Path) -> set[str]:
    return {str(file.relative_to(store)) for file in store.rglob("*") if file.is_file()}


def journal_of(event: Event) -> pb.Journal:
    sealed = pb.SealedCheckpoint.FromString(event.payload)
    return pb.Journal(format_version=1, entries=[pb.JournalEntry(checkpoint=sealed)])


async def play(wire: StreamWire, episode: Episode, first: int, last: int) -> list[bytes]:
    return [seen(await wire.step(episode, index, index % 3)) for index in range(first, last + 1)]


# ---- when


@pytest.mark.parametrize("name", ISOLATIONS)
async def test_every_so_many_steps_as_the_client_says_and_exact_in_every_isolation(host: Running, name: str):
    async with client(host, checkpoint_steps=4) as wire:
        episode = Episode(name)
        await wire.reset(episode, seed=5)
        await play(wire, episode, 1, 9)
        early, late = await unasked(wire, episode), await unasked(wire, episode)
        assert (early.index, late.index) == (4, 8)
        further = await play(wire, episode, 10, 14)
        for event, fork in ((early, True), (late, False)):
            rebuilt = episode.fork() if fork else episode.rebuilt()
            response = await wire.resume(rebuilt, journal=journal_of(event))
            assert response.last.index == event.index
            assert (await play(wire, rebuilt, event.index + 1, 14))[-5:] == further


async def test_as_the_environment_declares_and_before_that_as_the_client_says(host: Running):
    for hello, expected in (({}, [3, 6]), ({"checkpoint_steps": 2}, [2, 4, 6])):
        async with client(host, **hello) as wire:
            episode = Episode("often")
            await wire.reset(episode, seed=1)
            await play(wire, episode, 1, 7)
            assert held(wire, episode) == expected


async def test_with_the_first_step_after_so_long(host: Running):
    interval = duration_pb2.Duration(nanos=200_000_000)
    async with client(host, checkpoint_interval=interval) as wire:
        episode = Episode("slow")
        await wire.reset(episode, seed=1)
        index = 0
        while len(held(wire, episode)) < 2:
            index += 1
            await wire.step(episode, index, 1)
        first, second = held(wire, episode)
        assert 1 <= first < second < 900, "of steps that take 10 ms at least"


async def test_a_negative_interval_is_refused(host: Running):
    with pytest.raises(Refused, match="not negative"):
        async with client(host, checkpoint_interval=duration_pb2.Duration(seconds=-1)):
            pass


@pytest.mark.parametrize("name", ["chancy", "large-chancy"])
async def test_what_could_not_be_replayed_comes_only_with_its_checkpoint(host: Running, name: str):
    async with client(host) as wire:
        episode = Episode(name)
        await wire.reset(episode, seed=1)
        await play(wire, episode, 1, 3)
        handle = wire.handle(episode)
        assert held(wire, episode) == [0, 1, 2, 3]
        rows = [
            (event_kind, index)
            for frame in wire.stream.frames
            for event_kind, index, at in zip(
                frame.kinds or [pb.EVENT_KIND_OUTCOME] * len(frame.handles), frame.indices or [0] * 99,
                frame.handles, strict=False,
            )
            if at == handle and event_kind in (CHECKPOINT, pb.EVENT_KIND_OUTCOME)
        ]  # fmt: skip
        assert rows == [(kind, index) for index in range(4) for kind in (CHECKPOINT, pb.EVENT_KIND_OUTCOME)]
        *_, event = [await unasked(wire, episode) for _ in range(4)]
        assert (await wire.resume(episode.fork(), journal=journal_of(event))).last.index == 3


async def test_a_step_that_comes_behind_a_checkpoint_is_done_once(host: Running):
    async with client(host) as wire:
        episode = Episode("process")
        await wire.reset(episode, seed=1)
        handle, action = wire.handle(episode), value(2).SerializeToString()
        other = value(3).SerializeToString()
        await wire.stream.send(
            Row(handle, pb.COMMAND_KIND_CHECKPOINT, 7),
            Row(handle, index=1, payload=action),
            Row(handle, index=1, payload=action),
            Row(handle, index=1, payload=other),
        )
        saved = await wire.stream.answer(handle, kinds=(CHECKPOINT,))
        assert pb.SealedCheckpoint.FromString(saved.payload).index == 0
        with pytest.raises(Refused, match="another action"):
            await wire.stream.answer(handle, kinds=(pb.EVENT_KIND_FAILURE,))
        answers = [(await wire.stream.answer(handle, 1)).outcome() for _ in range(2)]
        assert answers[0] == answers[1]
        again = episode.fork()
        await wire.reset(again, seed=1)
        assert seen(await wire.step(again, 1, 2)) == seen(answers[0])


async def test_a_checkpoint_that_raises_ends_its_episode_and_says_so(host: Running):
    async with client(host, checkpoint_steps=2) as wire:
        episode, neighbour = Episode("unsavable"), Episode("unsavable")
        await wire.reset(episode, seed=1)
        await wire.reset(neighbour, seed=1)
        await wire.step(episode, 1, 0)
        await wire.step(episode, 2, 4)
        with pytest.raises(Refused, match="the disk is full") as refused:
            await wire.step(episode, 3, 0)
        assert refused.value.reason == "ENVIRONMENT_RAISED"
        assert refused.value.failure is not None
        await play(wire, neighbour, 1, 2)
        assert (await unasked(wire, neighbour)).index == 2


@pytest.mark.parametrize("name", ISOLATIONS)
async def test_a_branch_may_draw_from_other_randomness_and_is_rebuilt_with_it(host: Running, name: str):
    async with client(host) as wire:
        episode = Episode(name)
        await wire.reset(episode, seed=5)
        await play(wire, episode, 1, 5)
        journal = episode.copied_journal()
        journal.entries.add(reseed=99)
        further = await play(wire, episode, 6, 8)
        branches = [episode.fork(), episode.fork()]
        seen_there = []
        for branch in branches:
            branch.journal.CopyFrom(journal)
            await wire.resume(branch, journal=journal)
            seen_there.append(await play(wire, branch, 6, 8))
        assert seen_there[0] == seen_there[1] != further
        rebuilt = branches[0].rebuilt()
        assert (await wire.resume(rebuilt, journal=rebuilt.journal)).replayed == 8


async def test_a_drain_saves_each_episode_once_and_can_be_long(tmp_path: Path):
    target = "saved=tests.environments.recoverable:Saved?length=1000"
    settings = {"ENVMESH_HOST_CHECKPOINT_STEPS": "1000", "ENVMESH_HOST_DRAIN_DEADLINE": "60"}
    with started("serve", target, "--listen", "127.0.0.1:0", cwd=ROOT, **settings) as running:
        async with client(running) as wire:
            episode = Episode("saved")
            await wire.reset(episode, seed=1)
            await play(wire, episode, 1, 3)
            running.process.send_signal(signal.SIGTERM)
            await wire.stream.notice(pb.NOTICE_KIND_DRAINING)
            event = await unasked(wire, episode)
            assert event.index == 3
            await play(wire, episode, 4, 6)
            assert held(wire, episode) == []
            await wire.close(episode)
        assert await asyncio.to_thread(running.wait) == 0


# ---- the store


@pytest.mark.slow
async def test_many_large_ones_fill_neither_the_host_nor_the_client(store: Path):
    """100 episodes of 3 MB, all due at the same moment: their 300 MB are never all in memory."""
    target = "vast=tests.environments.recoverable:Saved?ballast=3000000&length=1000"
    settings = {
        "ENVMESH_HOST_CHECKPOINT_STORE": store.as_uri(),
        "ENVMESH_HOST_CHECKPOINT_STEPS": "1000",
        "ENVMESH_HOST_DRAIN_DEADLINE": "240",
    }
    with started("serve", target, "--listen", "127.0.0.1:0", cwd=ROOT, **settings) as running:
        async with client(running) as wire:
            episodes = [Episode("vast") for _ in range(100)]
            for episode in episodes:
                await wire.reset(episode, seed=1)
                await wire.step(episode, 1, 1)
            before = most_memory(running.process.pid)
            running.process.send_signal(signal.SIGTERM)
            events = [await unasked(wire, episode) for episode in episodes]
            assert all(len(event.payload) < 300 for event in events)
            assert most_memory(running.process.pid) - before < 260 << 20
            for episode in episodes:
                await wire.close(episode)
        assert await asyncio.to_thread(running.wait) == 0


def most_memory(pid: int) -> int:
    """The most resident memory that a process has had, in bytes."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("name", ["large", "large-process"])
async def test_a_large_one_is_stored_told_by_reference_and_goes_at_close(
    host: Running, store: Path, name: str
):
    before = files(store)
    async with client(host, checkpoint_steps=3) as wire:
        episode = Episode(name)
        await wire.reset(episode, seed=5)
        events: list[Event] = []
        for index in range(1, 31):
            await wire.step(episode, index, index % 3)
            if index % 3 == 0:
                events.append(await unasked(wire, episode))
                assert len(files(store) - before) <= 3
        sealed = pb.SealedCheckpoint.FromString(events[-1].payload)
        assert not sealed.content
        assert sealed.reference in files(store)
        assert len(events[-1].payload) < 300
        further = await play(wire, episode, 31, 33)
        branch = episode.fork()
        await wire.resume(branch, journal=journal_of(events[-1]))
        own = await unasked(wire, branch)
        assert own.index == 30, "a branch is saved as soon as it stands, for its parent may go"
        assert await play(wire, branch, 31, 33) == further
        await wire.close(episode)
        await gone(store, sealed.reference)
        again = branch.rebuilt()
        await wire.resume(again, journal=journal_of(own))
        assert await play(wire, again, 31, 33) == further
        refused = await refusal(wire.resume(episode.fork(), journal=journal_of(events[-1])))
        assert refused.verdict == "DATA_LOSS REPLAY_DIVERGED"
        assert "not in the store any more" in refused.message


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


async def gone(store: Path, name: str) -> None:
    assert await asyncio.to_thread(eventually, lambda: not (store / name).exists())


async def test_a_copy_whose_episode_has_moved_leaves_its_checkpoints(host: Running, store: Path):
    async with client(host, checkpoint_steps=1) as wire:
        episode = Episode("large")
        await wire.reset(episode, seed=5)
        await wire.step(episode, 1, 1)
        event = await unasked(wire, episode)
        request = pb.CloseRequest(episode_id=episode.episode_id, epoch=episode.epoch + 1)
        await wire.stream.ask(Row(9999, pb.COMMAND_KIND_CLOSE, payload=request.SerializeToString()))
        moved = episode.rebuilt()
        assert (await wire.resume(moved, journal=journal_of(event))).last.index == 1
        sealed = pb.SealedCheckpoint.FromString(event.payload)
        await wire.close(moved)
        await gone(store, sealed.reference)


async def test_forged_swapped_damaged_and_wandering_references(host: Running, store: Path, tmp_path: Path):
    async with client(host, checkpoint_steps=1) as wire:
        episode, other = Episode("large"), Episode("large")
        events: list[Event] = []
        for each in (episode, other):
            await wire.reset(each, seed=len(events))
            await wire.step(each, 1, 1)
            events.append(await unasked(wire, each))
        mine, theirs = (pb.SealedCheckpoint.FromString(event.payload) for event in events)
        owner, _, name = mine.reference.partition("/")
        cases = {
            theirs.reference: "PERMISSION_DENIED NOT_YOURS",
            f"{'0' * 16}/{name}": "PERMISSION_DENIED NOT_YOURS",
            f"{owner}/{name[:-1]}{'0' if name[-1] != '0' else '1'}": "DATA_LOSS REPLAY_DIVERGED",
            "../../etc/passwd": "INVALID_ARGUMENT MALFORMED",
            f"{owner}/../{owner}/{name}": "INVALID_ARGUMENT MALFORMED",
            f"{mine.reference}\n": "INVALID_ARGUMENT MALFORMED",
            "file:///etc/passwd": "INVALID_ARGUMENT MALFORMED",
            "x" * 100_000: "INVALID_ARGUMENT MALFORMED",
        }
        for reference, verdict in cases.items():
            event_journal = journal_of(events[0])
            event_journal.entries[0].checkpoint.reference = reference
            refused = await refusal(wire.resume(episode.fork(), journal=event_journal))
            assert refused.verdict == verdict, reference[:80]
            assert len(refused.message) < 400
        data = (store / mine.reference).read_bytes()
        for damaged in (
            b"",
            data[:-7],
            data[: len(data) // 2],
            b"\xff" * 64,
            bytes([data[0] ^ 1]) + data[1:],
        ):
            (store / mine.reference).write_bytes(damaged)
            refused = await refusal(wire.resume(episode.fork(), journal=journal_of(events[0])))
            assert refused.reason in ("NOT_YOURS", "MALFORMED")
        assert seen(await wire.step(episode, 2, 1)), "and the live copy goes on"


async def test_a_store_that_is_away_costs_a_warning_and_no_episode(
    tmp_path_factory: pytest.TempPathFactory,
):
    place = tmp_path_factory.mktemp("away") / "store"
    place.write_text("a file, where a directory should be")
    variables = {"ENVMESH_HOST_CHECKPOINT_STORE": place.as_uri(), "ENVMESH_HOST_CHECKPOINT_STEPS": "2"}
    targets = [f"large=tests.environments.recoverable:{SERVED['large']}"]
    targets += [f"large-chancy=tests.environments.recoverable:{SERVED['large-chancy']}"]
    with started("serve", *targets, "--listen", "127.0.0.1:0", cwd=ROOT, **variables) as running:
        async with client(running) as wire:
            for name in ("large", "large-chancy"):
                episode = Episode(name)
                await wire.reset(episode, seed=5)
                await play(wire, episode, 1, 10)
                assert held(wire, episode) == []
                refused = await refusal(wire.checkpoint(episode))
                assert refused.verdict == "RESOURCE_EXHAUSTED NO_CAPACITY"
                assert refused.failure is None
                await play(wire, episode, 11, 12)
        assert "cannot be written" in running.said("is not saved")
