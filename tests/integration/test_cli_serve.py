"""One host: `serve`, and what looks at it and plays on it."""

import json
from pathlib import Path

import pytest

from tests.integration.command_line import Running, envmesh, envmesh_json, started

CARTPOLE = "cartpole=gymnasium:CartPole-v1"
COUNTDOWN = "tests.environments.countdown:Countdown"
REPORT = {
    "environment", "episodes", "steps", "seconds", "episodes_per_second", "steps_per_second", "step_seconds",
    "reset_seconds", "reward", "episode_length", "concurrency_peak", "outcomes", "failures",
}  # fmt: skip


@pytest.fixture(scope="module")
def host():
    with started("serve", CARTPOLE, f"countdown@7={COUNTDOWN}", "--listen", "127.0.0.1:0") as running:
        yield running


def test_serve_announces_what_it_serves_and_where(host: Running):
    told = host.announced
    assert told["broker"] is None
    assert told["metrics"].startswith("http://127.0.0.1:")
    assert [(e["environment"], e["isolation"], e["recovery"]) for e in told["environments"]] == [
        ("cartpole@1", "inline", "replay"),
        ("countdown@7", "process", "none"),
    ]


def test_envs_lists_the_environments(host: Running):
    told = envmesh_json("envs", "--mesh", host.address)
    assert [(e["environment"], e["pool"], e["hosts"], e["slots"]) for e in told["environments"]] == [
        ("cartpole@1", "default", 1, 4096),
        ("countdown@7", "default", 1, 16),
    ], "what declares nothing has few slots, beside others too"
    table = envmesh("envs", ENVMESH_MESH=host.address)
    assert table.returncode == 0
    assert "cartpole@1" in table.stdout
    assert "gymnasium:CartPole-v1" in table.stdout


def test_describe_tells_spaces_and_promises(host: Running):
    told = envmesh_json("describe", "cartpole", "--mesh", host.address)
    assert told["environment"] == "cartpole@1"
    assert told["action_space"] == "an integer in 0..1"
    assert told["observation_space"].startswith("float32 of shape (4,)")
    assert (told["recovery"], told["isolation"], told["seeded"]) == ("replay", "inline", True)
    assert told["limits"]["step_seconds"] == 60.0
    assert told["summary"].startswith("This environment corresponds"), "CartPole's own words, not a wrapper's"
    people = envmesh("describe", "gymnasium:CartPole-v1", "--mesh", host.address)
    assert people.returncode == 0
    assert "is rebuilt from seed and actions" in people.stdout


def test_run_prints_one_object_with_everything(host: Running):
    told = envmesh_json(
        "run", "cartpole", "--episodes", "50", "--concurrency", "16", "--seed", "3", "--mesh", host.address
    )
    assert set(told) == REPORT
    assert told["environment"] == "cartpole@1"
    assert told["episodes"] == 50
    assert told["outcomes"] == {"terminated": 50}
    assert told["failures"] == {}
    assert told["concurrency_peak"] == 16
    assert told["steps"] == pytest.approx(50 * told["episode_length"]["mean"])
    assert told["reward"]["min"] <= told["reward"]["mean"] <= told["reward"]["max"]
    for name in ("step_seconds", "reset_seconds"):
        assert 0 < told[name]["p50"] <= told[name]["p90"] <= told[name]["p99"] < 30


def test_run_prints_a_table_for_people(host: Running):
    done = envmesh("run", "cartpole", "--episodes", "20", "--max-steps", "5", "--mesh", host.address)
    assert done.returncode == 0
    assert "truncated 20" in done.stdout
    assert "p99" in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_this_machine_is_reached_without_a_proxy(host: Running):
    nobody = "http://127.0.0.1:9"
    asked = ("run", "countdown", "--mesh", host.address, "--episodes", "2")
    report = envmesh_json(*asked, http_proxy=nobody, https_proxy=nobody, no_proxy="")
    assert report["outcomes"] == {"terminated": 2}


def test_run_with_a_policy_and_a_time(host: Running):
    told = envmesh_json(
        "run",
        "countdown",
        "--episodes",
        "10",
        "--policy",
        "tests.environments.countdown:go",
        "--mesh",
        host.address,
    )
    assert told["reward"] == {"mean": 3.0, "min": 3.0, "max": 3.0}
    timed = envmesh_json("run", "cartpole", "--seconds", "0.5", "--mesh", host.address)
    assert timed["seconds"] > 0.4
    assert timed["episodes"] > 0


