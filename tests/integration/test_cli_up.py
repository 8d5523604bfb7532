"""A local mesh from the command line: pools, hosts, rates, and an end in two stages that leaves nothing."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import envmesh as client
from tests.integration.command_line import (
    ENVMESH,
    PATIENCE,
    Running,
    environ,
    envmesh,
    envmesh_json,
    eventually,
    started,
)

CARTPOLE = "cartpole=gymnasium:CartPole-v1"
ECHO = "echo=envmesh_environments.echo:Echo"
ACROBOT = "acrobot=gymnasium:Acrobot-v1"


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@contextmanager
def starting(directory: Path, *arguments: str, **streams: int) -> Iterator[subprocess.Popen[str]]:
    """`up`, whose files are in a directory, not waited for."""
    process = subprocess.Popen(
        [ENVMESH, "up", ECHO, "--hosts", "2", "--listen", "127.0.0.1:0", *arguments],
        stdout=streams.get("stdout", subprocess.DEVNULL),
        stderr=streams.get("stderr", subprocess.PIPE),
        text=True,
        env=environ(TMPDIR=str(directory)),
        start_new_session=True,
    )
    with process:
        try:
            if process.stderr is not None:
                assert "starting" in process.stderr.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def mesh():
    with started("up", ECHO, "--pool", "control:2", CARTPOLE, ACROBOT, "--listen", "127.0.0.1:0") as running:
        yield running


def test_up_announces_pools_processes_and_metrics(mesh: Running):
    told = mesh.announced
    assert [(pool["pool"], pool["hosts"]) for pool in told["pools"]] == [("echo", 1), ("control", 2)]
    assert set(told["metrics"]) == set(told["processes"]) == {"broker", "echo-1", "control-1", "control-2"}


def test_envs_shows_each_environment_in_its_pool(mesh: Running):
    told = envmesh_json("envs", "--mesh", mesh.address)
    assert [(e["environment"], e["pool"], e["hosts"]) for e in told["environments"]] == [
        ("acrobot@1", "control", 2),
        ("cartpole@1", "control", 2),
        ("echo@1", "echo", 1),
    ]


def test_describe_through_the_broker(mesh: Running):
    told = envmesh_json("describe", "acrobot", "--mesh", mesh.address)
    assert told["action_space"] == "an integer in 0..2"


def test_run_through_the_broker(mesh: Running):
    told = envmesh_json(
        "run", "cartpole", "--episodes", "300", "--concurrency", "100", "--mesh", mesh.address
    )
    assert told["outcomes"] == {"terminated": 300}
    assert told["concurrency_peak"] == 100


def test_top_shows_pools_and_hosts(mesh: Running):
    told = envmesh_json("top", "--once", "--interval", "0.3", "--mesh", mesh.address)
    assert {pool["pool"]: pool["hosts"] for pool in told["pools"]} == {
        "control": {"ready": 2},
        "echo": {"ready": 1},
    }
    assert [host["host"] for host in told["hosts"]] == ["control-1", "control-2", "echo-1"]
    assert all(host["slots"] > 0 and host["state"] == "ready" for host in told["hosts"])
    table = envmesh("top", "--once", "--mesh", mesh.address)
    assert table.returncode == 0
    assert "control-2" in table.stdout


def test_one_interrupt_drains_and_leaves_nothing(tmp_path: Path):
    with started("up", ECHO, "--hosts", "2", "--listen", "127.0.0.1:0", TMPDIR=str(tmp_path)) as running:
        assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("envmesh-*/*")] == [0o600, 0o600]
        running.interrupt()
        assert running.wait() == 0
        assert len(running.family) >= 4
        assert not running.left_over()
    assert files_in(tmp_path) == []


async def test_two_interrupts_end_at_once_what_would_not_go(tmp_path: Path):
    with started("up", ECHO, "--listen", "127.0.0.1:0", TMPDIR=str(tmp_path)) as running:
        async with client.connect(running.address) as mesh, mesh.episode("echo") as episode:
            running.interrupt()
            running.said("draining")
            assert running.process.poll() is None
            await episode.step(b"x" * 50)
            running.interrupt()
            assert running.wait() == 130
            assert not running.left_over()
    assert files_in(tmp_path) == []


def test_an_interrupt_while_it_starts_ends_it(tmp_path: Path):
    with starting(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "ended before it was ready" in said
    assert "episodes" not in said  # there was none to lose
    assert files_in(tmp_path) == []


def mash(process: subprocess.Popen[str], directory: Path) -> None:
    """Ctrl-C again and again, faster than it can end, for as long as there is something that it has to remove."""
    for _ in range(100_000):
        if process.poll() is not None or not files_in(directory):
            return
        process.send_signal(signal.SIGINT)


def test_any_number_of_interrupts_while_it_starts_leaves_nothing(tmp_path: Path):
    with starting(tmp_path) as process:
        assert eventually(lambda: list(tmp_path.glob("envmesh-*/*")))
        mash(process, tmp_path)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert files_in(tmp_path) == []


def test_any_number_of_interrupts_leaves_nothing(tmp_path: Path):
    with started("up", ECHO, "--listen", "127.0.0.1:0", TMPDIR=str(tmp_path)) as running:
        running.interrupt()
        mash(running.process, tmp_path)
        assert running.wait() == 130
        assert not running.left_over()
    assert files_in(tmp_path) == []


def test_a_terminal_that_goes_drains_and_leaves_nothing(tmp_path: Path):
    ours, theirs = os.openpty()
    with starting(tmp_path, "--json", stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert "address" in process.stdout.readline()
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 0
    assert files_in(tmp_path) == []
