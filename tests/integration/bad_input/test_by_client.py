"""Bad input, item by item, from Python's client: which status, reason and message it gets, and that all neighbours go
on unharmed. What is wrong on a command line is in ``test_cli_bad_input.py``.
"""

from __future__ import annotations

import secrets
import socket
from typing import Any

import numpy as np
import pytest

import envmesh
from tests.compliance.hosts import VALUE_BYTES, HostUnderTest
from tests.integration.bad_input.refused import Wrong

# ---- the episode never begins


BAD_BEGINNINGS: dict[str, tuple[str, dict[str, Any], Wrong]] = {
    "unknown environment": (
        "nowhere",
        {},
        Wrong(envmesh.NotFound, "NOT_FOUND", "ENVIRONMENT_UNKNOWN", "'nowhere'", "tally@1"),
    ),
    "wrong version": (
        "tally@2",
        {},
        Wrong(envmesh.NotFound, "NOT_FOUND", "ENVIRONMENT_UNKNOWN", "'tally@2'", "tally@1"),
    ),
    "unsupported seed": (
        "gate",
        {"seed": 7},
        Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "SEED_UNSUPPORTED", "gate@1", "without one"),
    ),
    "unknown reset option": (
        "tally",
        {"options": {"begin": 3}},
        Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "OPTION_UNKNOWN", "'begin'", "known: start"),
    ),
    "an option where there are none": (
        "faulty",
        {"options": {"level": 3}},
        Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "OPTION_UNKNOWN", "'level'", "known: none"),
    ),
    "unknown task": (
        "tally",
        {"task": "million"},
        Wrong(envmesh.NotFound, "NOT_FOUND", "TASK_UNKNOWN", "'million'"),
    ),
    "a reset that raises": (
        "faulty",
        {"seed": 666},
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RAISED", "ValueError: an unlucky seed"),
    ),
}


@pytest.mark.parametrize("name", BAD_BEGINNINGS)
async def test_an_episode_that_cannot_begin(mesh: envmesh.Mesh, name: str):
    environment, arguments, wrong = BAD_BEGINNINGS[name]
    await wrong.holds(mesh.episode(environment, **arguments).begin())


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", True])
async def test_a_seed_that_is_none_is_refused_before_it_is_sent(mesh: envmesh.Mesh, seed: Any):
    with pytest.raises(envmesh.InvalidRequest, match="0 to 2\\*\\*64 - 1") as refused:
        mesh.episode("tally", seed=seed)
    assert refused.value.reason == "SEED_UNSUPPORTED"


async def test_options_without_a_form_on_the_wire(mesh: envmesh.Mesh):
    with pytest.raises(envmesh.InvalidRequest, match="no form on the wire"):
        mesh.episode("tally", options={"start": object()})


# ---- one step is wrong, and the episode unharmed


BAD_ACTIONS: dict[str, tuple[str, Any, Any]] = {
    "wrong type": ("tally", "five", 5),
    "wrong type for a process": ("tally-process", [5], 5),
    "null": ("tally", None, 5),
    "wrong shape": ("pendulum", np.zeros(2, np.float32), np.zeros(1, np.float32)),
    "wrong rank": ("pendulum", np.zeros((1, 1), np.float32), np.zeros(1, np.float32)),
    "out of bounds": ("pendulum", np.full(1, 99.0, np.float32), np.zeros(1, np.float32)),
    "not a number": ("pendulum", np.full(1, np.nan, np.float32), np.zeros(1, np.float32)),
    "text for an array": ("pendulum", "left", np.zeros(1, np.float32)),
    "an agent is missing": ("pair", {"left": 1}, {"left": 1, "right": 2}),
    "an agent too many": ("pair", {"left": 1, "right": 2, "centre": 3}, {"left": 1, "right": 2}),
}


@pytest.mark.parametrize("name", BAD_ACTIONS)
async def test_an_action_of_a_wrong_type_or_shape(mesh: envmesh.Mesh, name: str):
    environment, action, right = BAD_ACTIONS[name]
    async with mesh.episode(environment, seed=7) as episode:
        wrong = Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "ACTION_INVALID")
        error = await wrong.holds(episode.step(action))
        assert len(str(error)) > len("[ACTION_INVALID]") + 20, "it says what is wrong"
        assert episode.index == 0
        assert (await episode.step(right)).index == 1


async def test_an_action_without_a_form_on_the_wire(mesh: envmesh.Mesh):
    async with mesh.episode("mirror") as episode:
        wrong = Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "ACTION_INVALID", "no form on the wire")
        await wrong.holds(episode.step(object()))
        assert (await episode.step("fine")).observation == "fine"


async def test_a_step_before_reset(mesh: envmesh.Mesh):
    episode = mesh.episode("tally")
    with pytest.raises(envmesh.EpisodeEnded, match="has not begun"):
        await episode.step(5)
    with pytest.raises(envmesh.EpisodeEnded, match="has not begun"):
        _ = episode.observation


async def test_a_step_after_the_end(mesh: envmesh.Mesh):
    async with mesh.episode("tally", seed=7) as episode:
        assert (await episode.step(0)).terminated
        wrong = Wrong(envmesh.EpisodeEnded, "FAILED_PRECONDITION", "EPISODE_ENDED", "ended at step 1")
        for _ in range(2):
            await wrong.holds(episode.step(5))
        assert (await episode.reward()).value == 7.0
    with pytest.raises(envmesh.EpisodeEnded, match="closed"):
        await episode.step(5)


