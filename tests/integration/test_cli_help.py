"""`envmesh --help` teaches, at once, and mistakes on the command line are told in one sentence."""

import json
import subprocess
import sys

import pytest

from envmesh_cli.commands import COMMANDS
from tests.integration.command_line import environ, envmesh

SLOW_TO_IMPORT = {"asyncio", "envmesh", "grpc", "gymnasium", "numpy", "prometheus_client", "rich"}


def test_help_names_every_command_and_shows_how_to_begin():
    done = envmesh("--help")
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert f"  {name:<10}{command.summary}" in done.stdout
    assert "envmesh serve cartpole=gymnasium:CartPole-v1" in done.stdout
    assert "Exit status: 0 all went well" in done.stdout


def test_help_imports_nothing_slow():
    program = """
import sys
from envmesh_cli.arguments import build_parser
build_parser().format_help()
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True, env=environ()
    )
    assert not SLOW_TO_IMPORT & set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str):
    done = envmesh(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: envmesh {command} {COMMANDS[command].usage}")
    assert "--json" in done.stdout


def test_without_a_command_the_help_is_shown():
    done = envmesh()
    assert done.returncode == 2
    assert "Try it:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["srve"], "envmesh: there is no command 'srve'. Did you mean 'serve'?"),
        (["env.py"], "envmesh: there is no command 'env.py'. To serve it: envmesh serve env.py"),
        (["run", "x", "--episode", "3"], "envmesh run: it takes no '--episode'. Did you mean --episodes?"),
        (
            ["run"],
            "envmesh run: the following arguments are required: NAME|TARGET (`envmesh run --help` shows how)",
        ),
        (["run", "x", "--episodes", "0"], "'0' is not a whole number of at least 1"),
        (["run", "x", "--seconds", "soon"], "'soon' is not a time in seconds, such as 5 or 0.5"),
        (["serve", "a:B", "--isolation", "glass"], "invalid choice: 'glass'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments: list[str], sentence: str):
    done = envmesh(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_version():
    told = json.loads(envmesh("version", "--json").stdout)
    assert set(told) == {"envmesh", "python", "grpc", "protobuf", "event_loop"}
    assert envmesh("--version").stdout == f"envmesh {told['envmesh']}\n"
