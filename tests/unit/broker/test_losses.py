"""Why a host was lost: told to whoever asks about that loss, and not to who asks about the next."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from envmesh.errors import Refusal
from envmesh.v1 import placement_pb2
from envmesh_broker.losses import KEPT_SECONDS, LATE_SECONDS, Losses

CRASHED = placement_pb2.LOSS_CAUSE_CRASHED
ALIVE = placement_pb2.LOSS_CAUSE_ALIVE
NOBODY_KNOWS = placement_pb2.LOSS_CAUSE_UNSPECIFIED
MOST = 3


class Broker:
    """What a broker knows of losses, and a clock that is moved by hand."""

    def __init__(self):
        self.now = 1000.0
        self.heard_at: dict[str, float] = {}
        self.looked = 0
        self.losses = Losses(lambda: self.now, self.last_heard, most_waiting=MOST)
        self.losses.report("h", CRASHED, "SIGSEGV")

    def last_heard(self, host_id):
        self.looked += 1
        return self.heard_at.get(host_id)

    def hears(self, host_id):
        self.heard_at[host_id] = self.now
        self.losses.heard(host_id)

    async def cause(self, host_id="h", tenant="red"):
        return (await self.losses.explain(tenant, host_id, 0.0)).cause

    @asynccontextmanager
    async def waited_for(self, times, host_id="i", tenant="red"):
        """So many calls of a tenant wait for news of a host; they are given up in the end."""
        calls = [
            asyncio.create_task(self.losses.explain(tenant, host_id, 5.0))  # noqa: TID251 - ended right here
            for _ in range(times)
        ]
        await asyncio.sleep(0)  # they wait
        try:
            yield calls
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


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
        asked = tasks.create_task(broker.losses.explain("red", host_id, 5.0))
        await asyncio.sleep(0)  # it waits
        broker.now += 0.1
        broker.hears(host_id)
    assert asked.result().cause == ALIVE


async def test_so_many_of_a_tenant_wait_and_one_more_is_told_so_while_others_wait_on():
    broker = Broker()
    async with broker.waited_for(MOST), broker.waited_for(MOST, tenant="blue") as others:
        with pytest.raises(Refusal, match=r"'red' has 3 calls of ExplainLoss .* at most so many") as refused:
            await broker.losses.explain("red", "another", 5.0)
        assert (refused.value.reason, refused.value.code) == (
            "QUOTA_EXCEEDED",
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        assert await broker.cause("h") == CRASHED, "what is known is told"
        broker.losses.report("i", CRASHED, "SIGSEGV")
        assert {verdict.cause for verdict in await asyncio.gather(*others)} == {CRASHED}


@pytest.mark.parametrize("end", ["given up", "told"])
async def test_whoever_waits_no_more_makes_room(end):
    broker = Broker()
    async with broker.waited_for(MOST) as calls:
        if end == "told":
            broker.losses.report("i", CRASHED, "SIGSEGV")
            await asyncio.gather(*calls)
    async with broker.waited_for(MOST, host_id="j") as calls:
        assert not any(call.done() for call in calls)
    assert not broker.losses._expected


async def test_news_of_one_host_wake_nobody_who_waits_for_another():
    broker = Broker()
    async with broker.waited_for(MOST):
        looked = broker.looked
        for _ in range(100):
            broker.hears("another")
            await asyncio.sleep(0)
        assert broker.looked == looked
