"""``envmesh version``."""

from __future__ import annotations

import argparse
import json

__all__ = ["version"]


def version(arguments: argparse.Namespace) -> int:
    """Print the versions."""
    from envmesh_service.build_info import build_info

    labels = build_info().labels()
    if arguments.json:
        print(json.dumps({"envmesh": labels.pop("version"), **labels}))
    else:
        print(f"envmesh {labels.pop('version')}")
        for name, value in labels.items():
            print(f"  {name.replace('_', ' '):<12}{value}")
    return 0
