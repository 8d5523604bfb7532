"""Plays environments directly, without a mesh, and remembers what was seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from envmesh.target import load
from envmesh_cli.check.actions import Chooser
from envmesh_cli.check.stage import Seen, Stage


def play(target: str, seed: int = 0, steps: int = 30) -> list[Seen]:
    """The outcomes of an episode with chosen actions; each is held against the declared space."""
    definition = load(target)
    stage = Stage(definition)
    seen = [stage.reset(seed)]
    chooser = Chooser(stage, 0)
    while len(seen) <= steps and not seen[-1].done:
        seen.append(stage.step(chooser.choose(seen[-1])))
    for outcome in seen:
        problem = stage.observation_problem(outcome)
        assert problem is None, problem
    stage.close()
    return seen


def digests(target: str, seed: int = 0, steps: int = 30) -> list[int]:
    """What must be equal in a replay."""
    return [outcome.digest for outcome in play(target, seed, steps)]


def digests_elsewhere(targets: list[str], seed: int = 0, hash_seed: str = "0") -> dict[str, Any]:
    """The same in a fresh process, for several targets at once."""
    program = (
        "import sys; from tests.integration.playing import digests\n"
        "found = {target: digests(target, int(sys.argv[1])) for target in sys.argv[2:]}\n"
        "print('\\n' + repr(found))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(seed), *targets],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return dict(eval(told.stdout.strip().splitlines()[-1]))
