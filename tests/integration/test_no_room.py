"""A host that can begin no worker process, for want of open files: episodes wait or are refused, and it goes on."""

import asyncio
import os
import resource
import signal
from contextlib import contextmanager

import pytest

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.process import ProcessRunner
from envmesh_host.isolation.process_settings import ProcessSettings
from tests.integration.runner_play import playing


def four_workers(definition, copies_lost):
    return ProcessRunner(definition, slots=4, copies_lost=copies_lost, settings=ProcessSettings(workers=4))


@contextmanager
def no_more_open_files(process_id=0):
    """A process, this one where none is named, can open nothing."""
    soft, hard = resource.prlimit(process_id, resource.RLIMIT_NOFILE)
    bound = 3  # of any other, all that are free are above
    if not process_id:
        bound = os.dup(0)
        os.close(bound)
    resource.prlimit(process_id, resource.RLIMIT_NOFILE, (bound, hard))
    try:
        yield
    finally:
        resource.prlimit(process_id, resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_episode_that_finds_no_worker_waits_until_one_can_be_begun(caplog):
    async with playing(four_workers, "Misbehaving") as play, asyncio.timeout(20):
        first = await play.episode()
        async with asyncio.TaskGroup() as tasks:
            with no_more_open_files():
                second = tasks.create_task(play.episode(), name="second")
                assert await first.step("well") == "well"
                assert not second.done()
        assert await second.result().step("well") == "well"
        assert "no worker can be begun: [Errno 24] Too many open files" in caplog.text


async def test_where_there_is_no_worker_at_all_episodes_are_refused():
    async with playing(four_workers, "Misbehaving") as play, asyncio.timeout(20):
        only = await play.episode()
        with no_more_open_files():
            with pytest.raises(Refusal, match="exit code 3 during step 1"):
                await only.step("os._exit")
            with pytest.raises(Refusal, match=r"no worker of .* can be begun here: .* open files") as refused:
                await play.episode()
        assert refused.value.reason == "NO_CAPACITY"
        assert await (await play.episode()).step("well") == "well"


async def test_an_episode_whose_worker_cannot_be_forked_waits_for_another(caplog):
    async with playing(four_workers, "Misbehaving") as play, asyncio.timeout(20):
        first = await play.episode()
        async with asyncio.TaskGroup() as tasks:
            with no_more_open_files(play.runner._nursery.process_id):
                second = tasks.create_task(play.episode(), name="second")
                while "no worker can be begun: cannot fork: [Errno 24] Too many" not in caplog.text:
                    assert await first.step("well") == "well"
                assert not second.done()
        assert await second.result().step("well") == "well"
        assert not play.lost


async def test_a_worker_that_cannot_be_forked_is_not_laid_at_the_episodes_door():
    async with playing(four_workers, "Misbehaving") as play, asyncio.timeout(20):
        only = await play.episode()
        with no_more_open_files(play.runner._nursery.process_id):
            with pytest.raises(Refusal, match="exit code 3 during step 1"):
                await only.step("os._exit")
            with pytest.raises(Refusal, match=r"no worker of .* can be begun here: cannot fork: ") as refused:
                await play.episode()
        assert refused.value.reason == "NO_CAPACITY"
        assert play.runner.deaths == {"crashed": 1}
        assert await (await play.episode()).step("well") == "well"


async def test_an_episode_that_is_closed_while_its_worker_cannot_be_forked_is_closed():
    async with playing(four_workers, "Misbehaving") as play, asyncio.timeout(20):
        await play.episode()
        with no_more_open_files(play.runner._nursery.process_id):
            seat = play.runner.seat()
            reset = play.carry_out(seat, pb.COMMAND_KIND_RESET)
            closed = play.carry_out(seat, pb.COMMAND_KIND_CLOSE)
            await closed
        with pytest.raises(Refusal, match="CANCELLED"):
            await reset


async def test_a_forkserver_that_cannot_be_begun_again_is_tried_later():
    async with playing(four_workers, "Misbehaving") as play, asyncio.timeout(20):
        await play.episode()
        with no_more_open_files():
            os.kill(play.runner._nursery.process_id, signal.SIGKILL)
            await play.lost_all(1)
            with pytest.raises(Refusal, match=r"can be begun here: .* open files"):
                await play.episode()
        assert await (await play.episode()).step("well") == "well"
