"""The program in which an environment is tried: it may hang, crash or end the process, and only this one.

Requests and replies are lines of JSON on two descriptors of their own; what the environment prints goes to a file,
whose size is told with each reply.
"""

from __future__ import annotations

import base64
import faulthandler
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from envmesh import values
from envmesh.env import Definition
from envmesh.target import TargetError, load
from envmesh_cli.check import measure_cost, measure_play, measure_replay
from envmesh_cli.check.actions import NoAction
from envmesh_cli.check.stage import ActionRefused, EnvironmentBroke, where_of

__all__ = ["MEASUREMENTS", "main"]

MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "play": measure_play.measure_play,
    "bad actions": measure_play.measure_bad_actions,
    "extras": measure_play.measure_extras,
    "traces": measure_replay.measure_traces,
    "replays": measure_replay.measure_replays,
    "neighbours": measure_replay.measure_neighbours,
    "checkpoints": measure_replay.measure_checkpoints,
    "restores": measure_replay.measure_restores,
    "leaks": measure_cost.measure_leaks,
    "pace": measure_cost.measure_pace,
}


def main() -> None:
    """Serve measurements until the requests end. Arguments: the descriptors of requests, replies and stacks."""
    requests = os.fdopen(int(sys.argv[1]), "r", encoding="utf-8")
    replies = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")
    faulthandler.enable(file=int(sys.argv[3]), all_threads=True)
    opening = json.loads(requests.readline())
    sys.path[:] = opening["path"]
    definition: Definition | None = None
    for line in requests:
        request = json.loads(line)
        reply: dict[str, Any]
        try:
            if definition is None:
                definition = _load(opening)
            bench = measure_play.Bench(
                definition,
                seed=opening["seed"],
                steps=opening["steps"],
                pool=[values.decode(base64.b64decode(action)) for action in opening["pool"]],
                soft_seconds=request["seconds"],
            )
            reply = {"result": MEASUREMENTS[request["measure"]](bench, **request["arguments"])}
        except BaseException as error:
            reply = {"broke": _told(error)}
        reply["printed"] = _printed()
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _load(opening: dict[str, Any]) -> Definition:
    definition = load(opening["target"], name=opening["name"])
    return replace(definition, declaration=replace(definition.declaration, **opening["declared"]))


def _told(error: BaseException) -> dict[str, str]:
    """Whose fault it is: the environment's (it broke, or its examples are no actions), nobody's (the check found no
    action to try), or our own."""
    if isinstance(error, EnvironmentBroke | ActionRefused | TargetError):
        return {"kind": "environment", "message": str(error)}
    if isinstance(error, NoAction):
        return {"kind": "no action", "message": str(error)}
    where = where_of(error)
    return {
        "kind": "unexpected",
        "message": f"{type(error).__name__}: {error}" + (f" ({where})" if where else ""),
    }


def _printed() -> int:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fstat(1).st_size
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    main()
