"""What becomes of an episode between two copies, event by event: where it is sought, and what its hosts are told."""

import asyncio
from typing import Any

import pytest

from envmesh.episode import Beginning
from envmesh.errors import EpisodeAborted, InvalidRequest, MeshUnavailable
from envmesh.rebuild import Suspicion
from envmesh.session import Episode
from envmesh.v1 import environment_pb2 as pb
from tests.integration.closed_parts import until
from tests.integration.told_hosts import ToldHost, ToldMesh, play, settled

pytestmark = pytest.mark.timeout(60)


def doing(work: Any) -> asyncio.Task[Any]:
    """Something that goes on while its host is told what to say; awaited by the test, or ended with its episode."""
    return asyncio.ensure_future(work)  # noqa: TID251


def begun(mesh: ToldMesh) -> Episode:
    """An episode whose reset is on its way."""
    return Episode(mesh, mesh.walks, None, Beginning(seed=1), 10.0, None)


async def reason_of(task: asyncio.Task[Any]) -> str:
    """Why an episode ended."""
    with pytest.raises(EpisodeAborted) as ended:
        await task
    return ended.value.reason


async def handle_of(host: ToldHost, kind: str) -> int:
    """The handle of the command of that kind that comes next."""

    async def told() -> list[int]:
        return [handle for each, handle in await host.told() if each == kind]

    (handle,) = await until(told)
    return handle


# ---- resets that kill


async def test_a_reset_that_kills_its_worker_again_and_again_is_poison():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        await mesh.room(host)
        task = doing(begun(mesh).begin())
        for _ in range(3):
            host.fails(await handle_of(host, "RESET"), "WORKER_CRASHED")
        assert await reason_of(task) == "POISON"
        assert not mesh.recovery.rebuilds


async def test_a_reset_that_kills_host_after_host_is_poison():
    async with ToldMesh() as mesh:
        hosts = [await mesh.host(name) for name in "xyz"]
        await mesh.room(*hosts)
        task = doing(begun(mesh).begin())
        for host in reversed(hosts):
            await handle_of(host, "RESET")
            mesh.dead.add(host.host_id)
            host.breaks()
        assert await reason_of(task) == "POISON"


async def test_suspected_resets_are_made_one_at_a_time_and_the_innocent_one_goes_on():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        await mesh.room(host, host)
        first, second = doing(begun(mesh).begin()), doing(begun(mesh).begin())
        for kind, handle in await host.told():
            assert kind == "RESET"
            host.fails(handle, "WORKER_SUSPECTED")
        for _ in range(2):
            host.fails(await handle_of(host, "RESET"), "WORKER_CRASHED")  # each alone, once
        host.outcome(await handle_of(host, "RESET"), 0)
        host.fails(await handle_of(host, "RESET"), "WORKER_CRASHED")
        assert (await first).index == 0
        assert await reason_of(second) == "POISON"


# ---- links that break


@pytest.mark.parametrize("when", ["while the lease is shown", "before it is resumed"])
async def test_an_episode_that_cannot_be_rebuilt_outlives_a_link_that_breaks_twice(when):
    async with ToldMesh("NONE") as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        step = doing(episode.step("go"))
        await settled()
        host.breaks()
        number = await handle_of(await mesh.host("x"), "BIND")
        again = mesh.made[-1]
        if when == "before it is resumed":
            mesh.shown(again, number)
            await handle_of(again, "RESUME")
        again.breaks()
        third = await mesh.host("x")
        told = await until(third.told)
        assert [kind for kind, _ in told] == ["BIND"], "no copy is closed that may be wanted"
        mesh.shown(third, told[0][1])
        handle = await handle_of(third, "RESUME")
        third.resumed(handle, 0)
        third.outcome(handle, 1)
        assert (await step).index == 1


