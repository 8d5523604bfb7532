"""What `up` makes of its arguments and of the environment, and what it says of pools that scale."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from envmesh_autoscaler.demand import PoolPolicy
from envmesh_cli.arguments import build_parser
from envmesh_cli.command_arguments import LOCAL_POLICY
from envmesh_cli.pools import plan_pools
from envmesh_cli.up import announce, announcement, drain_deadline
from envmesh_service.settings import SettingsError, parse_duration

VARIABLE = "ENVMESH_HOST_DRAIN_DEADLINE"


@pytest.mark.parametrize(
    ("given", "environ", "seconds"),
    [
        (None, {}, 30.0),
        (None, {VARIABLE: "20m"}, 1200.0),
        ("5s", {VARIABLE: "20m"}, 5.0),
        (None, {"ENVMESH_HOST_SLOTS": "many"}, 30.0),  # for the hosts to say
    ],
)
def test_hosts_are_given_the_time_that_their_variable_or_the_flag_says(
    given: str | None, environ: dict[str, str], seconds: float
):
    assert drain_deadline(given, environ) == seconds


def test_a_deadline_that_no_host_takes_is_refused():
    with pytest.raises(SettingsError, match=VARIABLE):
        drain_deadline(None, {VARIABLE: "soon"})


def mesh_of(policy: PoolPolicy | None) -> Any:
    return SimpleNamespace(
        pools=plan_pools(["echo=envmesh_environments.echo:Echo"], hosts=3),
        policy=policy,
        address="127.0.0.1:7070",
        broker=SimpleNamespace(fleet_address=""),
        page="",
        metrics={},
        access={"plaintext": True},
        children=[],
    )


def test_no_host_is_announced_that_only_demand_will_start(capsys: pytest.CaptureFixture[str]):
    mesh = mesh_of(PoolPolicy(min_hosts=0, max_hosts=4))
    announce(mesh, 1.0)
    assert "0 to 4" in capsys.readouterr().out
    told: Any = announcement(mesh)
    (pool,) = told["pools"]
    assert (pool["hosts"], pool["min_hosts"], pool["max_hosts"]) == (None, 0, 4)


def test_hosts_that_run_are_announced():
    told: Any = announcement(mesh_of(None))
    assert told["pools"] == [{"pool": "echo", "hosts": 3, "targets": ["echo=envmesh_environments.echo:Echo"]}]


def test_the_help_of_scaling_tells_the_defaults_that_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        build_parser().parse_args(["up", "--help"])
    told = dict(
        re.findall(r"--(idle-after|look-back|min-hosts|max-hosts) [TN] .*\((\w+)\)", capsys.readouterr().out)
    )
    assert {name: parse_duration(value) for name, value in told.items()} == {
        "idle-after": LOCAL_POLICY.idle_after,
        "look-back": LOCAL_POLICY.look_back,
        "min-hosts": LOCAL_POLICY.min_hosts,
        "max-hosts": LOCAL_POLICY.max_hosts,
    }
