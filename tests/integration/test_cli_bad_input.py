"""What is wrong is told in one sentence, with what would be right, and the exit status says whose fault it is."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command_line import Running, environ, envmesh, started

COUNTDOWN = "tests.environments.countdown:Countdown"


@pytest.fixture(scope="module")
def host():
    with started(
        "serve", f"countdown={COUNTDOWN}", "--listen", "127.0.0.1:0", "--isolation", "inline"
    ) as running:
        yield running


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_port_in_use(command: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = envmesh(command, COUNTDOWN, "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in done.stderr


def test_a_port_in_use_of_a_process_of_the_mesh():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page = f"127.0.0.1:{taken.getsockname()[1]}"
        done = envmesh("up", COUNTDOWN, "--listen", "127.0.0.1:0", "--page", page)
    assert done.returncode == 1
    assert f"envmesh up: broker: cannot show the page on {page}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("nonsense", "'nonsense' is not a target"),
        ("no_such_module:Thing", "there is no module 'no_such_module'"),
        ("tests.environments.countdown:Countdwn", "Did you mean 'Countdown'?"),
        ("gymnasium:CartPol-v1", "Did you mean 'CartPole-v1'"),
        ("gymnasium:CartPole-v7", "there is CartPole-v"),
        ("reasoning_gym:chain_sun", "Did you mean 'chain_sum'"),
        ("a b=gymnasium:CartPole-v1", "name"),
        ("nowhere.py", "there is no file 'nowhere.py'"),
    ],
)
def test_a_wrong_target(target: str, sentence: str):
    done = envmesh("serve", target, "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert done.stderr.startswith("envmesh serve: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_up_and_run_tell_a_wrong_target_like_serve_does():
    for command in (
        ["up", "gymnasium:CartPol-v1", "--listen", "127.0.0.1:0"],
        ["run", "gymnasium:CartPol-v1"],
    ):
        done = envmesh(*command)
        assert done.returncode == 2
        assert "Did you mean 'CartPole-v1'" in done.stderr
        assert done.stderr.count("Did you mean") == 1


def test_two_environments_of_one_name():
    done = envmesh("serve", "gymnasium:CartPole-v1", "gymnasium:CartPole-v1", "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "is named twice" in done.stderr


def test_an_environment_that_cannot_be_made():
    done = envmesh("serve", "tests.environments.broken_import:Anything", "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "could not be imported" in done.stderr


@pytest.mark.parametrize("command", ["describe", "run"])
@pytest.mark.parametrize("name", ["cartpole", "countdown@9"])
def test_an_unknown_environment_or_version(host: Running, command: str, name: str):
    done = envmesh(command, name, "--mesh", host.address)
    assert done.returncode == 2
    assert f"no environment {name!r} in this mesh (there are: countdown@1)" in done.stderr


def test_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = envmesh("envs", "--mesh", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert "is the mesh up?" in done.stderr


def test_an_address_that_is_none():
    done = envmesh("envs", "--mesh", "somewhere")
    assert done.returncode == 2
    assert "a target is host:port" in done.stderr


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("best", "'random', module:function or file.py:function is right"),
        ("tests.environments.countdown:goo", "has no 'goo'. Did you mean 'go'?"),
        ("tests.environments.countdown:not_a_policy", "a policy is a callable"),
        ("nowhere.py:act", "there is no file 'nowhere.py'"),
        ("no_such_module:act", "there is no module 'no_such_module'"),
        ("tests/environments/tools.py:act", "has no 'act'"),
    ],
)
def test_a_wrong_policy(policy: str, sentence: str):
    done = envmesh("run", COUNTDOWN, "--policy", policy)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_policy_whose_file_is_hidden_by_another_module_is_refused(tmp_path: Path):
    (tmp_path / "json.py").write_text("def act(observation): return 'go'\n")
    done = envmesh("run", COUNTDOWN, "--policy", f"{tmp_path}/json.py:act")
    assert done.returncode == 2
    assert "another module named 'json'" in done.stderr
    assert "hides this file: rename it" in done.stderr


def test_a_policy_that_raises(host: Running):
    done = envmesh(
        "run", "countdown", "--policy", "tests.environments.countdown:stumble", "--mesh", host.address
    )
    assert done.returncode == 1
    assert "envmesh run: --policy tests.environments.countdown:stumble failed: " in done.stderr
    assert "KeyError: 'no idea' (countdown.py, line " in done.stderr
    assert "Traceback" not in done.stderr
    verbose = envmesh(
        "run", "countdown", "-v", "--policy", "tests.environments.countdown:stumble", "--mesh", host.address
    )
    assert "Traceback" in verbose.stderr


def test_a_wrong_setting():
    done = envmesh("serve", COUNTDOWN, ENVMESH_HOST_SLOTS="many", ENVMESH_HOST_SLOT="3")
    assert done.returncode == 2
    assert "ENVMESH_HOST_SLOTS: got 'many'; a whole number is right" in done.stderr
    assert "ENVMESH_HOST_SLOT: there is no such setting; perhaps ENVMESH_HOST_SLOTS is meant" in done.stderr


@pytest.mark.parametrize("command", ["run", "up"])
def test_a_wrong_setting_of_a_process_of_its_own_is_told_once_and_in_full(command: str):
    done = envmesh(command, COUNTDOWN, ENVMESH_HOST_SLOTS="many")
    assert done.returncode == 2
    assert (
        "a mistake in the settings:\n  ENVMESH_HOST_SLOTS: got 'many'; a whole number is right" in done.stderr
    )
    assert done.stderr.count("ENVMESH_HOST_SLOTS") == 1


def test_a_wrong_target_of_pools_that_scale_is_told_once():
    done = envmesh("up", "no_such_module:Thing", "--autoscale", "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "envmesh up: no_such_module:Thing: there is no module" in done.stderr
    assert done.stderr.count("envmesh up:") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to serve"),
        ([COUNTDOWN, "--drain-deadline", "soon"], "--drain-deadline soon: a duration"),
        ([COUNTDOWN, "--hosts", "2", "--autoscale"], "--hosts 2 says how many hosts there always are"),
        (["--pool", "games:2", COUNTDOWN, "--autoscale"], "--pool games:2 says how many hosts there always"),
        ([COUNTDOWN, "--listen", "0.0.0.0:0"], "a local mesh stays on this machine"),
        ([COUNTDOWN, "--listen", "7070"], "host:port is right"),
        (["--pool", "games"], "pool 'games' has no environment"),
        (["--pool", "games:many", COUNTDOWN], "NAME:HOSTS such as games:2"),
        ([COUNTDOWN, "--pool", "Countdown", COUNTDOWN], "there are two pools named 'Countdown'"),
    ],
)
def test_a_mesh_that_cannot_be(arguments: list[str], sentence: str):
    done = envmesh("up", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_an_interval_at_which_no_broker_tells():
    done = envmesh("top", "--once", "--interval", "1e300")
    assert done.returncode == 2
    assert "'1e300' is over an hour" in done.stderr


@pytest.mark.parametrize("content", ["just a text", "a: b: c", "clusters: 5", None])
def test_a_file_that_is_no_kubeconfig_is_named(content: str | None, tmp_path: Path):
    (tmp_path / "pools.json").write_text('{"pools": [{"name": "a", "environments": ["a@1"]}]}')
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content)
    done = envmesh("autoscale", f"--pools={tmp_path / 'pools.json'}", f"--kubeconfig={kubeconfig}")
    assert done.returncode == 1
    assert f"{kubeconfig} cannot be used" in done.stderr
    assert "--verbose" not in done.stderr, "this is no defect"


def test_a_recording_that_is_none(tmp_path: Path):
    done = envmesh("replay", str(tmp_path / "absent.jsonl"))
    assert done.returncode == 2
    assert "there is no file" in done.stderr
    (tmp_path / "text.jsonl").write_text("hello\n")
    done = envmesh("replay", str(tmp_path / "text.jsonl"))
    assert done.returncode == 2


def test_a_recording_is_never_overwritten(tmp_path: Path):
    (tmp_path / "run.jsonl").write_text("mine")
    done = envmesh("run", COUNTDOWN, "--record", str(tmp_path / "run.jsonl"))
    assert done.returncode == 2
    assert "there is such a file already" in done.stderr
    assert (tmp_path / "run.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("absent", "arguments", "extra"),
    [
        ("rich", ["envs"], "mesh"),
        ("cryptography", ["up", COUNTDOWN], "mesh"),
        ("prometheus_client", ["serve", COUNTDOWN], "mesh"),
        ("fsspec", ["serve", COUNTDOWN], "mesh"),
        ("gymnasium", ["serve", "gymnasium:CartPole-v1"], "environments"),
        ("textarena", ["serve", "textarena:TicTacToe-v0"], "environments"),
    ],
)
def test_a_missing_extra_is_named(absent: str, arguments: list[str], extra: str):
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from envmesh_cli.main import main
sys.exit(main({arguments!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
        env=environ(),
    )
    assert done.returncode == 2, done.stderr
    assert f"pip install 'envmesh[{extra}]'" in done.stderr
