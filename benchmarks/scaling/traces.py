"""Traces of demand, seeded: (when an episode is wanted, how long it takes), in seconds."""

import math
import random

from benchmarks.scaling.model import Trace


def _poisson(rate, seconds, seed, mean=60.0):
    """``rate(t)`` episodes a second, of exponential length."""
    dice, now, found = random.Random(seed), 0.0, []
    most = max(rate(t) for t in range(int(seconds)))
    while (now := now + dice.expovariate(most)) < seconds:
        if dice.random() * most < rate(now):
            found.append((now, max(2.0, dice.expovariate(1 / mean))))
    return tuple(found)


def traces(seed: int = 0) -> dict[str, Trace]:
    """Every trace, by name."""
    dice = random.Random(seed)
    day = 3 * 3600.0
    made = [
        Trace("steps", _poisson(lambda t: (1, 6, 2, 8, 1)[min(4, int(t // 1200))], 6000, seed), 7200),
        Trace("ramp", _poisson(lambda t: 10 * max(0.0, min(t, 5400 - t)) / 2700, 5400, seed), 6600),
        Trace(
            "bursts",
            tuple(
                sorted(
                    (300.0 + 600 * n + dice.random() * 5, 30 + dice.random() * 60)
                    for n in range(10)
                    for _ in range(dice.randint(50, 500))
                )
            ),
            7200,
        ),
        Trace("diurnal", _poisson(lambda t: 4 - 3.5 * math.cos(2 * math.pi * t / day), day, seed), day),
        Trace(
            "gangs",
            tuple(sorted((60.0 + 90 * n, 20 + dice.random() * 80) for n in range(60) for _ in range(64))),
            6600,
        ),
        Trace("vanish", _poisson(lambda t: 6 if t < 3000 else 0, 4000, seed, 300), 5400, vanish=(3000.0,)),
        Trace("bulk", tuple((600.0, 60 + dice.random() * 120) for _ in range(1000)), 3600),
        Trace(
            "synchronous",
            tuple(
                sorted(
                    (n * 460.0 + 100 + dice.random(), 20 + dice.random() * 40)
                    for n in range(12)
                    for _ in range(512)
                )
            ),
            6600,
        ),
        Trace(
            "one slot",
            _poisson(lambda t: 0.5 if t < 3000 else 0.1, 5400, seed, 120),
            6600,
            slots=1,
            max_hosts=200,
        ),
        Trace("endless", tuple((300.0 + 10 * n, 1e9) for n in range(200)), 5400),
        Trace("to zero", _poisson(lambda t: 2 if t % 3600 < 600 else 0, 7200, seed), 7200),
        Trace(
            "spot",
            _poisson(lambda t: 5, 5400, seed, 120),
            6600,
            lost=tuple(600.0 + 400 * n for n in range(11)),
        ),
    ]
    return {trace.name: trace for trace in made}
