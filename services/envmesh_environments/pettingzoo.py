"""``pettingzoo:<module>``: PettingZoo's environments, turn by turn (AEC) and parallel.

* ``pettingzoo:classic.tictactoe_v3``: a module of PettingZoo's own. ``pettingzoo:mpe2.simple_spread_v3``: of any
  package that has the same form, a module with ``env`` or ``parallel_env``.
* ``pettingzoo:classic.rps_v2?max_cycles=5``: keyword arguments of the environment. A module that has both forms is
  played in parallel, unless ``form=aec`` is asked for.

In a parallel environment all living agents act at once. In an AEC environment one acts at a time; its reward, and
what it earns while others move, comes with its next observation, or when it has ended. Agents that have ended are
stepped out by the adapter.

PettingZoo's own environments are deterministic given a seed: REPLAY; others are NONE. All run in worker processes.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from envmesh.build import build_digest
from envmesh.env import Declaration, Definition, Isolation, Recovery
from envmesh.target import TargetError, import_module, missing_extra, split_arguments, suggestion

__all__ = ["ParallelGame", "TurnGame", "load"]

_FAMILIES = ("atari", "butterfly", "classic", "mpe", "sisl")
_Dict = dict[str, Any]


def load(rest: str) -> Definition:
    """Define an environment: ``module[?form=aec&key=value…]``.

    Raises:
        TargetError: no such module, a package it needs is not installed, or an argument it does not take.
    """
    path, arguments = split_arguments(rest)
    try:
        import gymnasium
        import pettingzoo  # noqa: F401
    except ImportError as error:
        raise missing_extra("pettingzoo", "environments", error) from error
    ours = path.partition(".")[0] in _FAMILIES
    module = _module(path, ours=ours)
    form = _form(path, module, arguments.pop("form", None))
    make = functools.partial(_make, module.__name__, form, tuple(sorted(arguments.items())))
    try:
        environment = make()
    except ImportError as error:
        raise TargetError(_not_installed(path, error)) from error
    except Exception as error:
        raise TargetError(f"{path} could not be made: {type(error).__name__}: {error}") from error
    agents = tuple(environment.possible_agents)
    observed = {agent: environment.observation_space(agent) for agent in agents}
    acted = {agent: environment.action_space(agent) for agent in agents}
    environment.close()
    name, _, version = path.rpartition("_v")
    return Definition(
        target=f"pettingzoo:{rest}",
        name=f"pettingzoo:{rest}",
        declaration=Declaration(
            version=version if name and version.isdigit() else "1",
            recovery=Recovery.REPLAY if ours else Recovery.NONE,
            isolation=Isolation.PROCESS,
            observation_space=gymnasium.spaces.Dict(observed),
            action_space=gymnasium.spaces.Dict(acted),
            agents=agents,
            seeded=True,
            declared=ours,
        ),
        factory=functools.partial(ParallelGame if form == "parallel" else TurnGame, make),
        build=build_digest(
            None if ours else module.__name__,
            distributions=("envmesh", "pettingzoo", "gymnasium", "numpy"),
            parts=(path, form, repr(sorted(arguments.items()))),
        ),
    )


class _Game:
    """What both kinds have: the environment, and who is to act."""

    def __init__(self, make: Any) -> None:
        self._environment = make()
        self.acting: tuple[str, ...] = ()

    def close(self) -> None:
        """Free what the environment holds."""
        self._environment.close()

    def _check_due(self, actions: Mapping[str, Any]) -> None:
        if set(actions) != set(self.acting) or not self.acting:
            raise ValueError(f"the agents due are {sorted(self.acting)}; got actions of {sorted(actions)}")


class ParallelGame(_Game):
    """A parallel environment: all living agents act at once."""

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[_Dict, _Dict]:
        """Begin; all agents observe."""
        observations, infos = self._environment.reset(seed=_seed(seed), options=dict(options or {}))
        self.acting = tuple(self._environment.agents)
        return observations, infos

    def step(self, actions: Mapping[str, Any]) -> tuple[_Dict, _Dict, _Dict, _Dict, _Dict]:
        """All living agents act."""
        self._check_due(actions)
        observations, rewards, terminations, truncations, infos = self._environment.step(dict(actions))
        self.acting = tuple(self._environment.agents)
        return observations, rewards, terminations, truncations, infos


class TurnGame(_Game):
    """An AEC environment: one agent acts at a time."""

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[_Dict, _Dict]:
        """Begin; the agent that is to move first observes."""
        self._environment.reset(seed=_seed(seed), options=dict(options or {}))
        observations, _, _, _, infos = self._advance()
        return observations, infos

    def step(self, actions: Mapping[str, Any]) -> tuple[_Dict, _Dict, _Dict, _Dict, _Dict]:
        """The agent whose turn it is acts."""
        self._check_due(actions)
        self._environment.step(actions[self.acting[0]])
        return self._advance()

    def _advance(self) -> tuple[_Dict, _Dict, _Dict, _Dict, _Dict]:
        """Step out the agents that have ended, up to the one that is to act; gather what concerns them all."""
        environment = self._environment
        observations: _Dict = {}
        rewards: _Dict = {}
        terminations: _Dict = {}
        truncations: _Dict = {}
        infos: _Dict = {}
        self.acting = ()
        while environment.agents:
            agent = environment.agent_selection
            observations[agent], reward, terminations[agent], truncations[agent], infos[agent] = (
                environment.last()
            )
            rewards[agent] = rewards.get(agent, 0.0) + float(reward)
            if not terminations[agent] and not truncations[agent]:
                self.acting = (agent,)
                break
            environment.step(None)
        return observations, rewards, terminations, truncations, infos


def _module(path: str, *, ours: bool) -> ModuleType:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not ours:
        try:
            return import_module(path)
        except TargetError as error:
            known = suggestion(path, _known())
            raise TargetError(
                f"{error}{known}" if "Did you mean" not in str(error) else str(error)
            ) from error
    full = f"pettingzoo.{path}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name == full or error.name == f"pettingzoo.{path.partition('.')[0]}":
                family = path.partition(".")[0]
                base = path.rpartition("_v")[0]
                shipped = _known()
                same = [name for name in shipped if base and name.rpartition("_v")[0] == base]
                of_family = [name for name in shipped if name.startswith(f"{family}.")]
                near = suggestion(path.partition(".")[2], [name.partition(".")[2] for name in of_family])
                hint = f"; there is {', '.join(same)}" if same else f".{near}"
                listed = "" if same or "Did you mean" in hint else f" {family} has {', '.join(of_family)}"
                raise TargetError(f"PettingZoo has no environment {path!r}{hint}{listed}") from error
            raise TargetError(_not_installed(path, error)) from error
        except Exception as error:
            raise TargetError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error


def _known() -> list[str]:
    """PettingZoo's own environments, by module."""
    found: list[str] = []
    for family in _FAMILIES:
        try:
            package = importlib.import_module(f"pettingzoo.{family}")
        except ImportError:  # a family that has moved into its own package
            continue
        found += [
            f"{family}.{module.name}"
            for module in pkgutil.iter_modules(package.__path__)
            if "_v" in module.name
        ]
    return found


def _not_installed(path: str, error: ImportError) -> str:
    family = path.partition(".")[0]
    remedy = f": pip install 'pettingzoo[{family}]'" if family in _FAMILIES else ""
    return f"{path} needs a package that is not installed ({error}){remedy}"


def _form(path: str, module: ModuleType, wanted: Any) -> str:
    forms = {"parallel": "parallel_env", "aec": "env"}
    there = [form for form, attribute in forms.items() if callable(getattr(module, attribute, None))]
    if not there:
        raise TargetError(f"{path} has neither env() nor parallel_env(): it is no PettingZoo environment")
    if wanted is not None and wanted not in there:
        raise TargetError(f"form={wanted}: {path} has {' and '.join(f'form={form}' for form in there)}")
    return str(wanted or there[0])


def _make(module: str, form: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        make = getattr(importlib.import_module(module), "parallel_env" if form == "parallel" else "env")
    return make(**dict(arguments))


def _seed(seed: int | None) -> int | None:
    """Some environments seed generators that take 32 bits."""
    return None if seed is None else seed % 2**32
