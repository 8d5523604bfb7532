"""Keys that are rotated: a new one counts at once, and is used only when everybody who checks must have heard of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from envmesh_service.clock import Clock
from envmesh_service.watched import Watched

__all__ = ["Rotated"]

_Key = TypeVar("_Key")
_Taken = TypeVar("_Taken", contravariant=True)


class _Holder(Protocol[_Taken]):
    """What uses the keys: ``replace`` accepts all and goes on with the one in use, ``turn`` uses the first."""

    def replace(self, keys: Sequence[_Taken]) -> None: ...

    def turn(self) -> None: ...


class Rotated(Generic[_Key]):
    """Keeps a holder's keys as its file says. ``settle`` is in seconds. A process that starts with several keys begins
    with the last of them, for others may not have the first yet."""

    def __init__(
        self,
        keys: Watched[list[_Key]],
        holder: _Holder[_Key],
        *,
        settle: float,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._keys, self._holder, self._settle, self._clock = keys, holder, settle, clock
        self._changed = changed
        self._turn_at: float | None = None
        if len(keys.value) > 1:
            holder.replace(keys.value[-1:])
            holder.replace(keys.value)
            self._turn_at = clock() + settle

    def refresh(self) -> None:
        """Take up keys that were written since, and use the first when it is time."""
        if self._keys.refresh():
            self._holder.replace(self._keys.value)
            self._turn_at = self._clock() + self._settle
            self._changed()
        if self._turn_at is not None and self._clock() >= self._turn_at:
            self._turn_at = None
            self._holder.turn()
