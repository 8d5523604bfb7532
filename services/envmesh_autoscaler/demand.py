"""How many hosts a pool needs: demand now, where it is going, and a buffer on top (pure).

    now      = A + Q + R
    trend    = max(0, median of the last ten 6 s changes of `now`, per second)
    forecast = min(now + trend * min(T, W), 2 * now)
    buffer   = 0 if `now` was 0 throughout idle_after, else max(buffer_min, ceil(buffer_factor * sqrt(forecast)))
    want     = highest (forecast + buffer) in the look-back
    hosts    = clamp(ceil(want / (C * target_fill)), min, max)

Slots are counted, never estimated from CPU; the buffer grows with the square root of demand, as the spread of a
Poisson process does; the look-back keeps a trainer's hosts through the pause in which it trains.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["Demand", "PoolPolicy", "Signals", "Terms"]

SAMPLE_SECONDS = 6.0
SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPolicy:
    """How a pool is scaled. Durations in seconds."""

    min_hosts: int = 0
    max_hosts: int = 10
    slots: int = 0
    """Of one host, where no host has told yet."""
    buffer_min: int = 1
    buffer_factor: float = 0.75
    target_fill: float = 1.0
    look_back: float = 60.0
    idle_after: float = 60.0
    drain_patience: float = 600.0

    def __post_init__(self) -> None:
        for wrong, what in (
            (self.min_hosts < 0, "min_hosts must be at least 0"),
            (self.max_hosts < max(1, self.min_hosts), "max_hosts must be at least 1 and at least min_hosts"),
            (self.slots < 0, "slots must be at least 0"),
            (self.buffer_min < 0, "buffer_min must be at least 0"),
            (not 0 <= self.buffer_factor <= 100, "buffer_factor must be 0 to 100"),
            (not 0.1 <= self.target_fill <= 1, "target_fill must be 0.1 to 1"),
            (not 0 <= self.look_back <= 3600, "look_back must be 0 to 3600 s"),
            (not 0 <= self.idle_after <= 86400, "idle_after must be 0 to 86400 s"),
            (not 1 <= self.drain_patience <= 86400, "drain_patience must be 1 to 86400 s"),
        ):
            if wrong:
                raise ValueError(f"{what}; got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the broker says of a pool."""

    leased: int = 0
    """A: slots under lease, idle ones too."""
    queued: int = 0
    """Q: slots that wait and would be given if there were room."""
    reserved: int = 0
    """R: slots reserved for about now and not leased yet."""
    slots: int = 0
    """C: slots of a host; 0: not known."""
    bounded: int = 0
    """Hosts that an environment needs of which a host may have only a few."""
    residence: float = math.inf
    """W: how long a slot is in use, in seconds."""
    start: float = 30.0
    """T: how long a host takes to become ready, in seconds."""
    oldest: float = 0.0
    """Age of the oldest request that a free slot would admit, in seconds; 0: none waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Every term of the formula, in slots but ``hosts``; ``reason`` says which of them decided."""

    leased: int
    queued: int
    reserved: int
    now: int
    trend: float
    forecast: float
    buffer: int
    want: float
    hosts: int
    reason: str


class Demand:
    """A pool's demand over time."""

    def __init__(self, policy: PoolPolicy, now: float, *, idle: bool = False) -> None:
        self.policy = policy
        self._busy_at = -math.inf if idle else now
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES + 1)
        self._peaks: deque[tuple[float, float]] = deque()
        self._bounded: deque[tuple[float, float]] = deque()

    def terms(self, signals: Signals, now: float) -> Terms:
        """The formula, with what was before kept in mind. ``now`` is on a monotonic clock, in seconds."""
        policy = self.policy
        demand = signals.leased + signals.queued + signals.reserved
        if demand:
            self._busy_at = now
        trend = self._trend(demand, now)
        ahead = trend * min(signals.start, signals.residence)
        forecast = min(demand + ahead, 2.0 * demand)
        buffer = 0
        if demand or now - self._busy_at < policy.idle_after:
            buffer = max(policy.buffer_min, math.ceil(policy.buffer_factor * math.sqrt(forecast)))
        slots = signals.slots or policy.slots
        want = self._highest(self._peaks, forecast + buffer, now)
        bounded = math.ceil(self._highest(self._bounded, signals.bounded, now))
        needed = math.ceil(want / (slots * policy.target_fill) - 1e-9) if slots else (1 if want else 0)
        needed = max(needed, bounded)
        hosts = min(max(needed, policy.min_hosts), policy.max_hosts)
        return Terms(
            leased=signals.leased,
            queued=signals.queued,
            reserved=signals.reserved,
            now=demand,
            trend=trend,
            forecast=forecast,
            buffer=buffer,
            want=want,
            hosts=hosts,
            reason=self._reason(demand, forecast, buffer, want, needed),
        )

    def _trend(self, demand: int, now: float) -> float:
        """Slots a second. Changes that have not happened yet count as none, so a young pool is not led astray."""
        samples = self._samples
        if not samples or now - samples[-1][0] >= SAMPLE_SECONDS:
            samples.append((now, demand))
        pairs = zip(list(samples), list(samples)[1:], strict=False)
        rates = sorted((after - before) / (later - earlier) for (earlier, before), (later, after) in pairs)
        rates = sorted([*rates, *([0.0] * (SAMPLES - len(rates)))])
        return max(0.0, (rates[SAMPLES // 2 - 1] + rates[SAMPLES // 2]) / 2)

    def _highest(self, peaks: deque[tuple[float, float]], value: float, now: float) -> float:
        while peaks and peaks[-1][1] <= value:
            peaks.pop()
        peaks.append((now, value))
        while len(peaks) > 1 and now - peaks[0][0] > self.policy.look_back:
            peaks.popleft()
        return peaks[0][1]

    def _reason(self, demand: int, forecast: float, buffer: int, want: float, needed: int) -> str:
        policy = self.policy
        if needed > policy.max_hosts:
            return f"max_hosts {policy.max_hosts} bounds the {needed} that are wanted"
        if needed < policy.min_hosts:
            return f"min_hosts {policy.min_hosts}"
        if want > forecast + buffer:
            return f"{want:.0f} slots were wanted within the last {policy.look_back:g} s"
        if not want:
            return f"nothing was wanted for {policy.idle_after:g} s"
        growth = f" + {forecast - demand:.0f} growth" if forecast > demand else ""
        return f"{demand} slots of demand{growth} + {buffer} buffer"
