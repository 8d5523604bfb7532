"""docs/recovery.md: its environment is checked, and what it names is there."""

import asyncio
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from envmesh.mesh import ClientSettings
from envmesh_host.settings import HostSettings
from tests.integration.command_line import envmesh, started
from tests.monitoring.registered import names

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
ENVIRONMENT, FORK = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_its_environment_is_what_it_says(tmp_path):
    (tmp_path / "dice.py").write_text(ENVIRONMENT)
    checked = envmesh("check", "dice:Dice", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_environment_that_forgets_its_dice_is_found_out(tmp_path):
    forgetful = ENVIRONMENT.replace("self.dice.setstate((version, tuple(state), following))", "pass")
    assert forgetful != ENVIRONMENT
    (tmp_path / "dice.py").write_text(forgetful)
    assert envmesh("check", "dice:Dice", cwd=tmp_path).returncode != 0


async def test_its_branches_go_ways_of_their_own(tmp_path):
    (tmp_path / "dice.py").write_text(ENVIRONMENT)
    example: dict[str, Any] = {}
    exec(FORK, example)
    with started("serve", "dice:Dice", "--listen", "127.0.0.1:0", cwd=tmp_path) as host:
        async with asyncio.timeout(30):
            totals = await example["look_ahead"](host.address, branches=8)
    assert len(totals) == 8
    assert len(set(totals)) > 1


def test_the_settings_that_it_names_are_there_with_the_defaults_it_names():
    known = {f"ENVMESH_HOST_{field.name.upper()}": field.default for field in fields(HostSettings)}
    named = set(re.findall(r"ENVMESH_HOST_[A-Z_]+", PAGE))
    assert named <= set(known)
    settings = HostSettings()
    assert (settings.checkpoint_steps, settings.checkpoint_seconds) == (50, 30.0)
    assert settings.checkpoint_inline_bytes == 64 * 1024
    assert {"checkpoint_steps", "checkpoint_interval"} <= {field.name for field in fields(ClientSettings)}


async def test_the_metrics_that_it_names_are_exported():
    assert set(re.findall(r"envmesh_[a-z_]+(?:total|seconds)", PAGE)) <= await names()


def test_every_file_that_it_links_is_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
