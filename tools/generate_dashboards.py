"""Writes the Grafana dashboards of the chart: ``python -m tools.generate_dashboards [--check]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tools.dashboards import autoscaler, environment, fleet, runtime, trainers
from tools.dashboards.page import LEGENDS, Page, dashboard

__all__ = ["main", "rendered"]

DIRECTORY = Path(__file__).resolve().parents[1] / "helm" / "envmesh" / "dashboards"
PAGES = (fleet.PAGE, environment.PAGE, autoscaler.PAGE, trainers.PAGE, runtime.PAGE)


def rendered() -> dict[str, str]:
    """The files' content, by name."""
    return {f"{page.uid.removeprefix('envmesh-')}.json": _json(page) for page in PAGES}


def _json(page: Page) -> str:
    made = json.loads(json.dumps(dashboard(page), cls=JSONEncoder))
    for annotation in made["annotations"]["list"]:
        # The Prometheus data source's own field, of which the SDK knows nothing.
        annotation["titleFormat"] = LEGENDS[annotation["name"]]
    for variable in made["templating"]["list"]:
        for name in (
            "auto",
            "auto_count",
            "auto_min",
        ):  # the SDK writes them for every kind; only intervals have them
            variable.pop(name, None)
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the files, or with ``--check`` say which are not what the code gives."""
    files = rendered()
    there = {path.name: path.read_text() for path in DIRECTORY.glob("*.json")}
    if "--check" in sys.argv[1:]:
        different = sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))
        if different:
            print(
                f"Not what tools/dashboards gives: {', '.join(different)}. Run `make dashboards` and commit."
            )
            return 1
        print(f"The {len(files)} dashboards are what tools/dashboards gives.")
        return 0
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - files.keys():
        (DIRECTORY / name).unlink()
    for name, content in files.items():
        (DIRECTORY / name).write_text(content)
    print(f"{len(files)} dashboards in {DIRECTORY.relative_to(DIRECTORY.parents[2])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
