"""`replay`: what counts as the same way again, and a host for what was recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import envmesh
from envmesh import values
from envmesh.env import environment
from envmesh.recording import read
from envmesh_cli.local_mesh import LocalHost
from tests.integration.command_line import envmesh as command
from tests.integration.command_line import envmesh_json

COUNTDOWN = "tests.environments.countdown:Countdown"


async def test_a_reset_that_fails_again_as_it_did_is_no_difference():
    async with (
        LocalHost(["faulty=tests.environments.faulty:Faulty"]) as host,
        envmesh.connect(host.address, plaintext=True) as mesh,
    ):
        rollouts = mesh.rollouts("faulty", lambda observation: "on", episodes=1, options={"fail": True})
        (recorded,) = [trajectory async for trajectory in rollouts]
        assert "no such level" in recorded.failure.message
        assert await envmesh.replay(mesh, recorded) is None
        recorded.failure = replace(recorded.failure, message="KeyError: another")
        difference = await envmesh.replay(mesh, recorded)
        assert difference is not None
        assert (difference.step, "no such level" in str(difference)) == (0, True)


@environment(recovery="replay", isolation="inline", options=("plan",))
class Deep:
    """Observes how deep the maps are that it is given."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.left = 3
        return depth((options or {}).get("plan")), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return depth(action), 0.0, self.left == 0, False, {}


def depth(value: Any) -> int:
    return 1 + depth(value["in"]) if isinstance(value, dict) else 0


def deep(levels: int) -> values.Json:
    document: Any = "enough"
    for _ in range(levels):
        document = {"in": document}
    return values.Json(document)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_actions_and_options_are_sent_as_they_were_recorded(tmp_path: Path, suffix: str):
    file = tmp_path / f"deep.{suffix}"
    async with (
        LocalHost(["tests.integration.test_cli_replay:Deep"]) as host,
        envmesh.connect(host.address, plaintext=True) as mesh,
    ):
        rollouts = mesh.rollouts(
            "tests.integration.test_cli_replay:Deep",
            lambda observation: deep(100),
            episodes=1,
            options={"plan": deep(50)},
            record=file,
        )
        async for trajectory in rollouts:
            assert trajectory.observations == [50, 100, 100, 100]
        (recorded,) = read(file)
        assert recorded.actions == [deep(100).document] * 3
        assert recorded.options == {"plan": deep(50).document}
        assert await envmesh.replay(mesh, recorded) is None


def test_a_version_from_the_command_line_is_served_again(tmp_path: Path):
    (tmp_path / "x[").mkdir()
    file = str(tmp_path / "x[" / "g].jsonl")
    done = command("run", COUNTDOWN, "--version", "7", "--episodes", "2", "--record", file)
    assert done.returncode == 0, done.stderr
    assert envmesh_json("replay", file, "--host")["same"] == 2
    told = command("replay", file, "--host")
    assert f"{file}: 2 of 2 episodes went the same way again" in told.stdout, told.stderr
