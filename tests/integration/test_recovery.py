"""What a trainer sees when hosts, links and workers are lost: a pause, and the same trajectories as without."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest

import envmesh
from envmesh.errors import EpisodeAborted, EpisodeTakenOver, Unsupported
from envmesh.rebuild import Loss
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.local_mesh import LocalMesh
from tests.integration.closed_parts import until
from tests.integration.command_line import descendants
from tests.integration.recoverable_parts import ROOT, SEEDS, alike, busiest, connected, mesh_of, play, policy

pytestmark = pytest.mark.timeout(180)


async def disturb(local: LocalMesh, how: str) -> None:
    child, host_id = await busiest(local)
    assert child.process_id is not None
    if how == "kill":
        child.crash()
    elif how == "terminate":
        os.kill(child.process_id, signal.SIGTERM)
    elif how == "kill worker":
        worker = max(descendants(child.process_id))
        os.kill(worker, signal.SIGKILL)
    elif how == "freeze":
        process = child.process_id
        os.kill(process, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(5.0, os.kill, process, signal.SIGCONT)
    else:
        async with grpc.aio.insecure_channel(local.address) as channel:
            await fleet_pb2_grpc.FleetServiceStub(channel).Drain(fleet_pb2.DrainRequest(host_id=host_id))


async def play_disturbed(
    mesh: envmesh.Mesh, local: LocalMesh, how: str
) -> dict[int | None, envmesh.Trajectory]:
    """Play, and once every episode has been begun, disturb."""
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(play(mesh), name="playing")
        await disturb(local, how)
    return playing.result()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("Replayed", "kill"),
        pytest.param("Replayed", "freeze", marks=pytest.mark.slow),
        pytest.param("Replayed", "terminate", marks=pytest.mark.slow),
        ("ReplayedInWorker", "kill worker"),
        pytest.param("Saved", "kill", marks=pytest.mark.slow),
        ("Saved", "drain"),
        pytest.param("SavedInWorker", "kill worker", marks=pytest.mark.slow),
    ],
)
async def test_a_loss_is_a_pause_and_nothing_else(name, how):
    async with mesh_of(name) as local, envmesh.connect(local.address, liveness_window=2.0) as mesh:
        undisturbed = await play(mesh)
        disturbed = await play_disturbed(mesh, local, how)
        assert not [trajectory.failure for trajectory in disturbed.values() if trajectory.failure]
        assert [seed for seed in SEEDS if not alike(undisturbed[seed], disturbed[seed])] == []
        assert mesh.statistics.resumes
        for kind, cause in mesh.statistics.resumes:
            assert kind in ("replay", "live")
            assert Loss(cause)
        resumed = [trajectory for trajectory in disturbed.values() if trajectory.resumes]
        assert resumed
        assert all(resume.seconds >= 0 for trajectory in resumed for resume in trajectory.resumes)
        assert not mesh.recovery.rebuilds


@pytest.mark.slow
async def test_an_episode_by_hand_and_a_vector_survive_too():
    async with (
        connected("Saved") as (local, mesh),
        mesh.episode("walk", seed=3) as alone,
        mesh.vector("walk", 4, seed=0) as vector,
    ):
        batch = await vector.reset()
        for step in range(30):
            outcome = await alone.step(policy(alone.observation))
            batch = await vector.step([policy(observation) for observation in batch.observations])
            if step == 12:
                for child in local.hosts:
                    child.crash()
        assert outcome.index == 30
        assert alone.resumes
        assert batch.valid.all()
        expected = await play(mesh)
        assert alone.outcome.digest == expected[3].digests[30]
        place = [observation[1] for observation in batch.observations]
        assert place == [expected[seed].observations[30][1] for seed in range(4)]


async def test_checkpoints_that_overtake_their_outcomes_are_adopted_with_them():
    """Steps cannot be repeated here: from any older checkpoint the journal would lead somewhere else."""
    async with connected("ChancyAndLarge", "length=30") as (local, mesh), asyncio.timeout(120):

        async def step_a_vector() -> None:
            async with mesh.vector("walk", 8, seed=100) as vector:
                batch = await vector.reset()
                for _ in range(30):
                    batch = await vector.step([policy(observation) for observation in batch.observations])
                    assert batch.valid.all()

        async def crash_in_turns() -> None:
            for child in local.hosts * 2:
                await busiest(local)
                child.crash()
                await until(lambda child=child: child.ready.is_set())

        async with asyncio.TaskGroup() as group:
            group.create_task(step_a_vector(), name="vector")
            crashing = group.create_task(crash_in_turns(), name="crashing")
            while not crashing.done():
                for trajectory in (await play(mesh)).values():
                    assert trajectory.failure is None
        assert mesh.statistics.hosts_lost


async def test_what_acts_on_the_world_is_not_done_twice(tmp_path):
    ledger = tmp_path / "ledger"
    settings = {"ENVMESH_TEST_LEDGER": str(ledger)}
    async with (
        mesh_of("Paying", **settings) as local,
        envmesh.connect(local.address, reattach_timeout=1.0) as mesh,
    ):
        trajectories = await play_disturbed(mesh, local, "kill")
    failed = [trajectory for trajectory in trajectories.values() if trajectory.failure]
    assert failed
    for trajectory in failed:
        assert trajectory.failure.cause == "HOST_LOST"
        assert not trajectory.failure.reward_valid
        assert trajectory.failure.retryable
    acts = ledger.read_text().split("\n")[:-1]
    assert len(acts) == len(set(acts))


@pytest.mark.parametrize("name", ["Replayed", "ReplayedInWorker", "Saved", "SavedInWorker"])
async def test_branches_are_exact_and_independent(name):
    async with connected(name, "length=40") as (_, mesh), mesh.episode("walk", seed=5) as trunk:
        for _ in range(17):
            await trunk.step(policy(trunk.observation))
        branches = await trunk.fork(3)
        assert [branch.index for branch in branches] == [17] * 3
        assert len({branch.episode_id for branch in (trunk, *branches)}) == 4
        futures = []
        for actor in (trunk, *branches[:2]):
            digests = []
            while not actor.done:
                digests.append((await actor.step(1)).digest)
            futures.append(digests)
        assert futures[0] == futures[1] == futures[2]
        other = [(await branches[2].step(4)).digest]
        assert other[0] != futures[0][0]
        for branch in branches:
            await branch.close()


async def test_branches_can_have_dice_of_their_own_and_class_none_has_none(tmp_path):
    async with connected("Saved", "length=40") as (_, mesh), mesh.episode("walk", seed=5) as trunk:
        await trunk.step(1)
        one, other = await trunk.fork(2, reseed=True)
        assert (await one.step(1)).digest != (await other.step(1)).digest
        await one.close()
        await other.close()
    settings = {"ENVMESH_TEST_LEDGER": str(tmp_path / "ledger")}
    async with (
        connected("Paying", "length=40", **settings) as (_, mesh),
        mesh.episode("walk", seed=5) as trunk,
    ):
        with pytest.raises(Unsupported, match="cannot be forked") as caught:
            await trunk.fork(2)
        assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(envmesh.InvalidRequest, match="whole number"):
            await trunk.fork(0)


async def test_a_takeover_stops_the_former_owner():
    async with connected("Replayed") as (local, first), envmesh.connect(local.address) as second:
        mine = first.episode("walk", seed=1)
        await mine.begin()
        await mine.step(1)
        journal, epoch = mine.journal.packed(), mine.epoch
        token = await mine._aside(9, b"", 5.0)  # DETACH, while the owner goes on
        state = {
            "environment": mine.spec.key, "episode_id": mine.episode_id, "epoch": epoch, "index": mine.index,
            "flags": 0, "seed": 1, "task": "", "split": "", "address": mine.place[0].connection.address,
            "host_id": mine.place[0].connection.host_id, "attach_token": token, "metadata": (),
            "journal": envmesh.journal.Journal.unpacked(journal), "last": pb.Outcome(),
        }  # fmt: skip
        theirs = envmesh.session.Episode(second, second.pool("walk"), mine.spec, mine.beginning, 10.0, None)
        await theirs.take_over(state)
        await theirs.step(1)
        with pytest.raises((EpisodeTakenOver, EpisodeAborted)):
            await mine.step(1)
        await theirs.close()


async def test_a_detached_episode_is_rebuilt_when_its_host_is_gone():
    async with mesh_of("Replayed") as local, envmesh.connect(local.address) as mesh:
        episode = mesh.episode("walk", seed=2)
        await episode.begin()
        for _ in range(5):
            await episode.step(2)
        last = episode.outcome.digest
        data = await episode.detach()
        for child in local.hosts:
            child.crash()
        async with envmesh.connect(local.address) as other, await other.attach(data) as taken:
            assert (taken.index, taken.outcome.digest) == (5, last)
            await taken.step(2)


CRASHING = """
import asyncio, os, sys
import envmesh
calls = 0
def policy(observation):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return int(observation[1] * 10) % 5
async def main():
    async with envmesh.connect(sys.argv[1], journal=sys.argv[2], plaintext=True) as mesh:
        if len(sys.argv) > 4:
            asked = {"episodes": 12, "concurrency": 6, "group_size": 3, "spares": 1, "measure": True}
            async for group in mesh.rollouts("walk", policy, **asked):
                print(*sorted(trajectory.seed for trajectory in group), flush=True)
            return
        async for trajectory in mesh.rollouts("walk", policy, episodes=12, concurrency=6, seed=4):
            print(trajectory.seed, trajectory.digests[-1], len(trajectory), trajectory.failure, flush=True)
