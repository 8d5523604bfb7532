"""Why a host was lost: told to whoever asks about that loss, and not to who asks about the next."""

import asyncio

import pytest

from envmesh.v1 import placement_pb2
from envmesh_broker.losses import KEPT_SECONDS, LATE_SECONDS, Losses

CRASHED = placement_pb2.LOSS_CAUSE_CRASHED
ALIVE = placement_pb2.LOSS_CAUSE_ALIVE
NOBODY_KNOWS = placement_pb2.LOSS_CAUSE_UNSPECIFIED


class Broker:
    """What a broker knows of losses, and a clock that is moved by hand."""

    def __init__(self):
        self.now = 1000.0
        self.heard_at: dict[str, float] = {}
        self.losses = Losses(lambda: self.now, self.heard_at.get)
        self.losses.report("h", CRASHED, "SIGSEGV")

    def hears(self, host_id):
        self.heard_at[host_id] = self.now
        self.losses.heard(host_id)

    async def cause(self, host_id="h"):
        return (await self.losses.explain(host_id, 0.0)).cause


async def test_a_verdict_is_told_for_some_minutes_while_its_host_is_not_heard():
    broker = Broker()
    broker.now += KEPT_SECONDS - 1.0
    broker.hears("another")
    assert await broker.cause() == CRASHED
    broker.now += 1.0
    assert await broker.cause() == NOBODY_KNOWS


async def test_a_host_that_is_started_again_is_not_taken_for_the_one_before_it():
    broker = Broker()
    broker.now += 3.0
    broker.hears("h")
    assert await broker.cause() == CRASHED, "who asks late asks about the loss"
    broker.now += LATE_SECONDS
    broker.hears("h")
    assert await broker.cause() == NOBODY_KNOWS
    del broker.heard_at["h"]  # lost again, and its witness has not spoken yet
    broker.now += 1.0
    assert await broker.cause() == NOBODY_KNOWS
    broker.losses.report("h", placement_pb2.LOSS_CAUSE_STUCK, "it did not turn")
    assert await broker.cause() == placement_pb2.LOSS_CAUSE_STUCK


async def test_that_a_host_is_there_takes_back_what_was_said():
    broker = Broker()
    broker.losses.report("h", ALIVE, "")
    assert await broker.cause() == NOBODY_KNOWS


@pytest.mark.parametrize("host_id", ["h", "i"])
async def test_whoever_waits_is_told_as_soon_as_somebody_knows(host_id):
    broker = Broker()
    broker.losses.report(host_id, ALIVE, "")
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(10):
        asked = tasks.create_task(broker.losses.explain(host_id, 5.0))
        await asyncio.sleep(0)  # it waits
        broker.now += 0.1
        broker.hears(host_id)
    assert asked.result().cause == ALIVE
