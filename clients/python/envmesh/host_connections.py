"""A client's connections to hosts: one to each, opened when it is first needed.

Who trains for weeks meets many hosts, so a connection that is lost, or could not be opened, is not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from envmesh.stream import HostConnection

__all__ = ["HostConnections", "Metadata"]

Metadata: TypeAlias = tuple[tuple[str, str], ...]
"""What a gateway needs to find a host."""


class HostConnections:
    """The connections that are open or being opened by ``connect``, by address and host."""

    def __init__(self, connect: Callable[[str, str, Metadata], Coroutine[Any, Any, HostConnection]]):
        self._connect = connect
        self._tasks: dict[tuple[str, str], asyncio.Task[HostConnection]] = {}

    async def to(self, address: str, host_id: str, metadata: Metadata) -> HostConnection:
        """The connection to a host. Who does not wait for it any more harms no other who does.

        Raises:
            MeshUnavailable, EnvmeshError: as ``connect``.
        """
        place = address, host_id
        task = self._tasks.get(place)
        if task is None:
            work = self._connect(address, host_id, metadata)
            task = asyncio.get_running_loop().create_task(work, name=f"envmesh-connect-{address}")
            self._tasks[place] = task
            task.add_done_callback(partial(self._opened, place))
        return await asyncio.shield(task)

    def _opened(self, place: tuple[str, str], task: asyncio.Task[HostConnection]) -> None:
        """A connection is open, unless it was lost at once or could not be opened at all."""
        failed = task.cancelled() or task.exception() is not None or task.result().lost is not None
        if failed and self._tasks.get(place) is task:
            del self._tasks[place]

    def open(self) -> list[HostConnection]:
        """To every host that is reached just now."""
        done = [task for task in self._tasks.values() if task.done() and not task.cancelled()]
        return [task.result() for task in done if task.exception() is None and task.result().lost is None]

    def forget(self, connection: HostConnection) -> None:
        """It is lost: whoever needs that host next opens another one."""
        for place, task in list(self._tasks.items()):
            if task.done() and not task.cancelled() and not task.exception() and task.result() is connection:
                del self._tasks[place]

    def cancel(self) -> None:
        """What is still being opened is not wanted any more."""
        for task in self._tasks.values():
            task.cancel()

    async def end(self) -> None:
        """No task is left afterwards; what is open was closed before."""
        self.cancel()
        tasks = list(self._tasks.values())
        self._tasks.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
