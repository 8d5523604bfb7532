"""What the README shows is run as it stands: the trainer, the environment, and the commands it names."""

import re
import subprocess
import sys
from pathlib import Path

from tests.integration.command_line import environ, envmesh_json, started

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
TRAINER, ENVIRONMENT = PYTHON


def test_the_trainer_trains():
    with started("serve", "cartpole=gymnasium:CartPole-v1", "--listen", "127.0.0.1:0", cwd=ROOT) as host:
        program = TRAINER.replace("localhost:7070", host.address)
        ran = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=50,
            env=environ(),
            check=True,
        )
    lines = ran.stdout.splitlines()
    assert len(lines) == 1000
    assert all(line.startswith("<Trajectory cartpole@1") and "return=" in line for line in lines)


def test_the_environment_runs_undeclared(tmp_path):
    (tmp_path / "countdown.py").write_text(ENVIRONMENT)
    summary = envmesh_json("run", "countdown:Countdown", "--episodes", "8", cwd=tmp_path)
    assert summary["episodes"] == 8
    assert summary["episode_length"] == {"mean": 3.0, "max": 3}
    assert summary["failures"] == {}


def test_every_command_that_it_names_is_there():
    named = set(re.findall(r"^\$ envmesh (\w+)", README, re.MULTILINE)) | {"replay"}
    listed = subprocess.run(
        [sys.executable, "-m", "envmesh_cli", "--help"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    ).stdout
    assert named
    assert all(f" {name} " in listed for name in named)


def test_every_file_that_it_links_is_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
