"""What a caller brings to ``rollouts`` and fails there: seeds, tasks, policies, annotations, a disk that is full. The
iteration ends with the caller's own error, or goes on and says so; it never hangs, and its slots come back."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import envmesh
from tests.compliance.hosts import HostUnderTest
from tests.integration.command_line import started
from tests.integration.conftest import ROOT

EPISODES = 200


class Mine(Exception):
    """The caller's own error."""


class Panic(BaseException):
    """What extensions written in Rust raise when they panic: no ``Exception``."""


def two_then_raises(value: Any) -> Iterator[Any]:
    """It takes time to find out that something is wrong with the data."""
    yield value
    yield value
    raise Mine("the data end here")


def policy(observation: Any) -> str:
    return "fine"


async def slow_policy(observation: Any) -> str:
    return "fine"


def third_cannot_be_made() -> Callable[..., Any]:
    made = 0

    @envmesh.per_episode
    def factory(*, seed: int | None, task: str) -> Callable[[Any], Any]:
        nonlocal made
        made += 1
        if made == 3:
            raise Mine("no third policy")
        return policy

    return factory


@pytest.fixture
async def mesh(mesh: envmesh.Mesh) -> AsyncIterator[envmesh.Mesh]:
    """Afterwards every slot is free for others: nothing is left in use."""
    yield mesh
    async with asyncio.timeout(20):
        async for trajectory in mesh.rollouts(
            "treacherous", policy, episodes=EPISODES, max_steps=1, concurrency=EPISODES
        ):
            assert trajectory.failure is None
    pool = mesh.pool("treacherous")
    assert len(pool._idle) == sum(binding.count for binding in pool._bindings) > 0


async def play(mesh: envmesh.Mesh, chosen: Any = policy, **more: Any) -> None:
    async with asyncio.timeout(20):
        async for _ in mesh.rollouts("treacherous", chosen, max_steps=3, **more):
            pass


@pytest.mark.parametrize("chosen", [policy, slow_policy], ids=["plain", "coroutine"])
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_seeds_that_raise(mesh: envmesh.Mesh, chosen: Any, concurrency: int):
    with pytest.raises(Mine):
        await play(mesh, chosen, seeds=two_then_raises(7), concurrency=concurrency)


