"""What docs/autoscaling.md shows is what the code takes."""

import json
import re
from pathlib import Path

from envmesh_autoscaler.backends import pods as kube
from envmesh_autoscaler.demand import PoolPolicy
from envmesh_autoscaler.pools import read_scaling
from envmesh_cli.command_arguments import LOCAL_POLICY
from tests.integration.command_line import envmesh_json, started

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "autoscaling.md").read_text(encoding="utf-8")


def test_the_command_scales_from_nothing():
    (command,) = re.findall(r"^\$ envmesh (.*)$", PAGE, re.MULTILINE)
    with started(*command.split(), "--listen", "127.0.0.1:0") as running:
        assert set(running.announced["processes"]) == {"broker"}
        told = envmesh_json(
            "run", "cartpole", "--episodes", "4", "--concurrency", "2", "--mesh", running.address
        )
        assert told["outcomes"] == {"terminated": 4}


def test_the_pools_file_is_one_and_shows_the_defaults():
    (text,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    scaling = read_scaling(text)
    shown = json.loads(text)["pools"][0]
    default = PoolPolicy()
    assert scaling.max_hosts == 50
    for name in (
        "min_hosts",
        "buffer_min",
        "buffer_factor",
        "target_fill",
        "look_back",
        "idle_after",
        "drain_patience",
    ):
        assert shown[name] == getattr(default, name), name
    assert default.max_hosts == 10
    bare = json.dumps({"pools": [{"name": "cartpole", "environments": ["cartpole@1"]}]})
    assert read_scaling(bare).pools[0].target == "cartpole"
    assert "`deployment`, which is the pool's name" in PAGE


def test_the_idle_time_on_one_machine_is_that_of_the_command():
    assert LOCAL_POLICY.idle_after == 60.0
    assert "for a minute (`--idle-after`)" in PAGE


def test_a_hold_is_told_apart_from_what_only_keeps_hosts_from_being_counted_out():
    holds, rest = PAGE.split("`envmesh_plan_held` is 1 then", 1)
    assert "has waited for over a second" in holds
    assert "a roll is under way" not in holds.lower()
    assert "While a roll is under way" in rest


def test_annotations_and_pictures_are_those_of_the_code():
    for name in (kube.PAUSED, kube.DRY_RUN, kube.PINNED, kube.SEALED, kube.DELETION_COST, kube.SAFE_TO_EVICT):
        assert f"`{name}" in PAGE, name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
