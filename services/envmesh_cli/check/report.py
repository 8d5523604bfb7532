"""What ``envmesh check`` finds: findings with a verdict each, and the report they make."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Finding", "Report", "Verdict"]


class Verdict(enum.StrEnum):
    """How a finding went."""

    PASS = "pass"
    WARN = "warn"
    """It works, and something about it will cost somebody."""
    FAIL = "fail"
    """Something is wrong, or a declaration is not true: do not train on it."""
    SKIP = "skip"
    """It was not judged; the evidence says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One question about the environment, and its answer."""

    name: str
    verdict: Verdict
    evidence: str
    """A sentence with figures."""
    advice: str = ""
    """What to do about it; empty where nothing is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about one environment."""

    target: str
    name: str
    version: str
    build: str
    declaration: dict[str, Any]
    """What it declares, in plain values: recovery, isolation, spaces in words, agents."""
    findings: tuple[Finding, ...]
    seconds: float

    def count(self, verdict: Verdict) -> int:
        """How many findings have this verdict."""
        return sum(1 for finding in self.findings if finding.verdict is verdict)

    @property
    def judged(self) -> bool:
        """Whether anything was: an environment that could not even be played is neither fit nor unfit."""
        return self.count(Verdict.SKIP) < len(self.findings)

    @property
    def exit_status(self) -> int:
        """1 where a finding failed or nothing was judged, 0 otherwise: warnings do not stop a pipeline."""
        return 1 if self.count(Verdict.FAIL) or not self.judged else 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "target": self.target,
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "declaration": self.declaration,
            "verdicts": {verdict.value: self.count(verdict) for verdict in Verdict},
            "findings": [asdict(finding) | {"verdict": finding.verdict.value} for finding in self.findings],
            "seconds": round(self.seconds, 3),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)
