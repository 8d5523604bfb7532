"""``pettingzoo:<module>``: in turns and in parallel."""

import sys

import pytest

from envmesh.env import Isolation, Recovery
from envmesh.target import TargetError, load
from tests.integration.playing import digests, digests_elsewhere, play

pytest.importorskip("pettingzoo")

TARGETS = ["classic.tictactoe_v3", "classic.connect_four_v3", "classic.rps_v2", "classic.rps_v2?form=aec"]


@pytest.mark.parametrize("path", TARGETS)
def test_environments_play_to_their_end_and_replay(path):
    target = f"pettingzoo:{path}"
    declaration = load(target).declaration
    assert declaration.recovery is Recovery.REPLAY
    assert declaration.isolation is Isolation.PROCESS
    assert len(declaration.agents) == 2
    seen = play(target, 5, 400)
    assert seen[-1].done
    assert seen[-1].acting == ()
    assert [outcome.digest for outcome in seen] == digests(target, 5, 400)


def test_they_go_the_same_way_in_another_process():
    targets = [f"pettingzoo:{path}" for path in TARGETS]
    assert digests_elsewhere(targets, 7, "1") == digests_elsewhere(targets, 7, "2")


def test_in_turns_what_is_earned_meanwhile_comes_with_the_next_observation():
    game = load("pettingzoo:classic.tictactoe_v3").factory()
    observations, infos = game.reset(seed=1)
    assert game.acting == ("player_1",) == tuple(observations) == tuple(infos)
    for move in (0, 3, 1, 4):
        observations, rewards, ended, cut_off, _ = game.step({game.acting[0]: move})
        assert tuple(observations) == game.acting
        assert set(rewards.values()) == {0.0}
        assert not any((*ended.values(), *cut_off.values()))
    observations, rewards, terminations, _, _ = game.step({"player_1": 2})
    assert game.acting == ()
    assert rewards == {"player_1": 1.0, "player_2": -1.0}
    assert terminations == {"player_1": True, "player_2": True}
    game.close()


def test_in_parallel_all_act_at_once():
    game = load("pettingzoo:classic.rps_v2?max_cycles=3").factory()
    observations, _ = game.reset(seed=1)
    assert set(observations) == set(game.acting) == {"player_0", "player_1"}
    truncations = {}
    for _ in range(3):
        _, rewards, _, truncations, _ = game.step({"player_0": 0, "player_1": 1})
        assert dict(rewards) == {"player_0": -1, "player_1": 1}
    assert game.acting == ()
    assert truncations == {"player_0": True, "player_1": True}
    game.close()


def test_a_truncated_game_is_truncated():
    assert play("pettingzoo:classic.rps_v2?max_cycles=3")[-1].truncated
    assert play("pettingzoo:classic.rps_v2?max_cycles=3&form=aec")[-1].truncated


@pytest.mark.parametrize("path", ["classic.tictactoe_v3", "classic.rps_v2"])
def test_those_who_are_not_due_may_not_act(path):
    game = load(f"pettingzoo:{path}").factory()
    with pytest.raises(ValueError, match="the agents due are"):
        game.step({"player_1": 0})
    game.reset(seed=1)
    with pytest.raises(ValueError, match="the agents due are"):
        game.step({"player_9": 0})


OWN = """
from pettingzoo.classic import rps_v2
parallel_env = rps_v2.parallel_env
"""


def test_another_packages_environments_get_the_safe_choices(tmp_path, monkeypatch):
    (tmp_path / "own_game_v4.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    definition = load("pettingzoo:own_game_v4")
    assert definition.key == "pettingzoo:own_game_v4@4"
    assert definition.declaration.recovery is Recovery.NONE
    assert not definition.declaration.declared
    sys.modules.pop("own_game_v4")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("pettingzoo:classic.tictactoe_v2", "there is classic.tictactoe_v3"),
        ("pettingzoo:classic.tictacto_v3", "Did you mean 'tictactoe_v3'"),
        ("pettingzoo:classic.xyzzy", "classic has classic.chess_v6"),
        ("pettingzoo:no_such_package.game_v1", "no module 'no_such_package'"),
        ("pettingzoo:json", "neither env() nor parallel_env()"),
        ("pettingzoo:classic.tictactoe_v3?form=parallel", "has form=aec"),
        ("pettingzoo:classic.rps_v2?colour=red", "unexpected keyword argument 'colour'"),
        ("pettingzoo:mpe.simple_v3", "pip install mpe2"),
    ],
)
def test_every_mistake_is_told(target, says):
    with pytest.raises(TargetError) as caught:
        load(target)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("path", "module", "extra"),
    [("butterfly.pistonball_v6", "pymunk", "butterfly"), ("classic.leduc_holdem_v4", "rlcard", "classic")],
)
def test_a_missing_package_is_told_with_its_remedy(path, module, extra):
    if __import__("importlib.util").util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(TargetError, match=rf"pip install 'pettingzoo\[{extra}\]'"):
        load(f"pettingzoo:{path}")