async def test_a_link_that_breaks_under_a_suspected_step_does_not_convict_it():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        step = doing(episode.step("go"))
        await settled()
        first.fails(episode._handle, "WORKER_CRASHED", 1)
        first.resumed(await handle_of(first, "RESUME"), 0)
        await handle_of(first, "STEP")  # alone
        await mesh.room(second)
        first.breaks()
        again = await mesh.host("x")
        number = await handle_of(again, "BIND")
        again.fails(number, "LEASE_INVALID")
        second.resumed(await handle_of(second, "RESUME"), 0)
        assert episode.suspicion == Suspicion(1, 1)
        second.outcome(await handle_of(second, "STEP"), 1)
        assert (await step).index == 1


async def test_a_suspected_step_returns_to_where_it_ran_when_that_link_broke():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        step = doing(episode.step("go"))
        await mesh.room(second)
        mesh.dead.add("x")
        first.breaks()
        second.resumed(await handle_of(second, "RESUME"), 0)
        await handle_of(second, "STEP")
        second.breaks()
        again = await mesh.host("y")
        mesh.shown(again, await handle_of(again, "BIND"))
        again.resumed(await handle_of(again, "RESUME"), 0)
        again.outcome(await handle_of(again, "STEP"), 1)
        assert (await step).index == 1


async def test_an_episode_whose_journal_is_full_waits_for_a_silent_host_as_one_of_class_none_does():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        assert episode.journal is not None
        episode.journal.limit = 100
        await play(episode, host, 3, "go" * 50)
        assert not episode.journaled
        mesh.dead.add("x")
        host.give_up(MeshUnavailable("silent for too long"))
        await settled()
        assert episode.failure is None
        mesh.dead.clear()
        again = await mesh.host("x")
        mesh.shown(again, await handle_of(again, "BIND"))
        again.resumed(await handle_of(again, "RESUME"), 3)
        await settled()
        assert episode.rebuild is None


# ---- slots


async def test_an_episode_that_is_closed_before_its_turn_on_another_host_closes_nothing_there():
    async with ToldMesh() as mesh:
        first, second, third = [await mesh.host(name) for name in "xyz"]
        neighbours = [await mesh.standing(third) for _ in range(4)]
        others = [await mesh.standing(first) for _ in range(64)]
        episode = await mesh.standing(first)
        await mesh.room(second)
        first.fails(episode._handle, "PREEMPTED")
        handle = await handle_of(second, "RESUME")
        assert handle in {neighbour._handle for neighbour in neighbours}, "one number, on two connections"
        await mesh.room(*[third] * 65)
        for other in others:
            first.fails(other._handle, "PREEMPTED")
        await third.told()
        second.fails(handle, "DRAINING")
        await settled()
        assert episode.rebuild is not None
        assert "waiting for its turn on z" in episode.rebuild.waits_for()
        await episode.close()
        assert "CLOSE" not in await third.kinds()
        assert all(third.sessions[neighbour._handle] is neighbour for neighbour in neighbours)


async def test_a_suspect_whose_new_host_is_preempted_too_goes_elsewhere():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        step = doing(episode.step("go"))
        await settled()
        first.fails(episode._handle, "WORKER_CRASHED", 1)
        first.resumed(await handle_of(first, "RESUME"), 0)
        handle = await handle_of(first, "STEP")
        await mesh.room(second)
        first.fails(handle, "PREEMPTED", 1)
        second.resumed(await handle_of(second, "RESUME"), 0)
        second.outcome(await handle_of(second, "STEP"), 1)
        assert (await step).index == 1


@pytest.mark.parametrize(("reason", "attempts"), [("WORKER_LOST", 3), ("LIMIT_EXCEEDED", 1)])
async def test_elsewhere_is_not_the_slot_that_was_given_back(reason, attempts):
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        await mesh.room(second)
        first.fails(episode._handle, "WORKER_LOST")
        for _ in range(attempts):
            first.fails(await handle_of(first, "RESUME"), reason)
        assert "RETURN" in await first.kinds()
        assert mesh.recovery.avoided() == ["x"]
        second.resumed(await handle_of(second, "RESUME"), 0)
        await settled()
        assert episode.rebuild is None


