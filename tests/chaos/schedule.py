"""Which accident happens when, and to whom: a function of the seed (pure)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "WINDOW", "Fault", "plan"]

WINDOW = 3.0
"""The liveness window of the run, in seconds: what is frozen or cut off for less is not lost."""

KINDS = {
    "kill": 3.0,
    "terminate": 4.0,
    "freeze_short": 0.5 * WINDOW,
    "freeze_long": 2.0 * WINDOW,
    "cut_short": 0.5 * WINDOW,
    "cut_long": 2.0 * WINDOW,
    "cut_one_way": 2.0 * WINDOW,
    "delay": 1.5,
    "half_close": 0.5,
    "reset": 0.5,
    "fleet_cut": 2.0 * WINDOW,
    "worker_kill": 0.5,
    "drain": 3.0,
    "drain_back": 0.5,
    "broker_kill": 2.0,
    "host_add": 0.5,
}
"""Every kind of accident, and how many seconds its victim is left to itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``victim`` is the number of a host; accidents of the broker, and new hosts, have none. ``chance`` in [0, 1) is
    for whatever is still to be chosen when it happens."""

    at: float
    kind: str
    seconds: float
    victim: int | None
    chance: float

    def line(self) -> str:
        """For people."""
        whom = "" if self.victim is None else f" host {self.victim}"
        return f"{self.at:7.2f} s  {self.kind}{whom}"

    def record(self) -> dict[str, Any]:
        """For machines."""
        return {"at": round(self.at, 3), "kind": self.kind, "victim": self.victim}


def plan(seed: int, seconds: float, hosts: int, *, most_added: int = 2, most_down: int = 2) -> list[Fault]:
    """Accidents for so many seconds, every kind before any comes again. At most ``most_down`` hosts are in trouble at
    once, and ``most_added`` hosts are added."""
    dice = random.Random(seed)
    faults: list[Fault] = []
    busy: dict[int, float] = {}
    added = 0
    bag: list[str] = []
    gap = min(1.5, seconds / (1.2 * len(KINDS)))
    now = 0.0
    while True:
        now += dice.uniform(0.5, 1.5) * gap
        if not bag:
            bag = [kind for kind in KINDS if kind != "host_add" or added < most_added]
            dice.shuffle(bag)
        kind = bag.pop()
        victim = None
        if kind == "host_add":
            added += 1
        elif kind != "broker_kill":
            while sum(until > now for until in busy.values()) >= most_down:
                now = min(until for until in busy.values() if until > now)
            victim = dice.choice([host for host in range(hosts) if busy.get(host, 0.0) <= now])
            busy[victim] = now + KINDS[kind] + 1.0
        if now > seconds:
            return faults
        faults.append(Fault(now, kind, KINDS[kind], victim, dice.random()))
