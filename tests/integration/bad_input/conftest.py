"""Where input is bad: one host, and neighbours that must be unharmed by whatever a test sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

import envmesh
from tests.compliance.hosts import HostUnderTest, serving, write_key
from tests.compliance.messages import Episode, content
from tests.compliance.wire import Wires

MORE = (
    "pendulum=gymnasium:Pendulum-v1",
    "treacherous=tests.environments.treacherous:Treacherous",
    "treacherous-process=tests.environments.treacherous:TreacherousProcess",
    "treacherous-thread=tests.environments.treacherous:TreacherousThread",
    "treacherous-async=tests.environments.treacherous:TreacherousAsync",
    "tasks-raise=tests.environments.treacherous:TasksThatRaise",
    "tasks-raise-process=tests.environments.treacherous:TasksThatRaiseInProcess",
    "tasks-none=tests.environments.treacherous:TasksThatAreNone",
    "tasks-formless=tests.environments.treacherous:TasksWithoutAForm",
    "treacherous-infos=tests.environments.treacherous:Infos",
    "treacherous-pair=tests.environments.treacherous:TreacherousPair",
)
"""Served beside the environments of the compliance tests: one whose actions are arrays, and worse."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostUnderTest]:
    """A host with the environments of the compliance tests, and more."""
    path = tmp_path_factory.mktemp("keys") / "lease.pem"
    key = write_key(path)
    with serving(path, *MORE) as running:
        yield HostUnderTest(running.address, key)


@pytest.fixture
async def mesh(host: HostUnderTest) -> AsyncIterator[envmesh.Mesh]:
    """Python's client, whose neighbours are unharmed afterwards: episodes on the same connection and on another, of the
    same environment and of another, and of unary calls."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(envmesh.connect(host.address))
        another = await stack.enter_async_context(envmesh.connect(host.address))
        unary = await Wires(host.address, "unary", stack).unary()
        neighbours = [
            await stack.enter_async_context(each.episode(environment, seed=seed))
            for each in (client, another)
            for environment, seed in (("tally", 7), ("tally-process", 7), ("faulty", None))
        ]
        called = Episode("tally")
        await unary.reset(called, seed=7)
        yield client
        for neighbour in neighbours:
            assert neighbour.index == 0
            outcome = await neighbour.step("go on" if neighbour.spec.name == "faulty" else 5)
            assert outcome.observation in (12, "go on")
        assert content((await unary.step(called, 1, 5)).observation) == 12


@pytest.fixture
async def wires(mesh: envmesh.Mesh, host: HostUnderTest) -> AsyncIterator[Wires]:
    """Clients on the raw wire, beside the same neighbours."""
    async with AsyncExitStack() as stack:
        yield Wires(host.address, "stream", stack)
