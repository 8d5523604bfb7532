"""``textarena:<id>``: games in turns, without a network."""

import sys

import pytest

from envmesh.env import Isolation, Recovery
from envmesh.target import TargetError, load
from tests.integration.playing import digests, digests_elsewhere, play

pytest.importorskip("textarena")

OFFLINE = [
    "TicTacToe-v0", "ConnectFour-v0", "KuhnPoker-v0", "LiarsDice-v0", "IteratedPrisonersDilemma-v0",
    "SimpleNegotiation-v0", "ThreePlayerIPD-v0", "GuessTheNumber-v0", "Minesweeper-v0", "Sokoban-v0",
]  # fmt: skip


@pytest.mark.parametrize("identifier", OFFLINE)
def test_games_work_without_a_network_and_replay(identifier):
    target = f"textarena:{identifier}"
    declaration = load(target).declaration
    assert declaration.recovery is Recovery.REPLAY
    assert declaration.isolation is Isolation.PROCESS
    assert declaration.global_random
    seen = play(target, 5)
    assert len(seen) > 1
    assert [outcome.digest for outcome in seen] == digests(target, 5)


def test_they_go_the_same_way_in_another_process():
    targets = [f"textarena:{identifier}" for identifier in OFFLINE]
    assert digests_elsewhere(targets, 7, "1") == digests_elsewhere(targets, 7, "2")


def test_two_players_take_turns_and_the_end_pays_both():
    game = load("textarena:TicTacToe-v0").factory()
    observations, _ = game.reset(seed=1)
    assert list(observations) == ["player_0"]
    assert "Tic Tac Toe" in observations["player_0"]
    for move, due in (("[4]", "player_1"), ("[0]", "player_0"), ("[3]", "player_1"), ("[1]", "player_0")):
        observations, rewards, terminations, truncations, _ = game.step({game.acting[0]: move})
        assert game.acting == (due,) == tuple(observations) == tuple(rewards)
        assert not terminations
        assert not truncations
    observations, rewards, terminations, truncations, infos = game.step({"player_0": "[5]"})
    assert game.acting == ()
    assert rewards == {"player_0": 1.0, "player_1": -1.0}
    assert terminations == {"player_0": True, "player_1": True}
    assert truncations == {"player_0": False, "player_1": False}
    assert set(observations) == {"player_0", "player_1"}
    assert "cell 5" in observations["player_1"]
    assert infos["player_0"]["reason"]


def test_a_game_can_be_begun_again():
    game = load("textarena:TicTacToe-v0").factory()
    first, _ = game.reset(seed=1)
    game.step({"player_0": "[4]"})
    assert game.reset(seed=1)[0] == first


def test_only_the_player_whose_turn_it_is_may_act():
    game = load("textarena:TicTacToe-v0").factory()
    with pytest.raises(RuntimeError, match="reset"):
        game.step({"player_0": "[4]"})
    game.reset(seed=1)
    with pytest.raises(ValueError, match="it is the turn of player_0"):
        game.step({"player_1": "[4]"})
    with pytest.raises(TypeError, match="an action is text"):
        game.step({"player_0": 4})


def test_the_number_of_players_is_a_choice():
    assert load("textarena:LiarsDice-v0").declaration.agents == ("player_0", "player_1")
    assert len(load("textarena:LiarsDice-v0?players=4").declaration.agents) == 4
    assert len(load("textarena:ThreePlayerIPD-v0").declaration.agents) == 3
    assert len(load("textarena:SecretMafia-v0").declaration.agents) == 6
    assert load("textarena:GuessTheNumber-v0").declaration.agents == ()


def test_a_game_of_one_player_is_a_plain_environment():
    game = load("textarena:GuessTheNumber-v0?max_turns=30").factory()
    observation, _ = game.reset(seed=1)
    assert "Guess The Number" in observation
    outcomes: list[tuple] = []
    while not outcomes or not outcomes[-1][2]:
        outcomes.append(game.step(f"[{len(outcomes) + 1}]"))
    assert outcomes[-1][1:4] == (1.0, True, False)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("textarena:TicTacTo-v0", "Did you mean 'TicTacToe-v0'"),
        ("textarena:TicTacToe-v0?players=3", "does not begin with players=3"),
        ("textarena:TicTacToe-v0?players=none", "players must be a whole number"),
        ("textarena:TicTacToe-v0?size=9", "unexpected keyword argument 'size'"),
    ],
)
def test_every_mistake_is_told(target, says):
    with pytest.raises(TargetError) as caught:
        load(target)
    assert says in str(caught.value)


def test_a_game_that_needs_data_or_a_model_says_so_and_downloads_nothing(monkeypatch, tmp_path):
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("it went to the network"))
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    with pytest.raises(TargetError, match=r"python -m nltk\.downloader words"):
        load("textarena:Hangman-v0")
    with pytest.raises(TargetError, match="OPENROUTER_API_KEY"):
        load("textarena:TwentyQuestions-v0")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="it is new enough")
def test_a_game_for_a_newer_python_says_so():
    with pytest.raises(TargetError, match=r"newer Python than Python 3\.11"):
        load("textarena:Chess-v0")
