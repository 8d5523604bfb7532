"""One run: the disturbed half, the calm half, and the report."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import envmesh
from envmesh.mesh import Mesh
from envmesh_cli.child import Line
from envmesh_cli.local_mesh import LocalMesh
from tests.chaos.fleet import SETTINGS, ChaosMesh, plans
from tests.chaos.schedule import WINDOW, Fault, plan
from tests.chaos.trainer import EPISODES, Played, play
from tests.chaos.verdict import Findings, examine, percentile, table

__all__ = ["chaos", "report"]

SHOWN_WAITS = 20
HOSTS = 6
SETTLE_SECONDS = 60.0
"""Longer than any window after which a host lets go: what is held then is held for ever."""

LAST_EPISODES_SECONDS = 180.0
LAST_LINES = 400


class Half:
    """What was seen of the disturbed half."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.played = Played()
        self.said: deque[str] = deque(maxlen=LAST_LINES)
        self.leaked: dict[str, str] = {}
        self.cannot: list[str] = []
        self.statistics: dict[str, Any] = {}
        self.seconds = 0.0

    def hear(self, line: Line) -> None:
        """A process of the mesh said something."""
        if line.level in ("error", "critical", ""):
            self.said.append(f"{line.source}: {line.text}")


async def chaos(seed: int, seconds: float, directory: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run it; ``seconds`` of accidents. Returns the report."""
    schedule = plan(seed, seconds, HOSTS)
    half = Half()
    disturbed_ledger, calm_ledger = directory / "disturbed", directory / "calm"
    for ledger in (disturbed_ledger, calm_ledger):
        ledger.write_text("")
    await _disturbed(half, schedule, seconds, disturbed_ledger, tell)
    tell(f"{half.played.steps:,} steps; now the same episodes in peace")
    calm = await _calm(half.played.begun, calm_ledger)
    findings = examine(half.played, calm, _acts(disturbed_ledger))
    if half.leaked:
        findings.wrong.append(f"slots are still held after everybody has gone: {half.leaked}")
    if half.played.typically_live < 1000:
        findings.wrong.append(f"only {half.played.typically_live} episodes were played at once")
    return _report(seed, half, findings)


async def _disturbed(half: Half, schedule: Sequence[Fault], seconds: float, ledger: Path,
                     tell: Callable[[str], None]) -> None:  # fmt: skip
    async with ChaosMesh(HOSTS, ledger, half.hear) as local:
        half.cannot = local.cannot
        async with envmesh.connect(
            local.address, liveness_window=WINDOW, recovery_timeout=120.0, slot_timeout=120.0
        ) as mesh:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            ends = begun + seconds
            numbers = {name: place * 1_000_000 for place, name in enumerate(EPISODES)}

            def seeds(environment: str) -> Iterator[int]:
                for number in itertools.count(numbers[environment]):
                    if loop.time() > ends and number - numbers[environment] >= EPISODES[environment]:
                        return
                    yield number

            try:
                async with asyncio.timeout(seconds + LAST_EPISODES_SECONDS), asyncio.TaskGroup() as group:
                    accidents = _accidents(half, local, schedule, begun, tell)
                    group.create_task(accidents, name="chaos-faults")
                    half.played = await play(mesh, seeds)
            except TimeoutError:
                raise AssertionError(_stuck(mesh, half)) from None
            half.seconds = loop.time() - begun
            half.statistics = _statistics(mesh)
        half.leaked = await _settled(local)


async def _accidents(half: Half, local: ChaosMesh, schedule: Sequence[Fault], begun: float,
                     tell: Callable[[str], None]) -> None:  # fmt: skip
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for number, fault in enumerate(schedule):
            await asyncio.sleep(max(0.0, begun + fault.at - loop.time()))
            tell(fault.line())
            half.faults.append(fault)
            group.create_task(local.suffer(fault), name=f"chaos-fault-{number}")


async def _settled(local: ChaosMesh) -> dict[str, str]:
    """Wait until no slot is held. Returns those that still are, when that has taken too long."""
    held: dict[str, str] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            while held := await local.held_slots():  # noqa: ASYNC110 - the broker is asked, it does not call
                await asyncio.sleep(0.2)
    return held


async def _calm(begun: dict[str, list[int]], ledger: Path) -> Played:
    settings = {**SETTINGS, "ENVMESH_TEST_LEDGER": str(ledger)}
    async with (
        LocalMesh(plans(2, settings)) as local,
        envmesh.connect(local.address, slot_timeout=120.0) as mesh,
    ):
        return await play(mesh, lambda environment: begun[environment])


def _acts(ledger: Path) -> Counter[tuple[int, int]]:
    lines = ledger.read_text().splitlines()
    return Counter((int(seed), int(index)) for seed, index in map(str.split, lines))


def _stuck(mesh: Mesh, half: Half) -> str:
    waiting = [repr(rebuild) for rebuild in list(mesh.recovery.rebuilds)[:10]]
    return f"episodes did not end: {mesh.statistics}, waiting {waiting}, said {list(half.said)[-10:]}"


def _statistics(mesh: Mesh) -> dict[str, Any]:
    found = mesh.statistics
    return {
        "hosts_lost": found.hosts_lost,
        "resumes": {f"{kind} after {cause}": count for (kind, cause), count in sorted(found.resumes.items())},
        "fallen": dict(found.fallen),
        "replayed_steps": found.replayed_steps,
        "divergences": found.divergences,
        "poisoned": found.poisoned,
        "rebuilding": len(mesh.recovery.rebuilds),
        "recovery_seconds": {
            "p50": percentile(found.resume_seconds, 0.5),
            "p99": percentile(found.resume_seconds, 0.99),
            "max": max(found.resume_seconds, default=None),
        },
        "notice_seconds": {
            "p50": percentile(found.notice_seconds, 0.5),
            "max": max(found.notice_seconds, default=None),
        },
    }


def _report(seed: int, half: Half, findings: Findings) -> dict[str, Any]:
    counts = Counter(fault.kind for fault in half.faults)
    counts.subtract(half.cannot)
    return {
        "seed": seed,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(half.seconds, 1),
        "hosts": HOSTS,
        "episodes_at_once": half.played.typically_live,
        "steps": half.played.steps,
        "faults": {kind: count for kind, count in sorted(counts.items()) if count > 0},
        "episodes": findings.episodes,
        "resumed": findings.resumed,
        "long_waits": dict(half.played.waits.most_common(SHOWN_WAITS)),
        **half.statistics,
        "leaked_slots": half.leaked,
        "wrong": findings.wrong,
        "schedule": [fault.record() for fault in half.faults],
        "said": list(half.said),
    }


def report(found: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    columns = ("begun", "steps", "rebuilt", "aborted", "lost", "different")
    recovery = found["recovery_seconds"]
    seconds = ", ".join(f"{name} {value:.3f} s" for name, value in recovery.items() if value is not None)
    faults, episodes = found["faults"], found["episodes"]
    head = (
        f"seed {found['seed']}: {found['seconds']} s, {found['hosts']} hosts, "
        f"{found['episodes_at_once']:,} episodes at once, {found['steps']:,} steps, {sum(faults.values())} faults"
    )
    rows = [(name, *(counts[column] for column in columns)) for name, counts in episodes.items()]
    resumed = [
        (name, row["times"], *(f"{row[key]:.3f} s" for key in ("p50", "p99", "max")))
        for name, row in found["resumed"].items()
    ]
    foot = (
        f"recovery: {seconds or 'nothing was lost'}; {found['replayed_steps']:,} steps replayed, "
        f"{found['divergences']} divergences, {len(found['leaked_slots'])} hosts with leaked slots"
    )
    parts = [
        head,
        table([("fault", "times"), *faults.items()]),
        table([("environment", *columns), *rows]),
        table([("episodes resumed after", "times", "p50", "p99", "max"), *resumed]),
        table([("waits of over 10 s were for", "times seen"), *found["long_waits"].items()]),
        foot,
    ]
    wrong = found["wrong"]
    if wrong:
        parts.append("\n".join(["WRONG:", *wrong[:20], f"({len(wrong)} in all)"]))
    else:
        parts.append("Every promise was kept.")
    return "\n\n".join(parts)
