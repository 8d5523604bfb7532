"""Episodes of a mesh as Gymnasium's own ``VectorEnv``, beside Gymnasium's."""

import gymnasium
import numpy as np
import pytest

import envmesh
from envmesh.integrations.gymnasium import MeshVectorEnv
from tests.integration.command_line import started
from tests.integration.conftest import ROOT
from tests.integration.test_sync import loop_threads

PARTICULAR = {"either": "EitherOr", "infos": "InfoOfMany"}


@pytest.fixture(scope="module")
def particular():
    """A host of environments that are not quite as most are."""
    served = [f"{name}=tests.environments.particular:{kind}" for name, kind in PARTICULAR.items()]
    with started("serve", *served, "--listen", "127.0.0.1:0", cwd=ROOT) as running:
        yield running


def test_it_plays_as_gymnasiums_own_does(host):
    own = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    with envmesh.connect_sync(host.address) as mesh:
        ours = MeshVectorEnv(mesh, "cartpole", 4)
        assert isinstance(ours, gymnasium.vector.VectorEnv)
        assert ours.observation_space == own.observation_space
        assert ours.action_space == own.action_space
        assert ours.metadata["autoreset_mode"] == own.metadata["autoreset_mode"]
        observations, infos = ours.reset(seed=7)
        expected, _ = own.reset(seed=7)
        assert np.array_equal(observations, expected)
        assert infos["valid"].all()
        for turn in range(8):  # before the first pole falls: afterwards seeds are the mesh's
            actions = np.array([0, 1, turn % 2, 1 - turn % 2])
            for mine, theirs in zip(ours.step(actions)[:4], own.step(actions)[:4], strict=True):
                assert np.array_equal(mine, theirs)
                assert mine.dtype == theirs.dtype
        ours.close()
        own.close()
    assert loop_threads() == []


def test_an_ended_episode_begins_anew_at_the_next_step(host):
    environments = MeshVectorEnv(host.address, "falls", 3)
    try:
        observations, _ = environments.reset(seed=[10, 12, 14])
        assert observations.tolist() == [[10, 0], [12, 0], [14, 0]]
        for _ in range(5):
            observations, rewards, terminated, _, _ = environments.step(np.array([2, 2, 2]))
        assert terminated.all()
        assert rewards.tolist() == [2, 2, 2]
        observations, rewards, terminated, _, infos = environments.step(np.array([2, 2, 2]))
        assert observations[:, 1].tolist() == [0, 0, 0]
        assert rewards.tolist() == [0, 0, 0]
        assert not terminated.any()
        assert infos["valid"].all()
    finally:
        environments.close()
    assert loop_threads() == [], "the client that it made is closed with it"


def test_some_begin_anew_where_the_mask_says(host):
    environments = MeshVectorEnv(host.address, "falls", 3)
    try:
        environments.reset(seed=[10, 12, 14])
        environments.step(np.array([1, 1, 1]))
        observations, _ = environments.reset(
            seed=[20], options={"reset_mask": np.array([False, True, False])}
        )
        assert observations.tolist() == [[10, 1], [20, 0], [14, 1]]
        with pytest.raises(envmesh.InvalidRequest, match="give every episode a seed, or none"):
            environments.reset(seed=[1, None, 3])
    finally:
        environments.close()


def test_a_failed_episode_is_not_valid_and_never_a_reward(host):
    environments = MeshVectorEnv(host.address, "falls", 2)
    try:
        environments.reset(seed=[11, 12])
        for _ in range(3):
            _, rewards, terminated, truncated, infos = environments.step(np.array([1, 1]))
        assert infos["valid"].tolist() == [False, True]
        assert infos["failure"][0] == "ENVIRONMENT_RAISED"
        assert np.isnan(rewards).tolist() == [True, False]
        assert not (terminated | truncated).any()
    finally:
        environments.close()