asyncio.run(main())
"""


async def crashing_run(address: str, journal: Path, calls: int, *more: str) -> tuple[int, list[str]]:
    """A trainer that is killed at its so-manieth call of the policy; its status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CRASHING,
        address,
        str(journal),
        str(calls),
        *more,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Replayed", "Saved", "Paying"])
async def test_a_trainer_that_crashed_goes_on_from_its_journal(name, tmp_path):
    settings = {"ENVMESH_TEST_LEDGER": str(tmp_path / "ledger")}
    async with mesh_of(name, "length=20", **settings) as local:
        status, whole = await crashing_run(local.address, tmp_path / "whole", 0)
        assert (status, len(whole)) == (0, 12)
        journal = tmp_path / "journal"
        printed = []
        for calls in (70, 90, 0):
            status, lines = await crashing_run(local.address, journal, calls)
            assert status == (-9 if calls else 0)
            printed += lines
        assert sorted(set(printed)) == sorted(whole)
        twice = len(printed) - len(set(printed))
        assert twice <= 2  # printed, and killed before the loop came back for more
        status, lines = await crashing_run(local.address, journal, 0)
        assert (status, lines) == (0, [])  # everything is over
    if name == "Paying":
        acts = (tmp_path / "ledger").read_text().splitlines()
        assert len(acts) == 2 * len(set(acts))  # each once in the whole run, once in the other


