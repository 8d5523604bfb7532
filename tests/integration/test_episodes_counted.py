"""What a host counts of episodes: each once, with all its rewards, whatever becomes of its copies."""

from __future__ import annotations

import secrets
from typing import Any, cast

import pytest

from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import encode
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.meters import HostMeters
from envmesh_host.rights import HostRights
from envmesh_host.served import Served
from envmesh_host.servicer import EnvironmentServicer
from envmesh_host.settings import HostSettings
from envmesh_host.slots import SlotTable
from envmesh_host.upkeep import Upkeep
from envmesh_service.leases import Sealer
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Registry
from tests.compliance.stream import Event
from tests.integration.engine_parts import EngineClient, GatedHost, journal_from

OUTCOME, SAVED = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_CHECKPOINT
RESUMED, FAILURE, NOTICE = pb.EVENT_KIND_RESUMED, pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_NOTICE
EPISODE = secrets.token_bytes(16)
SEED, LENGTH = 5, 4
PREEMPTED = Refusal("the host had to go", reason="PREEMPTED")


class Host:
    """An engine with one of the recoverable environments, played inline, and its one client."""

    def __init__(self, name: str, sealer: Sealer, length: int = LENGTH):
        definition = load(f"tests.environments.recoverable:{name}?length={length}")
        served = Served.prepare(definition)
        self.hosted = Hosted(served.info, served=served, runner=None, reuse=False, definition=definition)
        rights = HostRights("host", cast(Any, None), sealer)
        self.now = 0.0
        self.engine = Engine([self.hosted], SlotTable(4), rights, clock=lambda: self.now)
        self.client: EngineClient = GatedHost(self.engine, self.hosted.key).client()
        self.entries: list[pb.JournalEntry] = []
        self.rewards = 0.0

    async def begin(self) -> None:
        """Reset the episode."""
        self.client.begin(EPISODE, SEED)
        (event,) = await self.client.told(OUTCOME)
        reset = pb.ResetEntry(environment=self.hosted.key, seed=SEED)
        self.entries = [pb.JournalEntry(reset=reset, digest=event.digest)]

    async def step(self, index: int) -> None:
        """Act."""
        self.client.send(pb.COMMAND_KIND_STEP, index, encode(1))
        (event,) = await self.client.told(OUTCOME)
        self.entries.append(pb.JournalEntry(act=encode(1), digest=event.digest))
        self.rewards += event.reward

    async def save(self, index: int) -> Event:
        """Take a checkpoint."""
        self.client.send(pb.COMMAND_KIND_CHECKPOINT, index)
        (event,) = await self.client.told(SAVED)
        return event

    async def resume(self, journal: pb.Journal, kind: int = RESUMED) -> Event:
        """Rebuild the episode."""
        self.client.resume(EPISODE, 0, journal)
        (event,) = await self.client.told(kind)
        return event

    @property
    def journal(self) -> pb.Journal:
        """How the episode came to be where it is, from its reset on."""
        return pb.Journal(format_version=1, entries=self.entries)

    @property
    def counted(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Episodes by outcome, failures by cause, and those that nobody goes on with."""
        observed = self.hosted.observed
        return observed.outcomes, observed.failures, self.hosted.interrupted


async def played(name: str, steps: int, sealer: Sealer | None = None) -> Host:
    """A host whose episode has come so far."""
    host = Host(name, sealer or Sealer.generate())
    await host.begin()
    for index in range(1, steps + 1):
        await host.step(index)
    return host


async def test_an_episode_that_was_replayed_ends_with_the_return_of_all_its_steps():
    first = await played("Replayed", 2)
    second = Host("Replayed", Sealer.generate())
    resumed = await second.resume(first.journal)
    assert resumed.reward == pb.ResumeResponse.FromString(resumed.payload).last.reward
    for index in range(3, LENGTH + 1):
        await second.step(index)
    assert second.hosted.observed.returns == [pytest.approx(first.rewards + second.rewards)]
    assert second.hosted.return_sum == pytest.approx(first.rewards + second.rewards)


async def test_a_checkpoint_carries_the_return_so_far():
    sealer = Sealer.generate()
    first = await played("Saved", 2, sealer)
    journal = journal_from(await first.save(2))
    await first.step(3)
    journal.entries.append(first.entries[-1])
    second = Host("Saved", sealer)
    await second.resume(journal)
    await second.step(LENGTH)
    assert second.hosted.observed.returns == [pytest.approx(first.rewards + second.rewards)]


async def test_an_episode_whose_earlier_rewards_nobody_knows_counts_with_its_length_and_without_a_return():
    """Its checkpoint was taken by a host that did not note them."""
    sealer = Sealer.generate()
    first = await played("Saved", 2, sealer)
    content = pb.CheckpointContent.FromString(journal_from(await first.save(2)).entries[0].checkpoint.content)
    content.ClearField("return_so_far")
    sealed = first.engine.rights.seal(first.engine.episodes[EPISODE], content.SerializeToString())
    second = Host("Saved", sealer)
    await second.resume(pb.Journal(format_version=1, entries=[pb.JournalEntry(checkpoint=sealed)]))
    again = pb.SealedCheckpoint.FromString((await second.save(2)).payload)
    assert not pb.CheckpointContent.FromString(again.content).HasField("return_so_far")
    for index in range(3, LENGTH + 1):
        await second.step(index)
    observed = second.hosted.observed
    assert (observed.returns, observed.lengths, observed.outcomes) == ([], [LENGTH], {"terminated": 1})
    assert second.hosted.return_sum == 0.0


async def test_an_episode_that_moves_after_its_end_has_ended_once():
    first = await played("Replayed", LENGTH)
    second = Host("Replayed", Sealer.generate())
    await second.resume(first.journal)
    copy = second.engine.episodes[EPISODE]
    assert copy.ended
    second.engine.close(copy)
    observed = second.hosted.observed
    assert (observed.returns, observed.lengths, observed.outcomes) == ([], [], {})
    assert second.hosted.ended == 0


@pytest.mark.parametrize(
    ("name", "steps", "counted"),
    [
        ("Paying", 2, ({"failed": 1}, {"PREEMPTED": 1}, {"PREEMPTED": 1})),
        ("Replayed", 2, ({}, {}, {})),
        ("Saved", 2, ({}, {}, {})),
        ("Paying", LENGTH, ({"terminated": 1}, {}, {})),
        ("Replayed", LENGTH, ({"terminated": 1}, {}, {})),
    ],
)
async def test_a_host_that_goes_interrupts_what_has_not_ended_and_cannot_be_rebuilt(
    name: str, steps: int, counted: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ENVMESH_TEST_LEDGER", str(tmp_path / "ledger"))
    host = await played(name, steps)
    copies = list(host.engine.episodes.values())
    host.engine.fall(copies, PREEMPTED)
    for copy in copies:
        host.engine.close(copy, PREEMPTED)
    assert host.counted == counted


@pytest.mark.parametrize("reason", ["WORKER_LOST", "WORKER_CRASHED", "WORKER_SUSPECTED"])
@pytest.mark.parametrize(("name", "ends"), [("Paying", True), ("Replayed", False), ("Saved", False)])
async def test_an_episode_that_has_lost_its_worker_has_failed_unless_it_can_be_rebuilt(
    name: str, ends: bool, reason: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ENVMESH_TEST_LEDGER", str(tmp_path / "ledger"))
    host = await played(name, 2)
    copies = list(host.engine.episodes.values())
    host.engine.fall(copies, Refusal("its worker died", reason=reason))
    for copy in copies:
        host.engine.close(copy)
    assert host.counted == (({"failed": 1}, {reason: 1}, {reason: 1}) if ends else ({}, {reason: 1}, {}))
    assert host.hosted.failed == int(ends)


async def test_an_episode_that_moves_is_counted_where_it_ends():
    first = await played("Replayed", 2)
    second = Host("Replayed", Sealer.generate())
    await second.resume(first.journal)
    newer = pb.CloseRequest(episode_id=EPISODE, epoch=2)
    first.client.send(pb.COMMAND_KIND_CLOSE, 0, newer.SerializeToString())
    await first.client.told(pb.EVENT_KIND_CLOSED)
    for index in range(3, LENGTH + 1):
        await second.step(index)
    assert not first.engine.episodes
    assert (first.counted, second.counted) == (({}, {}, {}), ({"terminated": 1}, {}, {}))


async def test_a_copy_that_a_newer_one_takes_the_place_of_is_no_episode_that_was_closed():
    host = await played("Replayed", 2)
    copy = host.engine.episodes[EPISODE]
    del host.entries[1:]  # too far behind for the live copy to be taken over
    await host.resume(host.journal)
    assert host.engine.episodes[EPISODE] is not copy
    assert host.counted == ({}, {}, {})
    host.engine.close(host.engine.episodes[EPISODE])
    assert host.counted == ({"closed": 1}, {}, {})


@pytest.mark.parametrize(("steps", "outcome"), [(2, "failed"), (LENGTH, "terminated")])
async def test_an_episode_whose_grading_fails_after_its_end_is_over_once(steps: int, outcome: str):
    host = await played("Ungradable", steps)
    host.client.send(pb.COMMAND_KIND_REWARD, steps)
    (event,) = await host.client.told(FAILURE)
    assert event.refusal().reason == "ENVIRONMENT_RAISED"
    assert host.counted == ({outcome: 1}, {"ENVIRONMENT_RAISED": 1}, {})
    assert (host.hosted.ended, host.hosted.failed) == ((0, 1) if outcome == "failed" else (1, 0))


async def test_a_replay_that_diverges_is_counted_as_such_and_ends_no_episode():
    """Its client may go on with the old copy, or elsewhere."""
    first = await played("Replayed", 2)
    second = Host("Replayed", Sealer.generate())
    registry = Registry()
    meters = HostMeters(registry, second.engine, LoopLag())
    journal = first.journal
    journal.entries[1].digest ^= 1
    failure = await second.resume(journal, FAILURE)
    assert failure.refusal().reason == "REPLAY_DIVERGED"
    second.engine.fall(list(second.engine.episodes.values()), PREEMPTED)
    assert second.counted == ({}, {}, {})
    (told,) = second.hosted.recent_failures
    assert told.reason == "REPLAY_DIVERGED"
    meters.flush()
    assert b"envmesh_replay_divergences_total 1.0" in registry.text()


@pytest.mark.parametrize(
    ("steps", "counted"),
    [(2, ({"failed": 1}, {"EXPIRED": 1}, {})), (LENGTH, ({"terminated": 1}, {}, {}))],
)
async def test_an_episode_that_grows_too_old_for_its_client_has_failed_unless_it_had_ended(
    steps: int, counted: Any
):
    host = await played("Replayed", steps)
    settings = HostSettings(episode_age=60.0)
    upkeep = Upkeep(host.engine, EnvironmentServicer(host.engine, settings, "host", alone=True), settings)
    host.now = 61.0
    upkeep.tick(host.now)
    await host.client.told(NOTICE)
    assert not host.engine.episodes
    assert host.counted == counted
