"""The client without ``async``: ``with envmesh.connect_sync("localhost:7070") as mesh``.

The same surface as ``envmesh.connect``: each method does what its namesake of the asynchronous client does, takes the
same arguments, raises the same errors, and returns when it is done. Behind it runs the asynchronous client, in one
event loop in one thread for all synchronous clients of the process. Policies of ``rollouts`` are called in that thread.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from envmesh import mesh as asynchronous
from envmesh.env import Task
from envmesh.errors import EnvmeshError, MeshUnavailable
from envmesh.loop_thread import LoopThread
from envmesh.mesh import Mesh
from envmesh.outcome import EnvironmentSpec, Outcome
from envmesh.reservation import Reservation
from envmesh.rollouts import Rollouts
from envmesh.session import Episode
from envmesh.vector import Vector

__all__ = ["SyncEpisode", "SyncMesh", "SyncRollouts", "SyncVector", "connect_sync"]

_Arguments = ParamSpec("_Arguments")
_Behind = TypeVar("_Behind")
_Result = TypeVar("_Result")

FETCHED_AT_ONCE = 64


def connect_sync(target: str, **arguments: Any) -> SyncMesh:
    """A client of the mesh (or single host) at ``target``, ``host:port``; use it in ``with``.

    Arguments and errors are those of ``envmesh.connect``.
    """
    return SyncMesh(asynchronous.connect(target, **arguments))


class _Front(Generic[_Behind]):
    """What stands before an asynchronous object, and the thread that the object lives in."""

    def __init__(self, behind: _Behind, thread: LoopThread):
        self._behind = behind
        self._thread = thread

    def __repr__(self) -> str:
        return f"<synchronous {self._behind!r}>"

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._thread.call(work)


def _waiting(
    method: Callable[Concatenate[_Behind, _Arguments], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate[_Front[_Behind], _Arguments], _Result]:
    """The same method for those who wait."""

    @functools.wraps(method)
    def call(self: _Front[_Behind], /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        return self._wait(method(self._behind, *arguments, **named))

    return call


class SyncEpisode(_Front[Episode]):
    """One episode, played by hand: ``with mesh.episode(...) as episode``; see ``envmesh.Episode``."""

    def __enter__(self) -> Self:
        self._wait(self._behind.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except MeshUnavailable:  # the client was closed before, and the episode with it
            pass

    begin = _waiting(Episode.begin)
    step = _waiting(Episode.step)
    step_packed = _waiting(Episode.step_packed)
    reward = _waiting(Episode.reward)
    checkpoint = _waiting(Episode.checkpoint)
    detach = _waiting(Episode.detach)

    def fork(self, n: int = 1, *, reseed: bool = False, timeout: float | None = None) -> list[SyncEpisode]:
        """``n`` independent branches from the present step; see ``envmesh.Episode.fork``."""
        branches = self._wait(self._behind.fork(n, reseed=reseed, timeout=timeout))
        return [SyncEpisode(branch, self._thread) for branch in branches]

    def close(self) -> None:
        """End the episode and give its slot back; see ``envmesh.Episode.close``."""
        self._wait(self._behind.close())

    @property
    def outcome(self) -> Outcome:
        """The last outcome."""
        return self._behind.outcome

    @property
    def observation(self) -> Any:
        """What was observed last."""
        return self._behind.observation

    @property
    def info(self) -> Any:
        """The info that came with it."""
        return self._behind.info

    @property
    def acting(self) -> tuple[str, ...]:
        """With several agents: who must act next."""
        return self._behind.acting

    @property
    def done(self) -> bool:
        """Whether the episode is over by itself."""
        return self._behind.done

    @property
    def index(self) -> int:
        """The last step whose outcome is there, -1 before the reset's."""
        return self._behind.index

    @property
    def seed(self) -> int | None:
        """The seed it was reset with."""
        return self._behind.seed

    @property
    def episode_id(self) -> bytes:
        """Its 16 random bytes."""
        return self._behind.episode_id

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment."""
        return self._behind.spec

    @property
    def failure(self) -> EnvmeshError | None:
        """How it failed, if it did."""
        return self._behind.failure

    @property
    def annotations(self) -> dict[int, Any]:
        """What was attached to steps, by their index."""
        return self._behind.annotations


class SyncRollouts(_Front[Rollouts]):
    """An iterator over trajectories as they finish; see ``envmesh.rollouts.Rollouts``.

    The policy is called in the thread of the event loop: it should not wait for the thread that iterates. What it
    raises is raised here. Leaving the loop closes what is open.
    """

    def __init__(self, behind: Rollouts, thread: LoopThread, fetched_at_once: int):
        super().__init__(behind, thread)
        self._fetched: deque[Any] = deque()
        self._fetched_at_once = fetched_at_once

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except MeshUnavailable:  # the client was closed before, and the rollouts with it
            pass

    def __next__(self) -> Any:
        if not self._fetched:
            self._fetched.extend(self._wait(self._behind.several(self._fetched_at_once)))
        if not self._fetched:
            raise StopIteration
        return self._fetched.popleft()

    def close(self) -> None:
        """Close what is open and give the slots back."""
        self._thread.call(self._behind.aclose())


class SyncVector(_Front[Vector]):
    """Many episodes stepped with arrays; see ``envmesh.Vector``."""

    def __enter__(self) -> Self:
        self.prepare()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except MeshUnavailable:
            pass

    def __len__(self) -> int:
        return len(self._behind)

    prepare = _waiting(Vector.prepare)
    reset = _waiting(Vector.reset)
    send = _waiting(Vector.send)
    recv = _waiting(Vector.recv)
    step = _waiting(Vector.step)
    close = _waiting(Vector.close)

    @property
    def n(self) -> int:
        """How many episodes."""
        return self._behind.n

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment; known once the vector is in use."""
        return self._behind.spec


