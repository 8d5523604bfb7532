"""What an environment could declare, and what that would gain (pure)."""

from __future__ import annotations

from typing import Any

from envmesh.env import Declaration, Isolation, Recovery
from envmesh_cli.check.judge_cost import fits_inline
from envmesh_cli.check.report import Finding, Verdict
from envmesh_cli.check.words import in_time

__all__ = ["judge_declaration"]


Record = dict[str, Any]


def judge_declaration(
    declaration: Declaration,
    findings: list[Finding],
    *,
    pace: Record | None,
    uses_generators: bool,
    spaces_missing: tuple[str, ...],
    checkpoints: bool,
) -> Finding:
    """What it could declare truthfully, by what has been found, beyond what it does."""
    verdicts = {finding.name: finding.verdict for finding in findings}
    repeats = all(verdicts.get(name) is Verdict.PASS for name in ("same seed", "another process"))
    apart = verdicts.get("neighbours") is Verdict.PASS
    words: list[str] = []
    gains: list[str] = []
    if declaration.recovery is Recovery.NONE and repeats:
        words.append("recovery='replay'")
        gains.append("its episodes survive the loss of their host instead of ending as ABORTED")
        if uses_generators:
            words.append("global_random=True")
    elif declaration.recovery is Recovery.NONE and checkpoints:
        words.append("recovery='state', deterministic=False")
        gains.append("its episodes survive the loss of their host, saved after every step")
    if words and declaration.isolation is Isolation.PROCESS and declaration.episodes_per_worker is None:
        # every class but NONE has many share a worker, unless it says otherwise
        if apart:
            gains[-1] += ", and up to 64 share a worker"
        else:
            words.append("episodes_per_worker=1")
    if (
        declaration.isolation is Isolation.PROCESS
        and pace is not None
        and fits_inline(pace)
        and apart
        and not uses_generators
        and not declaration.global_random
    ):
        words.append("isolation='inline'")
        gains.append(
            f"its steps ({in_time(pace['blocked']['p99'])} at p99) are not carried to a worker process and back"
        )
    words += [f"{space}=…" for space in spaces_missing]
    if spaces_missing:
        gains.append("bad actions are refused and arrays travel bare")
    if not words:
        what = (
            "It says what it is"
            if declaration.declared
            else "The safe choices, which it gets undeclared, are right for it"
        )
        return Finding("declaration", Verdict.PASS, f"{what}: {_said(declaration)}.")
    begun = "" if declaration.declared else "It declares nothing and gets the safe choices: "
    return Finding(
        "declaration",
        Verdict.WARN if not declaration.declared else Verdict.PASS,
        f"{begun}{_said(declaration)}.",
        f"It could declare @envmesh.environment({', '.join(words)}): {'; '.join(gains)}. "
        "Only where acting again harms nobody outside."
        if "recovery='replay'" in words
        else f"It could declare @envmesh.environment({', '.join(words)}): {'; '.join(gains)}.",
    )


def _said(declaration: Declaration) -> str:
    each = f", {declaration.worker_episodes} a worker" if declaration.isolation is Isolation.PROCESS else ""
    return f"recovery {declaration.recovery.value!r}, isolation {declaration.isolation.value!r}{each}"