def test_the_policy_of_a_file_is_that_files(host: Running, tmp_path: Path):
    (tmp_path / "policy.py").write_text("def act(observation): return 'wait'\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "policy.py").write_text("def act(observation): return 'go'\n")
    asked = ("run", "countdown", "--episodes", "1", "--mesh", host.address, "--policy")
    for policy, reward in (("sub/policy.py:act", 3.0), ("policy.py:act", 0.0), ("policy:act", 0.0)):
        assert envmesh_json(*asked, policy, cwd=tmp_path)["reward"]["mean"] == reward


def test_top_shows_a_lone_host_once(host: Running):
    told = envmesh_json("top", "--once", "--mesh", host.address)
    assert told["pools"][0]["environments"] == ["cartpole@1", "countdown@7"]
    assert told["pools"][0]["hosts"] == {"ready": 1}
    unknown = [told["uptime_seconds"], *(told["pools"][0][rate] for rate in ("steps_per_second", "failed"))]
    assert unknown == [None] * 3, "null, for it is not known"
    assert "a host alone" in envmesh("top", "--once", "--mesh", host.address).stdout


def test_bench_measures_each_concurrency(host: Running):
    told = envmesh_json(
        "bench", "cartpole", "--concurrency", "1", "8", "--seconds", "0.3", "--mesh", host.address
    )
    assert [measured["concurrency"] for measured in told["measured"]] == [1, 8]
    assert all(measured["steps_per_second"] > 0 for measured in told["measured"])


@pytest.mark.slow
def test_a_target_gets_a_host_for_the_run_and_a_recording_repeats(tmp_path: Path):
    done = envmesh("run", "gymnasium:CartPole-v1", "--episodes", "5", "--record", str(tmp_path / "run.jsonl"))
    assert done.returncode == 0, done.stderr
    assert "--host` repeats it" in done.stdout
    told = envmesh_json("replay", str(tmp_path / "run.jsonl"), "--host")
    assert (told["episodes"], told["same"], told["different"]) == (5, 5, [])


def test_a_recording_that_was_altered_is_shown(tmp_path: Path, host: Running):
    recording = tmp_path / "run.jsonl"
    envmesh("run", "cartpole", "--episodes", "3", "--record", str(recording), "--mesh", host.address)
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    altered = next(line for line in lines if "actions" in line)
    altered["seed"] = 1 + altered["seed"]
    recording.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = envmesh_json("replay", str(recording), "--mesh", host.address, status=1)
    assert told["same"] == 2
    (different,) = told["different"]
    assert different["step"] == 0
    people = envmesh("replay", str(recording), "--mesh", host.address)
    assert people.returncode == 1
    assert "the reset is the first to differ" in people.stdout
    assert "float32" not in people.stdout, "numbers are for people, not for Python"


@pytest.mark.slow
def test_failed_episodes_are_counted_and_make_the_run_fail():
    done = envmesh("run", "tests.environments.countdown:Falls", "--episodes", "20", "--seed", "1")
    assert done.returncode == 1
    assert "× ENVIRONMENT_RAISED" in done.stdout
    assert "the floor gave way" in done.stdout
    told = envmesh_json(
        "run", "tests.environments.countdown:Falls", "--episodes", "20", "--seed", "1", status=1
    )
    assert told["failures"]["ENVIRONMENT_RAISED"] == told["outcomes"]["failed"]
    assert told["outcomes"]["failed"] + told["outcomes"]["terminated"] == 20


def test_declarations_on_the_command_line_win(tmp_path: Path):
    flags = ["--isolation", "inline", "--recovery", "replay", "--version", "3", "--step-limit", "500ms"]
    with started("serve", f"c={COUNTDOWN}", "--listen", "127.0.0.1:0", *flags) as running:
        told = envmesh_json("describe", "c", "--mesh", running.address)
        assert (told["environment"], told["isolation"], told["recovery"]) == ("c@3", "inline", "replay")
        assert told["limits"]["step_seconds"] == 0.5


def test_what_declares_nothing_has_few_slots_and_the_mesh_shows_no_more():
    with started("serve", f"countdown={COUNTDOWN}", "--listen", "127.0.0.1:0") as running:
        (shown,) = envmesh_json("envs", "--mesh", running.address)["environments"]
        assert (shown["slots"], shown["isolation"], shown["recovery"]) == (16, "process", "none")


@pytest.mark.slow
def test_interrupted_serve_ends_well_and_leaves_nothing():
    with started("serve", f"countdown={COUNTDOWN}", "--listen", "127.0.0.1:0") as running:
        envmesh_json("run", "countdown", "--episodes", "3", "--mesh", running.address)
        running.interrupt()
        assert running.wait() == 0
        assert len(running.family) > 1
        assert not running.left_over()
