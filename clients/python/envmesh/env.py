"""The author's interface: what an environment says about itself.

An environment is a Gymnasium-style class, synchronous or asynchronous::

    @envmesh.environment(recovery="replay", isolation="inline")
    class Countdown:
        def reset(self, *, seed=None, options=None): ...      # -> observation, info
        def step(self, action): ...                           # -> observation, reward, terminated, truncated, info

Optional extras, each used where it is there: ``reward()`` grades the episode as it stands, ``checkpoint()`` and
``restore(checkpoint)`` save and load it, ``reseed(seed)`` changes the randomness of the future, ``close()``
frees what it holds, ``tasks()`` lists what episodes can be about, ``digest(observation)`` says what must be
equal in a replay: text, bytes, a number, or a list or dict of them, which is compared in the place of the
observation (of several agents: of the dict of theirs). All but the last two may be ``async``. Nothing has to be
declared: an undeclared environment gets the safe choices.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = [
    "Declaration",
    "Definition",
    "Environment",
    "Isolation",
    "Limits",
    "Recovery",
    "RewardResult",
    "Task",
    "declaration_of",
    "environment",
    "overlaid",
    "space_of",
]


class Recovery(enum.StrEnum):
    """What happens to an episode whose host is lost."""

    NONE = "none"
    """It ends as ABORTED, never as a reward. Also the class of every environment with outside effects."""
    REPLAY = "replay"
    """It is rebuilt from its seed and actions: the same seed and actions give the same outcomes."""
    STATE = "state"
    """It is rebuilt from its last ``checkpoint()`` and the actions since."""


class Isolation(enum.StrEnum):
    """Where an environment's code runs inside a host."""

    INLINE = "inline"
    """In the event loop: fast (well under 1 ms), re-entrant, never blocks."""
    THREAD = "thread"
    """In a thread: may block, must be safe beside its siblings."""
    PROCESS = "process"
    """In a worker process: may hold the GIL, use global random state, or crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on an environment's running time, in seconds, per attempt and measured by the host."""

    reset_seconds: float = 120.0
    step_seconds: float = 60.0
    reward_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("reset_seconds", "step_seconds", "reward_seconds"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < 7 * 86400):
                raise ValueError(
                    f"limits.{name} must be more than 0 and less than a week, in seconds; got {value!r}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What an environment says about itself; every default is the safe choice.

    ``observation_space`` and ``action_space`` are ``gymnasium.Space`` objects, or JSON Schemas as dicts; where they
    are not declared, the attributes of these names are read from an instance, whose own win over its class's.
    ``options`` names the reset options that ``reset`` understands; any other is refused. ``seeded`` says whether
    ``reset`` honours a seed; undeclared, it does when it has a parameter of that name. ``agents`` lists the possible
    agents of a multi-agent environment, whose reset and step speak in dicts keyed by agent (PettingZoo's parallel
    form; ``acting`` names who is due). ``global_random`` says that the code draws from ``random``'s or numpy's global
    generators, so that a worker swaps their state between episodes. ``episodes_per_worker`` bounds how many episodes
    share one worker process (default: 1 for NONE, 64 otherwise). ``slots`` bounds this environment's episodes on one
    host. ``deterministic`` (class STATE): whether the steps between two checkpoints can be replayed; they can be where
    there is a ``digest(observation)``. ``checkpoint_steps`` and ``checkpoint_seconds`` (class STATE): the host saves an
    episode at least every so many steps, and with the first step after so long (default: as the host is set).
    ``reuse`` (isolation inline): one instance may be reset for one episode after another, where making one is dear.
    """

    name: str | None = None
    version: str = "1"
    recovery: Recovery = Recovery.NONE
    isolation: Isolation = Isolation.PROCESS
    observation_space: Any = None
    action_space: Any = None
    agents: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    seeded: bool | None = None
    deterministic: bool = True
    checkpoint_steps: int | None = None
    checkpoint_seconds: float | None = None
    reuse: bool = False
    global_random: bool = False
    episodes_per_worker: int | None = None
    slots: int | None = None
    limits: Limits = field(default_factory=Limits)
    reward_components: tuple[str, ...] = ()
    declared: bool = False
    """Whether somebody declared anything; ``envmesh check`` says what an undeclared environment could gain."""

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "recovery", _choice(Recovery, "recovery", self.recovery))
        set_(self, "isolation", _choice(Isolation, "isolation", self.isolation))
        for name in ("agents", "options", "reward_components"):
            set_(self, name, _names(name, getattr(self, name)))
        if isinstance(self.limits, Mapping):
            set_(self, "limits", Limits(**self.limits))
        if self.name is not None:
            check_name("name", self.name)
        check_name("version", self.version)
        for name in ("episodes_per_worker", "slots", "checkpoint_steps"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
        seconds = self.checkpoint_seconds
        if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds < 7 * 86400):
            raise ValueError(
                f"checkpoint_seconds must be more than 0 and less than a week, in seconds; got {seconds!r}"
            )

    @property
    def worker_episodes(self) -> int:
        """How many episodes may share one worker process."""
        if self.episodes_per_worker is not None:
            return self.episodes_per_worker
        return 1 if self.recovery is Recovery.NONE else 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an episode is to be about. ``id`` is unique in its environment and split; the environment finds the
    task in ``options["task"]`` of its reset."""

    id: str
    split: str = "train"
    prompt: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardResult:
    """A grade of the episode as it stands. ``components`` are finite numbers by name; ``valid`` is False where
    no honest grade can be given."""

    value: float
    components: Mapping[str, float] = field(default_factory=dict)
    valid: bool = True
    rationale: str = ""


@runtime_checkable
class Environment(Protocol):
    """The least an environment has: Gymnasium's ``reset`` and ``step``, either of them possibly ``async``."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode. Returns ``(observation, info)``."""
        ...

    def step(self, action: Any) -> Any:
        """Act once. Returns ``(observation, reward, terminated, truncated, info)``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """An environment a host can serve: its declaration and how to make an instance of it.

    ``target`` is the string it was loaded from, from which any other process loads the same. ``tasks`` gives the
    list of tasks, or nothing. ``build`` is the digest of its code and packages.
    """

    target: str
    name: str
    declaration: Declaration
    factory: Callable[[], Any]
    tasks: Callable[[], Iterable[Task]] | None = None
    build: str = ""

    @property
    def key(self) -> str:
        """Name and version as people write them: ``cartpole@1``."""
        return f"{self.name}@{self.declaration.version}"


_Class = TypeVar("_Class", bound=type)


def environment(**declaration: Any) -> Callable[[_Class], _Class]:
    """Declare an environment: a class decorator whose keywords are the fields of ``Declaration``.

    Raises:
        TypeError: a keyword is not a field of ``Declaration``.
        ValueError: a value is outside its range; the message says which and what would be right.
    """
    declared = Declaration(**declaration, declared=True)

    def declare(cls: _Class) -> _Class:
        cls.__envmesh__ = declared  # type: ignore[attr-defined]
        return cls

    return declare


def declaration_of(subject: Any) -> Declaration:
    """The declaration of a class or instance."""
    declared = getattr(subject, "__envmesh__", None)
    return declared if isinstance(declared, Declaration) else Declaration()


def overlaid(declaration: Declaration, given: Mapping[str, Any]) -> Declaration:
    """The declaration with ``given`` on top. A version alone names the code and promises nothing, so an environment
    that declares nothing else keeps the safe choices."""
    declared = declaration.declared or any(name != "version" for name in given)
    return replace(declaration, **given, declared=declared)


def space_of(declared: Any, instance: Any, attribute: str) -> Any:
    """The space of an instance: as declared, or else its attribute; None where it has none. What a target's class says
    is in its declaration too, for want of an instance; what an instance says instead wins, as in Gymnasium. A method of
    that name is no space."""
    if declared is not None and declared is not getattr(type(instance), attribute, None):
        return declared
    found = getattr(instance, attribute, None)
    return None if callable(found) and not isinstance(found, Mapping) else found


def check_name(what: str, value: str) -> None:
    """Refuse a name that could not stand in ``name@version``, a label or a path.

    Raises:
        ValueError: it is empty, longer than 100 characters, or has other characters than the message lists.
    """
    allowed = "letters, digits, '.', '_', '-', ':' and '/'"
    fits = isinstance(value, str) and 0 < len(value) <= 100
    if not fits or any(not (letter.isalnum() or letter in "._-:/") for letter in value):
        raise ValueError(f"{what} must be 1 to 100 characters of {allowed}; got {value!r}")


def _names(what: str, value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):  # it would be taken for a list of its letters
        raise ValueError(f"{what} must be a list of names, such as [{value!r}]; got the text {value!r}")
    return tuple(value)


def _choice(kind: type[enum.StrEnum], what: str, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(repr(member.value) for member in kind)
        raise ValueError(f"{what} must be one of {choices}; got {value!r}") from None
