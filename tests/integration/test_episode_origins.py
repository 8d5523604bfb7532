"""Episodes that do not begin with a reset: what is left of branches that never stood, and whose build a journal is."""

import asyncio
import json

import pytest

from envmesh import values
from envmesh.episode import Beginning
from envmesh.errors import EpisodeAborted, EpisodeTakenOver, InvalidRequest, MeshUnavailable
from envmesh.journal_records import Unfinished
from envmesh.outcome import EnvironmentSpec
from envmesh.session import Episode
from envmesh.v1 import environment_pb2 as pb
from tests.integration.told_hosts import ToldHost, ToldMesh, outcome_row, play, settled

pytestmark = pytest.mark.timeout(60)


async def test_of_a_fork_that_is_cancelled_no_branch_is_left():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        await mesh.room(host, host)
        forking = asyncio.ensure_future(episode.fork(2))  # noqa: TID251 - cancelled below
        resumed = [handle for kind, handle in await host.told() if kind == "RESUME"]
        host.resumed(resumed[0], 0)
        await settled()
        forking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forking
        assert sorted(handle for kind, handle in await host.told() if kind == "CLOSE") == sorted(resumed)
        assert mesh.episodes == {episode}


async def test_a_closed_client_forks_nothing():
    async with ToldMesh() as mesh:
        episode = await mesh.standing(await mesh.host("x"))
    with pytest.raises(MeshUnavailable, match="this client is closed"):
        await episode.fork()


async def test_a_fork_whose_journal_its_host_does_not_take_harms_nobody():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        host.max_value_bytes = 1000
        episode = await mesh.standing(host)
        await play(episode, host, 5, "go" * 200)
        await mesh.room(host)
        with pytest.raises(
            InvalidRequest, match=r"its journal has .* bytes; host x:1 takes 1,000"
        ) as refused:
            await episode.fork()
        assert refused.value.reason == "MESSAGE_TOO_LARGE"
        assert "RESUME" not in await host.kinds()
        await play(episode, host, 1)
        assert episode.index == 6
        assert mesh.walks.take_idle() is not None, "the branch's slot is free again"


async def test_a_branch_that_does_not_come_to_stand_leaves_no_copy_in_its_slot():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        await mesh.room(host)
        forking = asyncio.ensure_future(episode.fork())  # noqa: TID251 - awaited below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESUME"]
        host.fails(handle, "REPLAY_DIVERGED")
        with pytest.raises(EpisodeAborted, match="as the test has it"):
            await forking
        assert await host.told() == [("CLOSE", handle)]
        assert mesh.walks.take_idle() is not None, "the branch's slot is free again"


async def test_a_reset_that_fails_leaves_no_copy_in_its_slot():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        await mesh.room(host)
        beginning = asyncio.ensure_future(mesh.episode("walk@1").begin())  # noqa: TID251 - awaited below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESET"]
        host.fails(handle, "ENVIRONMENT_RAISED")
        with pytest.raises(EpisodeAborted, match="as the test has it"):
            await beginning
        assert await host.told() == [("CLOSE", handle)]
        assert mesh.walks.take_idle() is not None, "the slot is free again"


async def test_an_episode_that_may_be_another_clients_is_not_closed():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        detached = await let_go(await mesh.standing(host), host)
        attaching = asyncio.ensure_future(mesh.attach(detached))  # noqa: TID251 - awaited below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESUME"]
        host.fails(handle, "TAKEN_OVER")
        with pytest.raises(EpisodeTakenOver):
            await attaching
        assert "CLOSE" not in await host.kinds()


async def let_go(episode: Episode, host: ToldHost) -> bytes:
    """What ``detach`` returns."""
    detaching = asyncio.ensure_future(episode.detach())  # noqa: TID251 - awaited below
    (handle,) = [handle for kind, handle in await host.told() if kind == "DETACH"]
    host.says(handle, pb.EVENT_KIND_DETACHED, b"token")
    return await detaching


@pytest.mark.parametrize("older", [False, True], ids=["bytes of this client", "bytes of an older one"])
async def test_what_was_attached_to_steps_goes_along_with_a_detached_episode(older: bool):
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        for annotation in ({"tokens": [1, 2]}, object()):
            step = asyncio.ensure_future(episode.step("go", annotation=annotation))  # noqa: TID251 - awaited below
            await host.told()
            host.outcome(episode._handle, episode.expected)
            await step
        detached = await let_go(episode, host)
        if older:
            state = json.loads(detached)
            del state["annotations"]
            detached = json.dumps(state).encode()
        attaching = asyncio.ensure_future(mesh.attach(detached))  # noqa: TID251 - awaited below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESUME"]
        host.resumed(handle, 2)
        assert (await attaching).annotations == ({} if older else {1: {"tokens": [1, 2]}})