async def test_groups_of_a_trainer_that_crashed_stay_whole(tmp_path):
    async with mesh_of("Replayed", "length=20") as local:
        groups: list[list[str]] = []
        for calls in (50, 100, 0):
            status, lines = await crashing_run(local.address, tmp_path / "journal", calls, "groups")
            assert status == (-9 if calls else 0)
            groups += map(str.split, lines)
        assert [len(group) for group in groups] == [3] * len(groups)
        assert [len(set(group)) for group in groups] == [1] * len(groups), (
            "one seed a group, which nobody gave"
        )
        assert len({group[0] for group in groups}) == 4
        assert len(groups) <= 4 + 2  # printed, and killed before the loop came back for more
        assert await crashing_run(local.address, tmp_path / "journal", 0, "groups") == (0, [])


async def test_those_whose_turn_to_be_rebuilt_had_not_come_outlive_that_host_too():
    """A host dies; more episodes than are rebuilt at once are on their way to the next one, when that dies as well."""
    seeds, target = range(240), "walk=tests.environments.recoverable:Replayed?length=40&pause=0.001"
    async with (
        LocalMesh([target], hosts=3, host_settings={"PYTHONPATH": str(ROOT)}) as local,
        envmesh.connect(local.address) as mesh,
    ):

        async def kill_two() -> None:
            child, _ = await busiest(local)
            child.crash()
            crowded = await until(
                lambda: [
                    connection.address
                    for connection, those in mesh.recovery._lanes.items()
                    if any(len(lane._waiting) + len(lane._held) > 20 for lane in those.values())
                ]
            )
            next(each for each in local.hosts if each.address in crowded).crash()

        async with asyncio.TaskGroup() as group:
            group.create_task(kill_two(), name="kill-two")
            rollouts = mesh.rollouts("walk", policy, seeds=seeds, concurrency=len(seeds))
            ended = {trajectory.seed: trajectory async for trajectory in rollouts}
        assert [seed for seed in seeds if ended[seed].failure is not None] == []
        assert {len(trajectory.rewards) for trajectory in ended.values()} == {40}


async def test_an_avoided_host_serves_again_once_that_is_over():
    """A queued request does not go on naming hosts that need not be avoided any more."""
    async with connected("Saved") as (local, mesh), asyncio.timeout(20):
        async with grpc.aio.insecure_channel(local.address) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            for host in (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet.hosts:
                mesh.recovery.avoid(host.identity.host_id, seconds=1.0)
        async with mesh.episode("walk", seed=1) as episode:
            assert (await episode.step(0)).index == 1