# ---- drains, with an old copy that lives


async def test_a_slot_that_comes_late_in_a_drain_still_gives_all_the_time_there_is():
    async with ToldMesh(recovery_timeout=30.0) as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        first.drains()
        assert episode.rebuild is not None
        episode.rebuild.started -= 40.0  # it has sought a slot for so long, and played on
        await mesh.room(second)
        handle = await handle_of(second, "RESUME")
        mesh.recovery.tick(mesh.loop_time())
        second.resumed(handle, 0)
        await settled()
        assert episode.failure is None
        assert episode._slot is not None
        assert episode._slot.connection is second


async def test_an_episode_that_is_not_rebuilt_in_time_goes_back_to_its_copy_that_lives():
    async with ToldMesh(recovery_timeout=30.0) as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        first.drains()
        await mesh.room(second)
        await handle_of(second, "RESUME")
        mesh.recovery.tick(mesh.loop_time() + 31.0)
        assert await second.kinds() == ["CLOSE"]
        await play(episode, first, 1)
        assert episode.index == 1
        assert "CLOSE" not in await first.kinds()


async def test_a_journal_that_the_new_host_does_not_take_leaves_the_copy_that_lives_alone():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        second.max_value_bytes = 100
        episode = await mesh.standing(first)
        await play(episode, first, 5, "go" * 50)
        await mesh.room(second)
        first.drains()
        await settled()
        assert await second.kinds() == []
        await play(episode, first, 1)
        assert "CLOSE" not in await first.kinds()


async def test_an_episode_that_is_let_go_while_it_is_to_move_is_not_moved():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        detaching = doing(episode.detach())
        await first.told()
        await mesh.room(second)
        handle = episode._handle
        first.drains()
        await settled()
        first.says(handle, pb.EVENT_KIND_DETACHED, b"attach token")
        assert b'"x:1"' in await detaching
        assert await second.kinds() == []
        assert await first.kinds() == []


# ---- what is sent meanwhile


async def test_an_action_that_a_host_does_not_take_is_refused_while_the_episode_is_rebuilt_too():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        host.max_value_bytes = 1000
        episode = await mesh.standing(host)
        host.fails(episode._handle, "WORKER_LOST")
        with pytest.raises(InvalidRequest, match="may be sent to host x:1"):
            await episode.step("go" * 1000)
        host.resumed(await handle_of(host, "RESUME"), 0)
        await play(episode, host, 1)
        assert episode.index == 1


async def test_an_action_that_only_the_new_host_does_not_take_ends_its_own_episode_alone():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        second.max_value_bytes = 1000
        episode = await mesh.standing(first)
        await mesh.room(second)
        first.fails(episode._handle, "PREEMPTED")
        step = doing(episode.step("go" * 1000))
        second.resumed(await handle_of(second, "RESUME"), 0)
        assert await reason_of(step) == "MESSAGE_TOO_LARGE"
        assert await second.kinds() == ["CLOSE"]


# ---- slots of its client's that go by another name


async def test_an_episode_without_a_host_takes_an_idle_slot_of_its_client_by_whatever_name():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        await mesh.standing(first)
        mesh.pool("walk").give(await mesh.slot(second))
        first.drains()
        assert "RESUME" in await second.kinds()


async def test_an_episode_without_a_host_takes_a_slot_that_comes_free_by_another_name():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        await mesh.standing(first)
        first.drains()
        await settled()
        mesh.pool("walk").give(await mesh.slot(second))
        assert "RESUME" in await second.kinds()


async def test_an_episode_without_a_host_goes_to_none_that_is_to_be_avoided():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        await mesh.standing(first)
        mesh.pool("walk").give(await mesh.slot(second))
        mesh.recovery.avoid("y")
        first.drains()
        await settled()
        mesh.pool("walk").give(await mesh.slot(second))
        assert "RESUME" not in await second.kinds()
