"""Commands that a host had taken before a pause: they begin after it only if their client still means them."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, value
from tests.compliance.stream import Row, Stream
from tests.compliance.wire import StreamWire, channel_to
from tests.integration.command_line import Running, descendants, started

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 1.0
STEP_SECONDS = 0.5
KINDS = ["PayingInWorker", pytest.param("PayingInThread", marks=pytest.mark.slow), "Paying"]


class Frozen:
    """A host that was frozen while the first of three steps ran, one behind the other; and thawed again."""

    def __init__(
        self, running: Running, stream: Stream, wire: StreamWire, episodes: list[Episode], ledger: Path
    ):
        self.running = running
        self.stream = stream
        self.wire = wire
        self.episodes = episodes
        self.ledger = ledger

    def acts(self) -> Counter[str]:
        """Steps done, by the episode's seed."""
        return Counter(line.split()[0] for line in self.ledger.read_text().splitlines())

    async def until_acts(self, wanted: dict[str, int]) -> None:
        """Wait until exactly these have been done."""
        async with asyncio.timeout(20):
            while self.acts() != wanted:  # noqa: ASYNC110 - a file in another process's hands
                await asyncio.sleep(0.05)


@asynccontextmanager
async def frozen(kind: str, ledger: Path) -> AsyncIterator[Frozen]:
    ledger.touch()  # noqa: ASYNC240 - before anything runs
    target = f"pay=tests.environments.recoverable:{kind}?pause={STEP_SECONDS}"
    settings = {"ENVMESH_TEST_LEDGER": str(ledger), "ENVMESH_HOST_WORKERS": "1", "ENVMESH_HOST_THREADS": "1",
                "ENVMESH_HOST_LIVENESS_WINDOW": str(WINDOW)}  # fmt: skip
    with started("serve", target, "--listen", "127.0.0.1:0", cwd=ROOT, **settings) as running:
        async with channel_to(running.address) as channel, Stream.opened(channel, window=WINDOW) as stream:
            stream.answers_challenges = False
            wire = StreamWire(channel, stream)
            episodes = [Episode("pay") for _ in range(3)]
            for seed, episode in enumerate(episodes):
                await wire.reset(episode, seed=seed)
            await wire.step(episodes[0], 1, 1)  # a reader learns how many steps of this kind make a stretch
            action = value(1).SerializeToString()
            rows = [
                Row(wire.handle(each), index=1 + (each is episodes[0]), payload=action) for each in episodes
            ]
            await stream.send(*rows)
            found = Frozen(running, stream, wire, episodes, ledger)
            await found.until_acts({"0": 2})
            processes = {running.process.pid} | descendants(running.process.pid)
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, number)
                if number == signal.SIGSTOP:
                    await asyncio.sleep(3 * WINDOW)  # what is waited for is that nothing happens
            yield found


@pytest.mark.parametrize("kind", KINDS)
async def test_steps_of_a_client_that_confirms_its_episodes_are_done_once(kind, tmp_path):
    async with frozen(kind, tmp_path / "ledger") as host:
        await host.stream.until(lambda: host.stream.challenge > 0)
        thawed = time.monotonic()
        await host.stream.until(lambda: time.monotonic() - thawed > 4 * STEP_SECONDS)
        assert host.acts() == {"0": 2}, "nothing begins before the challenge is answered"
        host.stream.answers_challenges = True
        await host.stream.beat(host.stream.challenge)
        await host.until_acts({"0": 2, "1": 1, "2": 1})
        for episode in host.episodes:
            index = 1 + (episode is host.episodes[0])
            assert (await host.stream.answer(host.wire.handle(episode), index)).outcome().index == index
        await host.wire.leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_steps_of_a_client_that_has_given_up_never_begin(kind, tmp_path):
    async with frozen(kind, tmp_path / "ledger") as host:
        client_id = host.stream.client_id
        await host.stream.hang_up()
        async with (
            channel_to(host.running.address) as channel,
            Stream.opened(channel, client_id=client_id, window=WINDOW) as stream,
        ):
            for number, episode in enumerate(host.episodes, 1000):
                request = pb.CloseRequest(episode_id=episode.episode_id, epoch=episode.epoch)
                row = Row(number, pb.COMMAND_KIND_CLOSE, payload=request.SerializeToString())
                assert (await stream.ask(row)).kind == pb.EVENT_KIND_CLOSED
            closed = time.monotonic()
            await stream.until(lambda: time.monotonic() - closed > 4 * STEP_SECONDS)
            assert host.acts() == {"0": 2}
