"""Calls of tools, counted: only for environments whose action space is a list of tools, so no other pays for it (pure).

A step's action is a call, or a list of them. What the environment refuses never ran; of what it carried out, the info's
``tool_errors`` says how many failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envmesh import values
from envmesh.errors import Refusal
from envmesh.wire import Json
from envmesh_host.observed import Observed

__all__ = ["note_tool_calls"]

OK, FAILED, REFUSED = "ok", "failed", "refused"


def note_tool_calls(observed: Observed, steps: Iterable[tuple[bytes, bytes | Refusal]]) -> None:
    """Count the calls of these steps, each an action and the info of its outcome, or what it was refused for."""
    counts = observed.tool_calls
    for action, result in steps:
        calls = _calls(action)
        if isinstance(result, Refusal):
            if result.reason == "ACTION_INVALID":
                counts[REFUSED] = counts.get(REFUSED, 0) + max(1, calls)
            continue
        failed = min(calls, _errors(result)) if result else 0
        counts[FAILED] = counts.get(FAILED, 0) + failed
        counts[OK] = counts.get(OK, 0) + calls - failed


def _calls(action: bytes) -> int:
    """How many calls an action is: text is none."""
    try:
        value = values.decode(action)
    except ValueError:
        return 0
    value = value.document if isinstance(value, Json) else value
    return len(value) if isinstance(value, list) else int(isinstance(value, Mapping))


def _errors(info: bytes) -> int:
    found = values.decode(info)
    errors = found.get("tool_errors", 0) if isinstance(found, Mapping) else 0
    return int(errors) if isinstance(errors, int | float) and errors == errors and 0 <= errors < 1e9 else 0
