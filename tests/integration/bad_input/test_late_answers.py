"""A defect of the host's own where a thread's or worker's answer is settled: it ends that episode, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import decode, encode
from envmesh_host.copy import EpisodeCopy
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.isolation.process import ProcessRunner, ProcessSettings
from envmesh_host.isolation.thread import ThreadRunner
from envmesh_host.servicer import UnaryCall
from envmesh_host.slots import Claim, SlotTable
from tests.integration.runner_play import playing

TARGET = "tests.environments.contract:Saved"
STEP, REWARD = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_REWARD


def threads(definition, copies_lost):
    return ThreadRunner(definition, slots=8, copies_lost=copies_lost, threads=1)


def workers(definition, copies_lost):
    return ProcessRunner(definition, slots=8, copies_lost=copies_lost, settings=ProcessSettings(workers=1))


class Untellable:
    """A trace to which nothing can be told."""

    trace_id = "0" * 32

    def note(self, *_: Any) -> None:
        raise ZeroDivisionError("a defect")

    def end(self, *_: Any) -> None:
        """The copy has closed."""


class Played:
    """A host's engine in front of a runner."""

    def __init__(self, play: Any):
        definition = load(TARGET)
        hosted = Hosted(play.info, served=None, runner=play.runner, reuse=False, definition=definition)
        self.engine = Engine([hosted], SlotTable(8), cast(Any, None))
        claim = Claim(lease_id=secrets.token_bytes(16), tenant="default", environment=hosted.key, count=8)
        self._holding = self.engine.slots.show(claim, 0.0)

    async def begin(self, seed: int) -> EpisodeCopy:
        request = pb.ResetRequest(episode_id=secrets.token_bytes(16), epoch=1, seed=seed)
        call = self.call()
        copy = self.engine.reset(
            request, request.SerializeToString(), lambda: self._holding, call, (call, 0, 0)
        )
        assert decode((await call.wait(10, "the reset"))[0]) == seed
        return copy

    def call(self) -> UnaryCall:
        return UnaryCall(b"c" * 16, "default")

    def step(self, copy: EpisodeCopy, index: int, action: int) -> UnaryCall:
        call = self.call()
        self.engine.step(copy, STEP, index, encode(action), (call, 0, index))
        return call

    def grade(self, copy: EpisodeCopy) -> UnaryCall:
        call = self.call()
        self.engine.grade(copy, False, (call, 0, 0))
        return call

    def checkpoint(self, copy: EpisodeCopy) -> UnaryCall:
        call = self.call()
        self.engine.checkpoint(copy, (call, 0, 0))
        return call


@pytest.fixture(params=[threads, workers], ids=["thread", "process"])
async def played(request: pytest.FixtureRequest) -> AsyncIterator[Played]:
    async with playing(request.param, TARGET) as play:
        play.runner.breathe(time.monotonic() + 60)
        yield Played(play)


@asynccontextmanager
async def neighbour_plays_on(played: Played) -> AsyncIterator[None]:
    """Beside what happens here, an episode steps, and goes on afterwards."""
    copy = await played.begin(100)
    beside = played.step(copy, 1, 1)
    yield
    assert decode((await beside.wait(10, "the step"))[0]) == 101
    assert decode((await played.step(copy, 2, 1).wait(10, "the step"))[0]) == 102


async def refused(call: UnaryCall) -> None:
    with pytest.raises(Refusal, match=r"a defect of envmesh \(\w+Error\); the host's log has it") as raised:
        await call.wait(10, "the command")
    assert raised.value.reason == "INTERNAL"


async def test_where_a_step_is_settled(played: Played, caplog: pytest.LogCaptureFixture):
    copy = await played.begin(5)
    async with neighbour_plays_on(played):
        copy.trace = Untellable()
        twice = [played.step(copy, 1, 1) for _ in range(2)]
        for call in twice:
            await refused(call)
    assert "a defect at the end of step 1 of an episode of" in caplog.text
    with pytest.raises(Refusal, match="a defect of envmesh"):
        played.step(copy, 1, 1)
    played.engine.close(copy)
    assert len(played.engine.episodes) == 1


async def test_where_a_grading_is_settled_and_a_step_waits_behind_it(played: Played):
    copy = await played.begin(5)
    async with neighbour_plays_on(played):
        copy.trace = Untellable()
        graded, behind = played.grade(copy), played.step(copy, 1, 1)
        await asyncio.gather(refused(graded), refused(behind))
    assert copy.failed


async def test_where_a_checkpoint_is_sealed(played: Played):
    copy = await played.begin(5)
    async with neighbour_plays_on(played):
        saved, behind = (
            played.checkpoint(copy),
            played.step(copy, 1, 1),
        )  # this engine has nothing to seal with
        await asyncio.gather(refused(saved), refused(behind))
    assert copy.failed
