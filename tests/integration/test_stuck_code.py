"""Code that outlives its episode: its slots stay taken; the host is started anew where nothing else would end it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from envmesh.errors import Refusal
from envmesh_host.servicer import EnvironmentServicer
from envmesh_host.settings import HostSettings
from envmesh_host.upkeep import Upkeep
from tests.environments.blocking import GATE
from tests.integration.bad_input.test_late_answers import Played, threads, workers
from tests.integration.closed_parts import until
from tests.integration.runner_play import playing

BLOCKING = "tests.environments.blocking:Blocking"
HALF_OF_THE_SLOTS = 4
PATIENCE = 30.0


@pytest.mark.parametrize(
    ("make", "limit", "begins_anew"),
    [(threads, 0.05, True), (workers, 30.0, False)],
    ids=["thread", "process"],
)
async def test_a_host_is_started_anew_for_code_that_only_its_own_end_would_end(
    make: Callable[..., Any], limit: float, begins_anew: bool
):
    async with playing(make, BLOCKING, episodes_per_worker=8) as play, asyncio.timeout(20):
        engine = Played(play).engine
        settings = HostSettings(stuck_patience=PATIENCE)
        upkeep = Upkeep(engine, EnvironmentServicer(engine, settings, "host", alone=True), settings)
        told: list[str] = []
        upkeep.on_stuck = told.append
        episodes = [await play.episode() for _ in range(HALF_OF_THE_SLOTS)]
        steps = [episode.begin_step("wait for the gate", limit) for episode in episodes]
        if begins_anew:  # a thread is given up at the limit of its step, a worker's episode when it is closed
            await asyncio.gather(*steps, return_exceptions=True)
        closes = [episode.begin_close() for episode in episodes]
        if not begins_anew:
            refusals = await asyncio.gather(*steps, return_exceptions=True)
            assert all(isinstance(refusal, Refusal) for refusal in refusals)
        await until(lambda: play.runner.stuck == HALF_OF_THE_SLOTS)
        now = time.monotonic()
        for later in (1.0, PATIENCE + 1.0):
            upkeep.tick(now + later)
        assert bool(told) is begins_anew
        assert engine.slots.stuck == HALF_OF_THE_SLOTS
        for close in closes:
            close.cancel()
        GATE.set()
