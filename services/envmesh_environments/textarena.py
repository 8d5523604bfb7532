"""``textarena:<id>``: TextArena's games, several agents taking turns in text.

* ``textarena:TicTacToe-v0``: a registered id, with its default wrappers; TextArena's own ``-train`` and ``-raw`` ids
  choose others. ``textarena:LiarsDice-v0?players=4``: the number of players, by default the least that the game
  takes. Other arguments go to the game: ``textarena:ConnectFour-v0?num_rows=8``.

The agents are ``player_0``, ``player_1``, …; an observation is the text that the player is shown, an action is text.
A game of one player is a plain environment. A player whose turn it is gets an observation; when the game ends, all
get their reward, and the messages they have not yet seen as their last observation.

Games draw from Python's and numpy's global generators, which ``reset`` seeds: class REPLAY, in worker processes.

Many games work without a network, for example ``TicTacToe-v0``, ``ConnectFour-v0``, ``KuhnPoker-v0``,
``LiarsDice-v0``, ``IteratedPrisonersDilemma-v0``, ``SimpleNegotiation-v0``, ``ThreePlayerIPD-v0``, and of one player
``GuessTheNumber-v0``, ``Minesweeper-v0``, ``Sokoban-v0``. Those with word lists (``Wordle-v0``, ``Hangman-v0``,
``WordLadder-v0``, ``Codenames-v0``, …) need NLTK's data, which has to be there before: nothing is downloaded while
serving. Those judged by a model (``Debate-v0``, ``TwentyQuestions-v0``, …) need ``OPENROUTER_API_KEY``; what they ask
cannot be replayed, so they are NONE.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from envmesh.build import build_digest
from envmesh.env import Declaration, Definition, Isolation, Recovery
from envmesh.target import TargetError, missing_extra, split_arguments, suggestion

if TYPE_CHECKING:
    import textarena

__all__ = ["Game", "SoloGame", "load"]

_ASKS_A_MODEL = frozenset({"Crosswords", "Debate", "GuessWho", "ScenarioPlanning", "TwentyQuestions"})
"""Games (by package) that may ask a model behind a network about what is said."""
_PLAYERS_TRIED = (2, 1, 3, 4, 5, 6, 7, 8)
_TEXT = {"type": "string"}
_Dict = dict[str, Any]


def load(rest: str) -> Definition:
    """Define a game: ``id[?players=n&key=value…]``.

    Raises:
        TargetError: no such game, a number of players it does not take, or something it needs is not there.
    """
    identifier, arguments = split_arguments(rest)
    try:
        from textarena.envs.registration import ENV_REGISTRY
    except ImportError as error:
        raise missing_extra("textarena", "environments", error) from error
    if identifier not in ENV_REGISTRY:
        near = suggestion(identifier, ENV_REGISTRY)
        raise TargetError(f"TextArena has no game {identifier!r}.{near} An id reads TicTacToe-v0")
    players = arguments.pop("players", None)
    if players is not None and (isinstance(players, bool) or not isinstance(players, int) or players < 1):
        raise TargetError(f"players must be a whole number of at least 1; got {players!r}")
    make = functools.partial(_make, identifier, tuple(sorted(arguments.items())))
    with _generators_kept():
        _try_to_make(make, identifier)
        count = _players(make, identifier, players)
    agents = tuple(f"player_{number}" for number in range(count)) if count > 1 else ()
    text: Any = dict.fromkeys(agents, _TEXT) or _TEXT
    package = _package(ENV_REGISTRY[identifier])
    return Definition(
        target=f"textarena:{rest}",
        name=f"textarena:{rest}",
        declaration=Declaration(
            version=_version(identifier),
            recovery=Recovery.NONE if package in _ASKS_A_MODEL else Recovery.REPLAY,
            isolation=Isolation.PROCESS,
            observation_space=text,
            action_space=text,
            agents=agents,
            seeded=True,
            global_random=True,
            declared=True,
        ),
        factory=functools.partial(Game, make, count) if agents else functools.partial(SoloGame, make),
        build=build_digest(
            distributions=("envmesh", "textarena", "numpy", "nltk"),
            parts=(identifier, repr(sorted(arguments.items())), str(count)),
        ),
    )


class Game:
    """A game of several players, in the form of ``envmesh``'s multi-agent environments."""

    def __init__(self, make: Any, players: int) -> None:
        self._make = make
        self._players = players
        self._game: textarena.Env | None = make()
        self._fresh = True
        self.acting: tuple[str, ...] = ()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[_Dict, _Dict]:
        """Begin a game; the player whose turn it is gets the first observation."""
        if not self._fresh or self._game is None:
            self._game = self._make()  # the wrappers of an old game remember what its players saw
        self._fresh = False
        _reset(self._game, self._players, seed)
        return self._turn(), {}

    def step(self, actions: Mapping[str, Any]) -> tuple[_Dict, _Dict, _Dict, _Dict, _Dict]:
        """The player whose turn it is says something."""
        if self._game is None or not self.acting:
            raise RuntimeError("no game is on: reset() first")
        (agent,) = self.acting
        if set(actions) != {agent}:
            raise ValueError(
                f"it is the turn of {agent}, and of nobody else; got actions of {sorted(actions)}"
            )
        done, _ = self._game.step(action=_text(actions[agent]))
        if done:
            return self._end()
        observations = self._turn()
        return observations, dict.fromkeys(observations, 0.0), {}, {}, {}

    def _turn(self) -> _Dict:
        assert self._game is not None
        player, observation = self._game.get_observation()
        self.acting = (f"player_{player}",)
        return {f"player_{player}": str(observation)}

    def _end(self) -> tuple[_Dict, _Dict, _Dict, _Dict, _Dict]:
        assert self._game is not None
        rewards, infos = self._game.close()
        self.acting = ()
        numbers = range(self._players)
        agents = [f"player_{number}" for number in numbers]
        return (
            {agent: _unread(self._game, number) for agent, number in zip(agents, numbers, strict=True)},
            {
                agent: float((rewards or {}).get(number, 0.0))
                for agent, number in zip(agents, numbers, strict=True)
            },
            dict.fromkeys(agents, True),
            dict.fromkeys(agents, False),
            {agent: _info(infos, number) for agent, number in zip(agents, numbers, strict=True)},
        )


