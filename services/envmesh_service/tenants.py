"""Tenants: who uses a mesh."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_TENANT", "Tenant"]

DEFAULT_TENANT = "default"
"""Everybody, where there are no credentials."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks: its weight in the queue, and at most how many slots it may hold (0: no bound)."""

    name: str
    weight: float = 1.0
    quota: int = 0