async def test_another_action_at_a_used_index(mesh: envmesh.Mesh):
    """As a user can come by it: the patience ends, and another action is tried."""
    name = secrets.token_hex(4)
    async with mesh.episode("gate") as episode, mesh.episode("gate") as keeper:
        with pytest.raises(envmesh.DeadlineExceeded):
            await episode.step(f"wait {name}", timeout=0.3)
        wrong = Wrong(envmesh.InvalidRequest, "ABORTED", "STEP_CONFLICT", "another action", "step 1")
        await wrong.holds(episode.step("something else"))
        await keeper.step(f"open {name}")
        assert (await episode.step(f"wait {name}")).observation == f"wait {name}"


async def test_an_old_epoch(mesh: envmesh.Mesh, host: HostUnderTest):
    """As a user can come by it: the same detached episode is attached twice."""
    async with envmesh.connect(host.address) as second, envmesh.connect(host.address) as third:
        async with mesh.episode("tally", seed=7) as first:
            await first.step(5)
            detached = await first.detach()
        episode = await second.attach(detached)
        assert episode.observation == 12
        wrong = Wrong(envmesh.EpisodeTakenOver, "ABORTED", "EPOCH_STALE", "newer owner")
        await wrong.holds(third.attach(detached))
        assert (await episode.step(5)).observation == 17
        await episode.close()


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"format": 2}', b"\xff\xfe"])
async def test_bytes_that_detach_never_gave(mesh: envmesh.Mesh, data: bytes):
    wrong = Wrong(
        envmesh.InvalidRequest, "INVALID_ARGUMENT", "MALFORMED", "not the bytes of episode.detach()"
    )
    await wrong.holds(mesh.attach(data))


async def test_an_oversized_action_is_refused_before_it_is_sent(mesh: envmesh.Mesh):
    async with mesh.episode("mirror") as episode:
        wrong = Wrong(envmesh.InvalidRequest, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", f"{VALUE_BYTES:,}")
        await wrong.holds(episode.step(bytes(VALUE_BYTES + 1)))
        assert (await episode.step("small")).observation == "small"


@pytest.mark.parametrize("form", ["by hand", "rollouts", "vector"])
async def test_oversized_options_are_refused_before_they_are_sent(mesh: envmesh.Mesh, form: str):
    options = {"start": "x" * 2 * VALUE_BYTES}

    async def begin() -> None:
        if form == "by hand":
            await mesh.episode("mirror", options=options).begin()
        elif form == "rollouts":
            _ = [each async for each in mesh.rollouts("mirror", lambda _: "", episodes=3, options=options)]
        else:
            async with mesh.vector("mirror", 3, options=options) as vector:
                await vector.reset()

    async with mesh.episode("mirror") as beside:
        wrong = Wrong(envmesh.InvalidRequest, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", f"{VALUE_BYTES:,}")
        await wrong.holds(begin())
        assert (await beside.step("small")).observation == "small"
        assert not mesh.statistics.hosts_lost


# ---- the episode fails, and nobody else


BAD_OUTCOMES: dict[str, tuple[str, Any, Wrong]] = {
    "NaN reward": (
        "faulty",
        "nan",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "REWARD_INVALID", "nan", "finite"),
    ),
    "infinite reward": (
        "faulty",
        "-inf",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "REWARD_INVALID", "-inf", "finite"),
    ),
    "an exception": (
        "faulty",
        "raise",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RAISED", "LookupError: no such door"),
    ),
    "garbage": (
        "faulty",
        "garbage",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RETURNED", "step() must return"),
    ),
    "an oversized observation": (
        "mirror",
        {"bytes": VALUE_BYTES + 1},
        Wrong(
            envmesh.EpisodeAborted, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", "mirror@1", f"{VALUE_BYTES:,}"
        ),
    ),
    "a step over its limit": (
        "slow",
        "stay",
        Wrong(envmesh.EpisodeAborted, "ABORTED", "LIMIT_EXCEEDED", "step 1", "0.5 s"),
    ),
}


@pytest.mark.parametrize("name", BAD_OUTCOMES)
async def test_an_outcome_that_is_none(mesh: envmesh.Mesh, name: str):
    environment, action, wrong = BAD_OUTCOMES[name]
    async with mesh.episode(environment) as episode:
        error = await wrong.holds(episode.step(action))
        assert isinstance(error, envmesh.EpisodeAborted)
        assert error.failure.cause == wrong.reason
        assert not error.failure.reward_valid
        assert episode.outcome.reward == 0.0
        await wrong.holds(episode.step("go on"))


async def test_a_grade_that_is_not_finite(mesh: envmesh.Mesh):
    async with mesh.episode("faulty") as episode:
        wrong = Wrong(envmesh.EpisodeAborted, "UNKNOWN", "REWARD_INVALID", "nan")
        await wrong.holds(episode.reward())


async def test_a_failure_in_rollouts_is_no_return(mesh: envmesh.Mesh):
    trajectories = [
        trajectory async for trajectory in mesh.rollouts("faulty", lambda observation: "nan", episodes=3)
    ]
    assert len(trajectories) == 3
    for trajectory in trajectories:
        assert trajectory.failure is not None
        assert trajectory.failure.cause == "REWARD_INVALID"
        assert trajectory.return_ is None


# ---- nobody is there


@pytest.mark.parametrize(
    "target", ["", "somewhere", ":7070", "somewhere:", "somewhere:http", "somewhere:70700"]
)
def test_a_target_that_is_none(target: str):
    with pytest.raises(ValueError, match="host:port"):
        envmesh.connect(target)


async def test_a_target_where_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    wrong = Wrong(
        envmesh.MeshUnavailable, "UNAVAILABLE", "UNREACHABLE", f"127.0.0.1:{port}", "is the mesh up?"
    )
    await wrong.holds(envmesh.connect(f"127.0.0.1:{port}", connect_timeout=0.5).__aenter__())
