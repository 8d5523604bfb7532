"""What a checkpoint store says when it is of no use: which it is, and nothing secret."""

import asyncio
import logging
import socket
from collections.abc import Iterator

import pytest

from envmesh.errors import Refusal
from envmesh_host.checkpoint_store import CheckpointStore

USER = "trainer:hunter2"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_a_store_that_cannot_be_reached_at_the_start(closed_port: int, chain: str):
    with pytest.raises(ValueError, match="ENVMESH_HOST_CHECKPOINT_STORE") as refused:
        CheckpointStore(f"{chain}ftp://{USER}@127.0.0.1:{closed_port}/x")
    assert f"ftp://***@127.0.0.1:{closed_port}/x" in str(refused.value)
    assert "refused" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_kind_of_store_that_is_not_known():
    with pytest.raises(ValueError, match="Protocol not known: carrier-pigeon") as refused:
        CheckpointStore(f"carrier-pigeon://{USER}@loft/x")
    assert "hunter2" not in str(refused.value)


class Unreachable(CheckpointStore):
    """One whose errors tell the whole address, as those of some libraries do."""

    def _path(self, name: str) -> str:
        raise OSError(f"Cannot connect to host memory://{USER}@there/x")

    def _sweep(self, wall: float) -> None:
        self._path("")


async def logged(caplog: pytest.LogCaptureFixture, lines: int) -> None:
    while len(caplog.records) < lines:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0.005)


async def test_no_password_is_logged_or_told_to_a_client(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    store = Unreachable(f"memory://{USER}@there/x")
    try:
        loop = asyncio.get_running_loop()
        name = store.name("red", b"e" * 16, 1)
        written: asyncio.Future[str | None] = loop.create_future()
        read: asyncio.Future[bytes | Refusal] = loop.create_future()
        store.write(name, b"x", written.set_result)
        store.read(name, read.set_result)
        store.delete([name])
        store.sweep(0.0)
        async with asyncio.timeout(10):
            assert await written is None
            told = await read
            await logged(caplog, 3)
    finally:
        store.close()
    assert isinstance(told, Refusal)
    assert "memory://***@there/x" in str(told)
    assert "the checkpoint store memory://***@there/x cannot be written" in caplog.text
    assert "hunter2" not in caplog.text + str(told)