async def test_a_seed_that_is_none(mesh: envmesh.Mesh):
    with pytest.raises(envmesh.InvalidRequest, match="a seed is a whole number"):
        await play(mesh, seeds=[1, 2, "three"], concurrency=1)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_tasks_that_raise(mesh: envmesh.Mesh, concurrency: int):
    with pytest.raises(Mine):
        await play(mesh, tasks=two_then_raises(""), concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_policy_that_cannot_be_made_for_an_episode(mesh: envmesh.Mesh, concurrency: int):
    with pytest.raises(Mine):
        await play(mesh, third_cannot_be_made(), episodes=EPISODES, concurrency=concurrency)


@envmesh.batched
def batched_policy(observations: list[Any]) -> list[str]:
    return list(map(policy, observations))


@envmesh.batched
async def slow_batched_policy(observations: list[Any]) -> list[str]:
    return list(map(policy, observations))


def failing_at_the_fifth(chosen: Any, error: BaseException) -> Any:
    """The policy, but its fifth call raises."""
    calls = itertools.count(1)

    def call(observation: Any) -> Any:
        if next(calls) == 5:
            raise error
        return chosen(observation)

    async def call_slowly(observation: Any) -> Any:
        return await call(observation)

    failing = call_slowly if inspect.iscoroutinefunction(chosen) else call
    return envmesh.batched(failing) if chosen in (batched_policy, slow_batched_policy) else failing


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("error", [Mine, Panic, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("chosen", [policy, slow_policy, batched_policy, slow_batched_policy])
async def test_a_policy_that_raises(
    mesh: envmesh.Mesh, chosen: Any, error: type[BaseException], concurrency: int
):
    with pytest.raises(error):
        await play(mesh, failing_at_the_fifth(chosen, error()), episodes=EPISODES, concurrency=concurrency)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_an_annotation_that_cannot_be_recorded(mesh: envmesh.Mesh, suffix: str, tmp_path: Path):
    def annotated(observation: Any) -> envmesh.Act:
        return envmesh.Act("fine", object())

    with pytest.raises(envmesh.InvalidRequest, match="annotation"):
        await play(mesh, annotated, episodes=EPISODES, record=tmp_path / f"recording.{suffix}")


# ---- actions that are too large: for the host, or for what the client itself may send

MOST_BYTES = 1 << 20


@pytest.fixture
async def small_mesh(host: HostUnderTest) -> AsyncIterator[envmesh.Mesh]:
    """A client of small messages, one of whose episodes must be unharmed."""
    async with (
        envmesh.connect(host.address, max_message_bytes=MOST_BYTES) as client,
        client.episode("tally", seed=7) as neighbour,
    ):
        yield client
        async with asyncio.timeout(10):
            assert (await neighbour.step(5)).observation == 12
        assert not neighbour.resumes


TOO_LARGE = "x" * (MOST_BYTES - 60_000)
FITS = "x" * (MOST_BYTES - 70_000)


async def test_an_action_that_is_too_large_for_an_episode(small_mesh: envmesh.Mesh):
    async with small_mesh.episode("treacherous") as episode:
        with pytest.raises(
            envmesh.InvalidRequest, match=r"983,040 may be sent to host .* \[MESSAGE_TOO_LARGE\]"
        ):
            await episode.step(TOO_LARGE)
        assert (await episode.step(FITS)).observation == FITS


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("chosen", [policy, slow_policy, batched_policy])
async def test_an_action_of_a_policy_that_is_too_large(
    small_mesh: envmesh.Mesh, chosen: Any, concurrency: int
):
    def large(observation: Any) -> str:
        return TOO_LARGE

    @envmesh.batched
    def large_ones(observations: list[Any]) -> list[str]:
        return list(map(large, observations))

    async def large_slowly(observation: Any) -> str:
        return large(observation)

    larger = {policy: large, slow_policy: large_slowly, batched_policy: large_ones}[chosen]
    with pytest.raises(envmesh.InvalidRequest, match="MESSAGE_TOO_LARGE"):
        await play(small_mesh, larger, episodes=EPISODES, concurrency=concurrency)


async def test_an_action_that_is_too_large_for_a_vector(small_mesh: envmesh.Mesh):
    async with small_mesh.vector("treacherous", 4) as vector:
        await vector.reset()
        with pytest.raises(envmesh.InvalidRequest, match="MESSAGE_TOO_LARGE"):
            await vector.send([TOO_LARGE, "fine", "fine", "fine"])
        batch = await vector.step([FITS, "fine", "fine", "fine"])
        assert batch.observations == [FITS, "fine", "fine", "fine"]


async def test_an_action_of_another_dtype_that_is_too_large_for_a_vector():
    """As bytes of its space it would do."""
    served = ("serve", "pixels=tests.environments.particular:Pixels", "--listen", "127.0.0.1:0")
    with started(*served, cwd=ROOT) as host:
        async with (
            envmesh.connect(host.address, max_message_bytes=MOST_BYTES) as client,
            client.vector("pixels", 2) as vector,
        ):
            await vector.reset()
            with pytest.raises(envmesh.InvalidRequest, match="MESSAGE_TOO_LARGE"):
                await vector.send(np.full((2, 200_000), 0.5))
            batch = await vector.step(np.zeros((2, 200_000), np.uint8))
            assert batch.valid.all()


async def test_observations_that_are_larger_than_the_client_takes(small_mesh: envmesh.Mesh):
    async with small_mesh.episode("mirror") as episode:
        with pytest.raises(envmesh.EpisodeAborted, match="what max_message_bytes of the client leaves"):
            await episode.step({"bytes": MOST_BYTES})


async def test_large_infos_are_bounded_as_observations_are(small_mesh: envmesh.Mesh):
    async with small_mesh.vector("treacherous-infos", 64) as vector:
        await vector.reset()
        batch = await vector.step([1000] * 63 + [MOST_BYTES])
        assert [number for number in range(64) if not batch.valid[number]] == [63]
        assert batch.failures[63].cause == "MESSAGE_TOO_LARGE"
        batch = await vector.step([100_000] * 63 + [1])
        assert {len(info["said"]) for info in batch.infos[:63]} == {100_000}


@pytest.mark.parametrize("size", [0, -1, 1000, 1 << 31, 1.5])
def test_a_bound_on_messages_that_is_none(size: Any):
    with pytest.raises(ValueError, match="max_message_bytes is a whole number from 128 KiB to 2 GiB - 1"):
        envmesh.connect("localhost:1", max_message_bytes=size)


# ---- a disk that is full: a trainer in a process of its own, which may write so much and no more

FULL_DISK = """
import asyncio, logging, resource, sys
import envmesh
logging.basicConfig(format="%(levelname)s %(message)s")
address, journal, record, most = sys.argv[1], sys.argv[2] or None, sys.argv[3] or None, int(sys.argv[4])
async def main():
    ended = 0
    async with envmesh.connect(address, journal=journal, plaintext=True) as mesh:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        try:
            rollouts = mesh.rollouts("treacherous", lambda _: "fine", episodes=300, max_steps=9, record=record)
            async for trajectory in rollouts:
                assert trajectory.failure is None
                ended += 1
        finally:
            print("ended:", ended, flush=True)
asyncio.run(main())
"""


async def trainer(
    host: HostUnderTest, *, journal: Path | str = "", record: Path | str = "", most: int = 1 << 30
) -> tuple[int, str, str]:
    """Its status, and what it printed and logged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FULL_DISK, host.address, str(journal), str(record), str(most),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(50):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, output.decode(), errors.decode()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_a_disk_that_is_full_ends_what_is_to_be_recorded(
    host: HostUnderTest, tmp_path: Path, suffix: str
):
    recording = tmp_path / f"recording.{suffix}"
    status, _, errors = await trainer(host, record=recording, most=10_000)
    assert status == 1
    assert f"File too large: '{recording}" in errors.splitlines()[-1]
    assert "defect" not in errors


async def test_a_disk_that_is_full_does_not_end_a_run_with_a_journal(host: HostUnderTest, tmp_path: Path):
    """The journal keeps what it had, torn in the middle of a record, and another process can still read it."""
    journal = tmp_path / "journal"
    status, output, errors = await trainer(host, journal=journal, most=100_000)
    assert (status, output) == (0, "ended: 300\n")
    assert errors.count("cannot be written any more") == 1
    assert str(journal) in errors
    assert journal.stat().st_size == 100_000
    status, output, errors = await trainer(host, journal=journal)
    assert status == 0
    ended = int(output.removeprefix("ended: "))
    assert 0 < ended < 300, "what the journal has of the run is not played again"
    assert errors == ""


async def test_a_place_where_no_journal_can_be(host: HostUnderTest, tmp_path: Path):
    journal = tmp_path / "missing" / "journal"
    with pytest.raises(envmesh.InvalidRequest, match=rf"no journal can be kept at {journal}: .*No such file"):
        async with envmesh.connect(host.address, journal=journal):
            pass


async def test_a_disk_that_is_full_from_the_start(host: HostUnderTest, tmp_path: Path):
    journal = tmp_path / "journal"
    journal.symlink_to("/dev/full")
    (tmp_path / "journal.new").symlink_to("/dev/full")
    with pytest.raises(envmesh.InvalidRequest, match=r"no journal can be kept at .*No space left"):
        async with envmesh.connect(host.address, journal=journal):
            pass