def test_a_step_after_one_that_was_refused_never_gives_its_outcomes(host):
    environments = MeshVectorEnv(host.address, "falls", 2)
    try:
        environments.reset(seed=[10, 12])
        with pytest.raises(envmesh.InvalidRequest, match="refuses the action"):
            environments.step(np.array([7, 1]))
        with pytest.raises(envmesh.InvalidRequest, match="reset first"):
            environments.step(np.array([2, 2]))
        environments.reset(seed=np.int64(20))  # type: ignore[arg-type] # as numpy's users have them
        observations, rewards, *_ = environments.step(np.array([2, 1]))
        assert observations.tolist() == [[20, 1], [21, 1]]
        assert rewards.tolist() == [2, 1]
    finally:
        environments.close()


def test_the_first_reset_may_have_a_mask(host):
    environments = MeshVectorEnv(host.address, "falls", 2)
    try:
        observations, _ = environments.reset(seed=[20], options={"reset_mask": np.array([False, True])})
        assert observations.tolist() == [[0, 0], [20, 0]]
    finally:
        environments.close()


def test_a_masked_reset_that_fails_is_not_valid_whatever_the_space():
    with started(
        "serve", "nested=tests.environments.nested:Nested", "--listen", "127.0.0.1:0", cwd=ROOT
    ) as host:
        environments = MeshVectorEnv(host.address, "nested", 2)
        try:
            environments.reset(seed=[1, 2])
            observations, infos = environments.reset(
                seed=[13], options={"reset_mask": np.array([True, False])}
            )
            assert infos["valid"].tolist() == [False, True]
            assert observations["place"].tolist() == [[0, 0], [2, 2]]
        finally:
            environments.close()


def test_what_has_no_spaces_is_refused_and_leaves_nothing(host):
    with pytest.raises(envmesh.InvalidRequest, match="talks must declare a Gymnasium observation_space"):
        MeshVectorEnv(host.address, "talks", 2)
    assert loop_threads() == []


def test_a_seed_for_each_place_is_taken_where_the_mask_says(host):
    environments = MeshVectorEnv(host.address, "falls", 3)
    try:
        environments.reset(seed=[10, 12, 14])
        middle = {"reset_mask": np.array([False, True, False])}
        lists: list[list[int | None]] = [[30, 20, 40], [None, 20, None]]
        for seeds in lists:
            observations, _ = environments.reset(seed=seeds, options=dict(middle))
            assert observations.tolist() == [[10, 0], [20, 0], [14, 0]]
        with pytest.raises(envmesh.InvalidRequest, match="give every episode a seed, or none"):
            environments.reset(seed=[1, None, 3], options={"reset_mask": np.array([True, True, False])})
    finally:
        environments.close()


def test_what_failed_stays_invalid_until_it_begins_anew(host):
    environments = MeshVectorEnv(host.address, "falls", 2)
    try:
        environments.reset(seed=[11, 12])
        for _ in range(3):
            infos = environments.step(np.array([1, 1]))[4]
        assert infos["valid"].tolist() == [False, True]
        _, infos = environments.reset(seed=[20], options={"reset_mask": np.array([False, True])})
        assert infos["valid"].tolist() == [False, True]
        infos = environments.step(np.array([1, 1]))[4]
        assert infos["valid"].tolist() == [True, True]
    finally:
        environments.close()


def test_what_stands_for_a_failed_observation_is_of_its_space(particular):
    environments = MeshVectorEnv(particular.address, "either", 2)
    try:
        environments.reset(seed=[1, 2])
        observations, _, _, _, infos = environments.step(np.array([7, 3]))
        assert infos["valid"].tolist() == [False, True]
        assert observations in environments.observation_space
        assert observations[1] == (0, 3)
    finally:
        environments.close()


def test_an_info_that_is_no_map_fails_its_episode_and_no_other(particular):
    environments = MeshVectorEnv(particular.address, "infos", 3)
    try:
        environments.reset(seed=[1, 2, 3])
        infos = environments.step(np.array([1, 7, 2]))[4]
        assert infos["valid"].tolist() == [True, False, True]
        assert infos["failure"][1] == "ENVIRONMENT_RETURNED"
        assert infos["action"].tolist() == [1, 0, 2]
    finally:
        environments.close()
