"""Commands that nobody waits for any more: closed, cancelled, or out of patience. Nothing is done twice, nothing stays
taken, and nobody gets what was another's."""

import asyncio
import secrets

import pytest

import envmesh
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import decode
from tests.integration.bad_input.test_late_answers import Played, threads, workers
from tests.integration.closed_parts import until
from tests.integration.command_line import Running, started
from tests.integration.conftest import ROOT
from tests.integration.runner_play import playing

SLOW = "tests.environments.slow_to_begin:"


def slow_host(slots: int, environment: str = "SlowToBegin"):
    served = ("serve", f"slow={SLOW}{environment}", "--listen", "127.0.0.1:0")
    return started(*served, cwd=ROOT, ENVMESH_HOST_SLOTS=str(slots))


async def test_a_loop_that_is_left_while_episodes_begin_harms_none_that_follows():
    with slow_host(4) as host:
        async with envmesh.connect(host.address) as mesh, asyncio.timeout(30):
            async for _ in mesh.rollouts("slow", lambda observation: 0, seeds=range(40), concurrency=4):
                break
            seeds = []
            async for trajectory in mesh.rollouts(
                "slow", lambda observation: 0, seeds=range(8), concurrency=4
            ):
                assert trajectory.failure is None
                assert trajectory.observations[0] == f"begun {trajectory.seed}"
                seeds.append(trajectory.seed)
            assert sorted(seeds) == list(range(8))


async def cancelled_while_it_begins(episode: envmesh.Episode) -> None:
    beginning = asyncio.ensure_future(episode.begin())  # noqa: TID251 - awaited below
    await until(lambda: episode._slot is not None)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning


@pytest.mark.parametrize("closes", [False, True])
async def test_an_episode_that_is_cancelled_while_it_begins_gives_its_slot_back(closes: bool):
    with slow_host(1) as host:
        async with envmesh.connect(host.address) as mesh, asyncio.timeout(20):
            given_up = mesh.episode("slow", seed=1)
            await cancelled_while_it_begins(given_up)
            if closes:
                await given_up.close()
            assert not mesh.episodes
            for seed in (2, 3):
                async with mesh.episode("slow", seed=seed) as episode:
                    assert episode.observation == f"begun {seed}"


@pytest.mark.parametrize("make", [threads, workers], ids=["thread", "process"])
async def test_a_newer_epoch_while_the_older_one_begins_keeps_its_slot(make):
    async with playing(make, SLOW + "SlowToBegin", isolation="process", episodes_per_worker=4) as play:
        played = Played(play)
        episode_id, calls = secrets.token_bytes(16), []
        for epoch, seed in ((1, 1), (2, 2)):
            request = pb.ResetRequest(episode_id=episode_id, epoch=epoch, seed=seed)
            call = played.call()
            calls.append(call)
            played.engine.reset(
                request, request.SerializeToString(), lambda: played._holding, call, (call, 0, 0)
            )
        with pytest.raises(envmesh.EnvmeshError, match="newer"):
            await calls[0].wait(10, "the reset")
        assert decode((await calls[1].wait(10, "the reset"))[0]) == "begun 2"
        copy = played.engine.episodes[episode_id]
        assert decode((await played.step(copy, 1, 0).wait(10, "the step"))[0]) == "0 1"
        assert (copy.epoch, played.engine.slots.in_use) == (2, 1)


@pytest.fixture(scope="module")
def slow():
    with slow_host(4, "SlowInThread") as host:
        yield host


async def out_of_patience(episode: envmesh.Episode, action: str) -> None:
    with pytest.raises(envmesh.DeadlineExceeded):
        await episode.step(action, timeout=0.05)


async def test_a_step_is_awaited_again_also_when_its_outcome_came_meanwhile(slow: Running):
    async with envmesh.connect(slow.address) as mesh, mesh.episode("slow", seed=2) as episode:
        await out_of_patience(episode, "slow")
        with pytest.raises(envmesh.InvalidRequest, match="another action was sent at step 1"):
            await episode.step("jump")
        await until(lambda: episode.index == 1)
        with pytest.raises(envmesh.InvalidRequest, match="another action was sent at step 1"):
            await episode.step("jump")
        outcome = await episode.step("slow")
        assert (outcome.index, outcome.observation) == (1, "slow 1")
        assert (await episode.step("slow")).observation == "slow 2"


async def test_who_has_looked_at_an_outcome_goes_on_from_there(slow: Running):
    async with envmesh.connect(slow.address) as mesh, mesh.episode("slow", seed=2) as episode:
        await out_of_patience(episode, "slow")
        await until(lambda: episode.index == 1)
        assert episode.observation == "slow 1"
        assert (await episode.step("jump")).observation == "jump 2"


async def test_a_reset_beyond_its_patience_leaves_no_copy_behind():
    with slow_host(1) as host:
        async with envmesh.connect(host.address) as mesh, asyncio.timeout(20):
            late = mesh.episode("slow", seed=1)
            beginning = asyncio.ensure_future(late.begin())  # noqa: TID251 - awaited below
            await until(lambda: late._slot is not None)
            late.overdue()
            with pytest.raises(envmesh.DeadlineExceeded):
                await beginning
            async with mesh.episode("slow", seed=2) as episode:
                assert episode.observation == "begun 2"


async def test_who_waits_for_a_slot_hears_that_the_client_was_closed():
    with slow_host(1) as host:
        async with asyncio.timeout(20):
            mesh = envmesh.connect(host.address)
            async with mesh:
                await mesh.episode("slow", seed=2).begin()
                waiting = asyncio.ensure_future(mesh.episode("slow", seed=4).begin())  # noqa: TID251 - awaited below
                await until(lambda: mesh.pool("slow")._line.waiting)
            with pytest.raises(
                envmesh.MeshUnavailable, match="the client was closed while a slot was waited for"
            ):
                await waiting


async def test_leases_that_went_back_are_forgotten():
    served = ("serve", f"slow={SLOW}SlowInThread", "--listen", "127.0.0.1:0")
    with started(*served, cwd=ROOT, ENVMESH_HOST_LEASE_IDLE="0.2") as host:
        async with envmesh.connect(host.address) as mesh, asyncio.timeout(30):
            for _ in range(3):
                async with mesh.episode("slow", seed=2) as episode:
                    connection = episode.place[0].connection
                await until(lambda: not mesh.pool("slow")._bindings)
                assert not connection.sessions


async def test_a_step_that_is_cancelled_as_it_is_written_leaves_the_stream_alone(slow: Running):
    async with envmesh.connect(slow.address) as mesh, mesh.episode("slow", seed=2) as neighbour:
        for turns in range(4):
            async with mesh.episode("slow", seed=2) as episode:
                step = asyncio.ensure_future(episode.step("walk"))  # noqa: TID251 - awaited below
                for _ in range(turns):
                    await asyncio.sleep(0)
                step.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await step
                await neighbour.step("walk")
                assert (await episode.step("walk")).index == 1
        assert (mesh.statistics.hosts_lost, neighbour.resumes) == (0, ())


async def test_a_vector_whose_send_is_cancelled_leaves_the_stream_alone(slow: Running):
    async with (
        envmesh.connect(slow.address) as mesh,
        mesh.episode("slow", seed=2) as neighbour,
        mesh.vector("slow", 2) as vector,
    ):
        for turns in range(4):
            await vector.reset(seed=2)
            sending = asyncio.ensure_future(vector.step(["walk"] * 2))  # noqa: TID251 - awaited below
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await neighbour.step("walk")
        assert (mesh.statistics.hosts_lost, neighbour.resumes) == (0, ())
