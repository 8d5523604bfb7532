"""What the pages on the report and the live page show is run as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from envmesh_broker.settings import BrokerSettings
from tests.integration.command_line import envmesh, started

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def commands(page: str) -> list[list[str]]:
    found = re.findall(r"^    \$ envmesh (.+)", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.mark.timeout(150)
def test_a_run_is_recorded_and_reported(tmp_path: Path):
    run, report, with_metrics = commands("report.md")
    with started("serve", "cartpole=gymnasium:CartPole-v1", "--listen", "127.0.0.1:0") as host:
        assert envmesh(*run, "--mesh", host.address, cwd=tmp_path).returncode == 0
        done = envmesh(*report, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "cartpole@1" in (tmp_path / "run.html").read_text(encoding="utf-8")
        named = [word if not word.startswith("http") else host.announced["metrics"] for word in with_metrics]
        assert envmesh(*named, cwd=tmp_path).returncode == 0
        assert "step, in the environment" in (tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["report.md", "live.md"])
def test_every_picture_is_there(page: str):
    pictures = re.findall(r"\]\((images/[^)#]+)", (DOCS / page).read_text(encoding="utf-8"))
    assert len(pictures) == 2
    assert all((DOCS / picture).stat().st_size < 100_000 for picture in pictures)


def test_every_setting_of_the_live_page_is_told():
    told = set(re.findall(r"^\| `ENVMESH_BROKER_(\w+)`", (DOCS / "live.md").read_text(), re.MULTILINE))
    assert told == {name.upper() for name in BrokerSettings.__dataclass_fields__ if name.startswith("page_")}