async def test_an_attachment_that_is_cancelled_leaves_no_copy_in_its_new_slot():
    async with ToldMesh() as mesh:
        former, host = await mesh.host("x"), await mesh.host("y")
        detached = await let_go(await mesh.standing(former), former)
        mesh.dead.add("x")
        former.breaks()
        await mesh.room(host)
        attaching = asyncio.ensure_future(mesh.attach(detached))  # noqa: TID251 - cancelled below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESUME"]
        attaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attaching
        assert await host.told() == [("CLOSE", handle)]
        assert not mesh.episodes
        assert mesh.walks.take_idle() is not None, "the slot is free again"


async def test_an_attachment_that_is_cancelled_leaves_the_copy_that_lives_to_the_next():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        detached = await let_go(await mesh.standing(host), host)
        attaching = asyncio.ensure_future(mesh.attach(detached))  # noqa: TID251 - cancelled below
        assert await host.kinds() == ["RESUME"]
        attaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attaching
        assert not mesh.episodes
        attaching = asyncio.ensure_future(mesh.attach(detached))  # noqa: TID251 - awaited below
        ((kind, handle),) = await host.told()
        assert kind == "RESUME", "and it was not closed before"
        host.resumed(handle, 0)
        assert (await attaching).index == 0


async def test_branches_take_the_slots_that_their_client_has():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        pool = mesh.pool("walk")
        for _ in range(2):
            pool.give(await mesh.slot(host))
        episode = mesh.episode("walk")
        beginning = asyncio.ensure_future(episode.begin())  # noqa: TID251 - awaited below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESET"]
        host.outcome(handle, 0)
        await beginning
        for _ in range(3):
            forking = asyncio.ensure_future(episode.fork())  # noqa: TID251 - awaited below
            (handle,) = [handle for kind, handle in await host.told() if kind == "RESUME"]
            host.resumed(handle, 0)
            for branch in await forking:
                await branch.close()
        assert pool.take_idle() is not None
        assert pool.take_idle() is None


async def test_branches_stay_with_their_version_where_the_name_means_another():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        episode._pool = mesh.pool("walk")
        await mesh.room(host)
        mesh.info.version = "2"
        newer = await mesh.slot(host)
        episode.pool.give(newer)
        forking = asyncio.ensure_future(episode.fork())  # noqa: TID251 - awaited below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESUME"]
        host.resumed(handle, 0)
        (branch,) = await forking
        assert branch.place[0] is not newer
        assert episode.pool.take_idle() is newer
        await branch.close()
        assert mesh.walks.take_idle() is not None


async def test_a_long_episode_that_is_taken_up_can_be_rebuilt_from_its_checkpoint(tmp_path):
    async with ToldMesh("STATE", journal=tmp_path / "journal", recovery_timeout=600.0) as mesh:
        await mesh.host("x")
        written = Beginning(seed=1).written(EnvironmentSpec(mesh.info), b"0123456789abcdef")
        rows = [outcome_row(index)[1:] for index in range(18)]
        sealed = pb.SealedCheckpoint(index=16).SerializeToString()
        actions = [b"a" * (1 << 20)] * 17
        episode = await mesh.resume(
            Unfinished(1, written, rows, actions, checkpoint=sealed, host=("x:1", "x", ()))
        )
        assert episode.journaled
        assert episode.journal is not None
        assert (episode.journal.base, episode.journal.index) == (16, 17)


async def test_a_journal_is_of_the_build_that_wrote_it_whatever_is_served_now(tmp_path):
    async with ToldMesh(journal=tmp_path / "journal", recovery_timeout=600.0) as mesh:
        await mesh.host("x")
        written = Beginning(seed=1).written(EnvironmentSpec(mesh.info), b"0123456789abcdef")
        rows = [outcome_row(index)[1:] for index in range(3)]
        left = Unfinished(1, written, rows, [values.encode("go")] * 2, host=("x:1", "x", ()))
        mesh.info.build = "second"
        episode = await mesh.resume(left)
        assert episode.journal is not None
        assert episode.journal.message().entries[0].reset.build == "first"
        first, second = await mesh.host("x"), await mesh.host("y")
        await mesh.room(second)
        (handle,) = [handle for kind, handle in await first.told() if kind == "RESUME"]
        first.fails(handle, "EPISODE_UNKNOWN")
        (handle,) = [handle for kind, handle in await second.told() if kind == "RESUME"]
        second.fails(handle, "REPLAY_DIVERGED")
        await settled()
        assert mesh.recovery.refuses(EnvironmentSpec(mesh.info), "first"), "an alarm was raised"
        assert episode.failure is None, "it waits for a host of the first build"
