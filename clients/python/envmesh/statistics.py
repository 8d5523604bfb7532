"""What a client has been through: counters and times, for whoever wants to look (pure)."""

from __future__ import annotations

from collections import Counter, deque

__all__ = ["Statistics"]

KEPT_TIMES = 100_000


class Statistics:
    """Counts since the client was made. Times are in seconds; the last ``KEPT_TIMES`` of each are kept.

    ``resumes`` counts rebuilt episodes by (kind, cause): kind ``replay`` or ``live`` (no step had to be played again),
    cause a value of ``rebuild.Loss``. ``resume_seconds`` are from the loss until the episode stood again,
    ``notice_seconds`` from the last sign of life of a host until it was given up.
    """

    __slots__ = (
        "divergences",
        "fallen",
        "hosts_lost",
        "notice_seconds",
        "poisoned",
        "replayed_steps",
        "resume_seconds",
        "resumes",
    )

    def __init__(self) -> None:
        self.hosts_lost = 0
        self.divergences = 0
        self.poisoned = 0
        self.replayed_steps = 0
        self.resumes: Counter[tuple[str, str]] = Counter()
        self.fallen: Counter[str] = Counter()
        self.resume_seconds: deque[float] = deque(maxlen=KEPT_TIMES)
        self.notice_seconds: deque[float] = deque(maxlen=KEPT_TIMES)

    def __repr__(self) -> str:
        return (
            f"<Statistics {self.hosts_lost} hosts lost, {sum(self.resumes.values())} episodes resumed, "
            f"{sum(self.fallen.values())} fallen>"
        )

    def count_resume(self, kind: str, cause: str) -> None:
        """An episode stands again."""
        self.resumes[kind, cause] += 1

    def count_fall(self, reason: str) -> None:
        """An episode could not be saved."""
        self.fallen[reason] += 1
        self.poisoned += reason == "POISON"