class SoloGame:
    """A game of one player, as a plain environment."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._game: textarena.Env | None = make()
        self._fresh = True

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, _Dict]:
        """Begin a game."""
        if not self._fresh or self._game is None:
            self._game = self._make()
        self._fresh = False
        _reset(self._game, 1, seed)
        return str(self._game.get_observation()[1]), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, _Dict]:
        """Say something."""
        if self._game is None:
            raise RuntimeError("no game is on: reset() first")
        done, _ = self._game.step(action=_text(action))
        if not done:
            return str(self._game.get_observation()[1]), 0.0, False, False, {}
        rewards, infos = self._game.close()
        return _unread(self._game, 0), float((rewards or {}).get(0, 0.0)), True, False, _info(infos, 0)


def _make(identifier: str, arguments: tuple[tuple[str, Any], ...]) -> textarena.Env:
    with _no_downloads():
        import textarena

        return textarena.make(identifier, **dict(arguments))


def _reset(game: textarena.Env, players: int, seed: int | None) -> None:
    if seed is not None:  # some games draw before they would seed
        random.seed(seed)
        np.random.seed(seed % 2**32)
    game.reset(num_players=players, seed=seed)


def _text(action: Any) -> str:
    if not isinstance(action, str):
        raise TypeError(f"an action is text, not {type(action).__name__}")
    return action


def _unread(game: textarena.Env, player: int) -> str:
    """What a player has not been shown yet, as ``[who] message`` lines."""
    state = game.state
    roles = getattr(state, "role_mapping", None) or {}
    unread = state.observations.get(player, [])
    return "\n".join(f"[{roles.get(sender, f'Player {sender}')}] {message}" for sender, message, *_ in unread)


def _info(infos: Any, player: int) -> _Dict:
    found = (infos or {}).get(player, {})
    return {
        str(key): value
        for key, value in found.items()
        if value is None or isinstance(value, str | bool | int | float)
    }


def _try_to_make(make: Any, identifier: str) -> None:
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    try:
        make()
    except SyntaxError as error:
        raise TargetError(f"{identifier} is written for a newer Python than {python}: {error}") from error
    except LookupError as error:
        if "nltk" in str(error).lower():
            raise TargetError(_needs_data(identifier, str(error))) from error
        raise TargetError(f"{identifier} could not be made: {type(error).__name__}: {error}") from error
    except _WantsDownload as error:
        raise TargetError(_needs_data(identifier, str(error))) from error
    except Exception as error:
        raise TargetError(f"{identifier} could not be made: {type(error).__name__}: {error}") from error


def _needs_data(identifier: str, what: str) -> str:
    """``what`` is a list of packages, or NLTK's own message of many lines."""
    packages = what if "\n" not in what else "words averaged_perceptron_tagger_eng"
    return (
        f"{identifier} needs NLTK's data, which is not on this machine and is not downloaded while serving: "
        f"python -m nltk.downloader {packages}"
    )


def _players(make: Any, identifier: str, wanted: int | None) -> int:
    refused: Exception | None = None
    for count in (wanted,) if wanted is not None else _PLAYERS_TRIED:
        try:
            make().reset(num_players=count, seed=0)
            return count
        except Exception as error:
            refused = refused or error
    said = f"{type(refused).__name__}: {refused}"
    if wanted is None:
        raise TargetError(f"{identifier} begins with none of 1 to 8 players: {said}")
    raise TargetError(f"{identifier} does not begin with players={wanted}: {said}")


def _package(spec: Any) -> str:
    """``TicTacToe`` of ``textarena.envs.TicTacToe.env:TicTacToeEnv``."""
    parts = str(spec.entry_point).partition(":")[0].split(".")
    return parts[2] if parts[:2] == ["textarena", "envs"] and len(parts) > 2 else ""


def _version(identifier: str) -> str:
    """``0`` of ``TicTacToe-v0`` and of ``TicTacToe-v0-train``, which are of one version."""
    return next((part[1:] for part in identifier.split("-") if part[:1] == "v" and part[1:].isdigit()), "1")


class _WantsDownload(Exception):
    """A game asked NLTK for data that is not there."""


@contextlib.contextmanager
def _no_downloads() -> Iterator[None]:
    """NLTK's ``download`` asks the network even for what is there; within, it asks the disk."""
    nltk = _nltk()
    if nltk is None:
        yield
        return
    download = nltk.download

    def from_disk(packages: Any = None, **_: Any) -> bool:
        asked = [packages] if isinstance(packages, str) else list(packages or ())
        absent = [name for name in asked if not _has_data(name)]
        if absent:
            raise _WantsDownload(" ".join(absent))
        return True

    nltk.download = from_disk
    try:
        yield
    finally:
        nltk.download = download


def _nltk() -> Any:
    """The package, which has no types; None where it is not installed."""
    try:
        return importlib.import_module("nltk")
    except ImportError:
        return None


def _has_data(name: str) -> bool:
    nltk = _nltk()
    for place in ("corpora", "taggers", "tokenizers"):
        for form in (f"{place}/{name}", f"{place}/{name}.zip"):
            with contextlib.suppress(LookupError):
                nltk.data.find(form)
                return True
    return False


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Trying games out leaves the global generators as they were."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
