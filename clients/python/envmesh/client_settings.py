"""The bounds of a client (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from envmesh.target_text import suggestion

__all__ = ["ClientSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Bounds of a client; durations in seconds.

    ``liveness_window``: after so long a silence a host is given up. ``reattach_timeout``: for so long an episode that
    cannot be rebuilt waits for its host to be reached again. ``recovery_timeout``: for so long an episode waits to be
    rebuilt. ``poison_losses``: after so many deaths, nobody knows by what, with the same step running, an episode ends
    as POISON. ``checkpoint_steps`` and ``checkpoint_interval`` say how often episodes of class STATE are saved (0: as
    their environment declares). ``max_message_bytes`` bounds a message either way, and so a value: to 64 KiB less.
    """

    connect_timeout: float = 10.0
    slot_timeout: float = 600.0
    liveness_window: float = 10.0
    max_message_bytes: int = 64 << 20
    close_timeout: float = 2.0
    reattach_timeout: float = 10.0
    recovery_timeout: float = 600.0
    poison_losses: int = 2
    checkpoint_steps: int = 0
    checkpoint_interval: float = 0.0

    @classmethod
    def given(cls, settings: Mapping[str, Any]) -> ClientSettings:
        """Those that ``connect`` was given.

        Raises:
            TypeError: there is no such setting. ValueError: one is out of range.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise TypeError(
                    f"connect() takes no {name!r}.{suggestion(name, known)} The settings are {', '.join(known)}"
                )
        return cls(**settings)

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "slot_timeout", "liveness_window", "close_timeout", "reattach_timeout",
                     "recovery_timeout"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value <= 7 * 86400:
                raise ValueError(f"{name} must be more than 0 and at most a week, in seconds; got {value!r}")
        if not isinstance(self.max_message_bytes, int) or not 1 << 17 <= self.max_message_bytes < 1 << 31:
            raise ValueError(
                f"max_message_bytes is a whole number from 128 KiB to 2 GiB - 1; got {self.max_message_bytes!r}"
            )
        if not isinstance(self.poison_losses, int) or self.poison_losses < 1:
            raise ValueError(f"poison_losses is a whole number of at least 1; got {self.poison_losses!r}")
        if self.checkpoint_steps < 0 or self.checkpoint_interval < 0:
            raise ValueError("checkpoint_steps and checkpoint_interval are at least 0")
