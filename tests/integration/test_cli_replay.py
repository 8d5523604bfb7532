"""`replay`: what counts as the same way again, and a host for what was recorded."""

from dataclasses import replace
from pathlib import Path

import envmesh
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


def test_a_version_from_the_command_line_is_served_again(tmp_path: Path):
    (tmp_path / "x[").mkdir()
    file = str(tmp_path / "x[" / "g].jsonl")
    done = command("run", COUNTDOWN, "--version", "7", "--episodes", "2", "--record", file)
    assert done.returncode == 0, done.stderr
    assert envmesh_json("replay", file, "--host")["same"] == 2
    told = command("replay", file, "--host")
    assert f"{file}: 2 of 2 episodes went the same way again" in told.stdout, told.stderr
