"""A program that reads what a command says reads nothing else, whatever an author's code prints."""

import json
from pathlib import Path

import pytest

from tests.integration.command_line import envmesh, started

LOUD = """
import os

print("pygame 2.6.1")
os.write(1, b"Hello from code that is not Python\\n")


class Env:
    def __init__(self):
        print("made")

    def reset(self, *, seed=None, options=None):
        print("reset")
        return "say go", {}

    def step(self, action):
        return "gone", 0.0, True, False, {}
"""

NOBODYS_CLUSTER = """
apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
current-context: a
users: [{name: a, user: {}}]
"""


@pytest.fixture
def loud(tmp_path: Path) -> str:
    path = tmp_path / "loud.py"
    path.write_text(LOUD)
    return f"loud={path}:Env"


def test_a_host_announces_itself_as_json_whatever_its_environment_prints(loud: str):
    with started("serve", loud, "--listen", "127.0.0.1:0", "--isolation", "inline") as host:
        assert [row["environment"] for row in host.announced["environments"]] == ["loud@1"]
        heard = host.said("made\n")
    assert "pygame 2.6.1\nHello from code that is not Python\n" in heard


@pytest.mark.parametrize(("listen", "told"), [("", None), ("127.0.0.1:0", "http://127.0.0.1:")])
def test_an_autoscaler_says_where_its_metrics_are_and_nothing_where_there_are_none(
    listen: str, told: str | None, tmp_path: Path
):
    (tmp_path / "pools.json").write_text('{"pools": [{"name": "a", "environments": ["a@1"]}]}')
    (tmp_path / "kubeconfig").write_text(NOBODYS_CLUSTER)
    ways = (f"--kubeconfig={tmp_path / 'kubeconfig'}", "--broker=127.0.0.1:1", "--listen=127.0.0.1:0")
    pools = f"--pools={tmp_path / 'pools.json'}"
    with started("autoscale", pools, *ways, ENVMESH_AUTOSCALER_METRICS_LISTEN=listen) as autoscaler:
        metrics = autoscaler.announced["metrics"]
    assert metrics is None if told is None else metrics.startswith(told)


def test_a_report_is_json_whatever_its_environment_prints(loud: str):
    done = envmesh("check", loud, "--json", "--seconds=1", "--episodes=1")
    assert json.loads(done.stdout)["name"] == "loud"
    assert "Hello from code that is not Python" in done.stderr
