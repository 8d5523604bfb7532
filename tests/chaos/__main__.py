"""``python -m tests.chaos --minutes 10 --seed 7``: see ``make chaos``."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import chaos, report


def main() -> int:
    """Run it, and write the report."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=5.0, help="how long accidents happen")
    arguments.add_argument(
        "--seed", type=int, default=None, help="which accidents; drawn where none is given"
    )
    arguments.add_argument(
        "--results", type=Path, default=Path("build/chaos"), help="a directory for the JSON"
    )
    given = arguments.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1 << 31)
    print(f"the same again: make chaos MINUTES={given.minutes:g} SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="envmesh-chaos-") as directory:
        found = asyncio.run(
            chaos(seed, given.minutes * 60.0, Path(directory), lambda line: print(line, flush=True))
        )
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{seed}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{report(found)}\n\n{path}")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
