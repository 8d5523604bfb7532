"""docs/security.md is run as it stands: its commands, program and file; and the settings that it names are there."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from envmesh_broker.settings import BrokerSettings
from envmesh_host.settings import HostSettings
from envmesh_service.credentials import Tokens
from envmesh_service.port_settings import PortSettings
from tests.integration.command_line import environ, envmesh, started

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines()]


def test_two_minutes(tmp_path):
    keys, up, run = (command.split()[1:] for command in commands(blocks("console")[0]))
    made = envmesh(*keys, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    arguments = [word.replace(":7070", ":0") for word in up]
    with started(*arguments, cwd=tmp_path) as mesh:
        arguments = [word.replace("127.0.0.1:7070", mesh.address) for word in run]
        played = envmesh(*arguments, "--episodes", "5", cwd=tmp_path)
        assert played.returncode == 0, played.stderr
        (program,) = blocks("python")
        indented = program.replace("127.0.0.1:7070", mesh.address).replace("\n", "\n    ")
        text = f"import asyncio, envmesh\n\nasync def main():\n    {indented}\n\nasyncio.run(main())\n"
        subprocess.run(
            [sys.executable, "-c", text],
            cwd=tmp_path,
            env=environ(),
            timeout=50,
            check=True,
            capture_output=True,
        )


def test_the_file_of_tenants_is_one():
    (text,) = blocks("json")
    tokens = Tokens.parse(text)
    assert tokens.of_account("sweeps", "any") == "research"
    assert tokens.of_token("password") is not None  # whose hash it is, as everybody knows
    assert json.loads(text)["tenants"][0]["quota"] == 4000


def test_a_token_is_hashed_as_it_says():
    script = "\n".join([*commands(blocks("console")[1]), 'echo "$token"'])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20, check=True)
    digest, _, token = done.stdout.split()
    assert hashlib.sha256(token.encode()).hexdigest() == digest


def fields(settings) -> set[str]:
    return {f"{settings.PREFIX}{field.name.upper()}" for field in dataclasses.fields(settings)}


@pytest.mark.parametrize("settings", [BrokerSettings, HostSettings])
def test_every_setting_that_it_names_is_there(settings):
    named = set(re.findall(rf"{settings.PREFIX}[A-Z_]*[A-Z]", PAGE))
    assert named
    assert named <= fields(settings)


def test_the_settings_of_every_port_are_named():
    shared = {name.removeprefix(PortSettings.PREFIX) for name in fields(PortSettings)} - {"LISTEN"}
    assert {name for name in shared if f"`{name}" not in PAGE} == set()
