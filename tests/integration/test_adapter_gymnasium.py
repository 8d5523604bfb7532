"""``gymnasium:<id>``: registered ids as Gymnasium makes them, with their spaces, wrappers and images."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from envmesh.env import Isolation, Recovery
from envmesh.target import TargetError, load
from tests.integration.playing import digests, digests_elsewhere, play

LIGHT = [
    "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1", "FrozenLake-v1",
    "FrozenLake8x8-v1", "Taxi-v4", "Blackjack-v1", "CliffWalking-v1",
]  # fmt: skip


@pytest.mark.parametrize("identifier", LIGHT)
def test_light_environments_run_inline_and_replay(identifier):
    pytest.importorskip("gymnasium")
    target = f"gymnasium:{identifier}"
    declaration = load(target).declaration
    assert declaration.isolation is Isolation.INLINE
    assert declaration.recovery is Recovery.REPLAY
    assert declaration.version == identifier.rpartition("-v")[2]
    assert digests(target, 3) == digests(target, 3)


def test_they_go_the_same_way_in_another_process():
    targets = [f"gymnasium:{identifier}" for identifier in LIGHT]
    assert digests_elsewhere(targets, 7, "1") == {target: digests(target, 7) for target in targets}


def test_keyword_arguments_are_gymnasiums():
    seen = play("gymnasium:CartPole-v1?max_episode_steps=5", steps=100)
    assert len(seen) == 6
    assert seen[-1].truncated
    assert not seen[-1].terminated
    slippery = load("gymnasium:FrozenLake-v1?is_slippery=false&map_name=8x8").factory()
    assert slippery.observation_space.n == 64


def test_truncated_is_what_the_environment_says():
    seen = play("gymnasium:CartPole-v1?max_episode_steps=null", steps=400)
    assert seen[-1].terminated
    assert not seen[-1].truncated


def test_images_are_observed():
    target = "gymnasium:CartPole-v1?render_mode=rgb_array&max_episode_steps=4&wrap=AddRenderObservation"
    declaration = load(target).declaration
    assert declaration.isolation is Isolation.PROCESS
    assert declaration.recovery is Recovery.REPLAY
    assert isinstance(declaration.observation_space, Box)
    seen = play(target)
    assert seen[1].observation.dtype == np.uint8
    assert seen[1].observation.shape == (400, 600, 3)
    assert digests(target, 2) == digests(target, 2)


def test_wrappers_come_innermost_first_with_arguments():
    target = (
        "gymnasium:CartPole-v1?render_mode=rgb_array&max_episode_steps=3"
        "&wrap=AddRenderObservation&wrap=GrayscaleObservation(keep_dim=True)&wrap=FrameStackObservation(stack_size=2)"
    )
    assert play(target)[1].observation.shape == (2, 400, 600, 1)


def test_a_light_environment_stays_inline_under_a_light_wrapper():
    declaration = load("gymnasium:FrozenLake-v1?wrap=FlattenObservation").declaration
    assert declaration.isolation is Isolation.INLINE
    assert declaration.recovery is Recovery.REPLAY
    assert declaration.observation_space.shape == (16,)
    remembering = load("gymnasium:CartPole-v1?wrap=NormalizeObservation").declaration
    assert remembering.isolation is Isolation.PROCESS
    assert remembering.recovery is Recovery.NONE


@pytest.mark.parametrize(
    ("arguments", "recovery"),
    [
        ("", Recovery.REPLAY),
        ("?map_name=8x8", Recovery.REPLAY),
        ("?map_name=None", Recovery.NONE),
        ("?map_name=None&wrap=FlattenObservation", Recovery.NONE),
        ("?map_name=None&desc=['SF','FG']", Recovery.REPLAY),
    ],
)
def test_a_lake_without_a_map_makes_one_up_and_cannot_be_repeated(arguments, recovery):
    assert load(f"gymnasium:FrozenLake-v1{arguments}").declaration.recovery is recovery


def test_a_lake_may_be_registered_with_an_array_for_a_map():
    entry_point, lake = "gymnasium.envs.toy_text:FrozenLakeEnv", np.array([list("SF"), list("FG")])
    gymnasium.register("ArrayLake-v0", entry_point=entry_point, kwargs={"desc": lake})
    try:
        definition = load("gymnasium:ArrayLake-v0")
        assert definition.declaration.recovery is Recovery.REPLAY
        assert definition.factory().observation_space.n == 4
    finally:
        del gymnasium.registry["ArrayLake-v0"]


def test_reset_options_are_known():
    definition = load("gymnasium:CartPole-v1")
    assert definition.declaration.options == ("low", "high")
    observation, _ = definition.factory().reset(seed=1, options={"low": 0.01, "high": 0.02})
    assert (observation >= 0.01).all()


REGISTERS = """
import gymnasium
import envmesh.env

class Home(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}
    def step(self, action):
        return 1, 1.0, True, False, {}

@envmesh.env.environment(recovery="replay", isolation="thread")
class Declared(Home):
    pass

gymnasium.register("Home-v2", entry_point=Home)
gymnasium.register("own/Declared-v0", entry_point="registers_here:Declared")
"""


def test_another_packages_environments_get_the_safe_choices_unless_declared(tmp_path, monkeypatch):
    (tmp_path / "registers_here.py").write_text(REGISTERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    definition = load("gymnasium:registers_here:Home-v2", name="home")
    assert definition.key == "home@2"
    assert definition.declaration.isolation is Isolation.PROCESS
    assert definition.declaration.recovery is Recovery.NONE
    assert not definition.declaration.declared
    assert isinstance(definition.declaration.observation_space, Discrete)
    declared = load("gymnasium:registers_here:own/Declared-v0").declaration
    assert declared.recovery is Recovery.REPLAY
    assert declared.isolation is Isolation.THREAD
    assert declared.action_space.n == 2
    sys.modules.pop("registers_here")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("gymnasium:CartPole-v7", "there is CartPole-v0, CartPole-v1"),
        ("gymnasium:Cartpol-v1", "Did you mean 'CartPole-v1'"),
        ("gymnasium:Nothing-v1", "gymnasium:<module>:Nothing-v1"),
        ("gymnasium:no_such_module_here:Home-v2", "no module 'no_such_module_here'"),
        ("gymnasium:CartPole-v1?polemass=3", "unexpected keyword argument 'polemass'"),
        ("gymnasium:CartPole-v1?render_mode=human", "needs a screen"),
        ("gymnasium:CartPole-v1?wrap=Resize", "Did you mean 'ResizeObservation'?"),
        ("gymnasium:CartPole-v1?wrap=FrameStackObservation(4)", "its arguments need names"),
        ("gymnasium:CartPole-v1?wrap=a b", "cannot be read"),
        ("gymnasium:CartPole-v1?wrap=no_such_module_here.Wrapper", "no module 'no_such_module_here'"),
        ("gymnasium:CartPole-v1?max_episode_steps", "is not key=value"),
    ],
)
def test_every_mistake_is_told(target, says):
    with pytest.raises(TargetError) as caught:
        load(target)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("identifier", "module", "says"), [("LunarLander-v3", "Box2D", "box2d"), ("Ant-v5", "mujoco", "mujoco")]
)
def test_a_missing_package_is_told_with_its_remedy(identifier, module, says):
    if module in sys.modules or __import__("importlib.util").util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(TargetError, match=f"gymnasium\\[{says}\\]"):
        load(f"gymnasium:{identifier}")
