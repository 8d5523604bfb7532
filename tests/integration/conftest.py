"""A host to play with: one real process on a real port for all tests of a session that only want one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command_line import Running, started

ROOT = Path(__file__).resolve().parents[2]
SERVED = {
    "cartpole": "gymnasium:CartPole-v1",
    "lake": "gymnasium:FrozenLake-v1",
    "echo": "envmesh_environments.echo:Echo",
    "drifting": "tests.environments.for_clients:Drifting",
    "falls": "tests.environments.for_clients:Falls",
    "sticks": "tests.environments.for_clients:Sticks",
    "talks": "tests.environments.for_clients:Talks",
}


@pytest.fixture(scope="session")
def host() -> Iterator[Running]:
    """A host that serves ``SERVED``. ``host.address`` is where; leave it alive."""
    with own_host() as running:
        yield running


def own_host(*names: str):
    """A host of one's own, to be killed if need be; a context manager."""
    targets = [f"{name}={SERVED[name]}" for name in names or SERVED]
    return started("serve", *targets, "--listen", "127.0.0.1:0", cwd=ROOT)