class SyncMesh(_Front[Mesh]):
    """A connection to a mesh, without ``async``. May be used by several threads; nothing outlives ``close``."""

    _thread: LoopThread

    def __init__(self, behind: Mesh):
        self._behind = behind
        self._entered = False

    def __enter__(self) -> Self:
        if self._entered:
            raise MeshUnavailable("a client is entered once; connect anew", reason="UNSUPPORTED")
        self._behind.check_usable(entering=True)
        self._thread = LoopThread.enter()
        self._entered = True
        try:
            self._thread.call(self._behind.__aenter__())
        except BaseException:
            self._entered = False
            self._thread.leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every episode, give back every lease, and end the thread if nobody else uses it."""
        self._behind.check_usable(entering=True)
        if not self._entered or self._behind._closed:
            return
        try:
            self._thread.call(self._behind.close())
        finally:
            self._thread.leave()

    environments = _waiting(Mesh.environments)
    describe = _waiting(Mesh.describe)
    pools = _waiting(Mesh.pools)
    tasks = _waiting(Mesh.tasks)

    @property
    def target(self) -> str:
        """Where the mesh is."""
        return self._behind.target

    def episode(
        self,
        environment: str,
        *,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        task: str | Task = "",
        split: str = "",
        timeout: float | None = None,
        step_timeout: float | None = None,
    ) -> SyncEpisode:
        """An episode, begun by ``with``. ``timeout`` bounds the wait for a slot, in seconds."""
        made = self._run(
            self._behind.episode, environment, seed=seed, options=options, task=task, split=split, timeout=timeout,
            step_timeout=step_timeout,
        )  # fmt: skip
        return SyncEpisode(made, self._thread)

    def reserve(self, environment: str, slots: int, when: Any = None, **arguments: Any) -> Reservation:
        """Say how many slots this client will hold from ``when`` on; see ``Mesh.reserve``. It ends with the client."""
        return self._wait(self._behind.reserve(environment, slots, when, **arguments))

    def rollouts(self, environment: str, policy: Any, **arguments: Any) -> SyncRollouts:
        """Play many episodes with a policy: ``for trajectory in mesh.rollouts(...)``; see ``Rollouts``."""
        # Who comes back for more has dealt with what was fetched: a journal must not believe it of the next ones.
        at_once = FETCHED_AT_ONCE if self._behind.journal is None else 1
        made = self._run(self._behind.rollouts, environment, policy, **arguments)
        return SyncRollouts(made, self._thread, at_once)

    def vector(self, environment: str, n: int, **arguments: Any) -> SyncVector:
        """``n`` episodes stepped with arrays; see ``Vector``."""
        return SyncVector(self._run(self._behind.vector, environment, n, **arguments), self._thread)

    def attach(self, detached: bytes, *, timeout: float | None = None) -> SyncEpisode:
        """Take over an episode that ``episode.detach()`` let go, here or in another process."""
        return SyncEpisode(self._wait(self._behind.attach(detached, timeout=timeout)), self._thread)

    def _run(self, function: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
        """Call a function of the asynchronous client in its loop."""

        async def work() -> _Result:
            return function(*arguments, **named)

        return self._wait(work())

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        if not self._entered:
            work.close()
            self._behind.check_usable()
        return self._thread.call(work)
