"""Writes the test vectors of the outcome digest: `python tools/generate_digest_vectors.py [FILE]`.

They let an implementation in any language prove that it encodes values and digests outcomes as this one does; their
form is said in proto/envmesh/v1/value.proto. The unit tests fail when the file is not what this script writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from envmesh import digest, values

FILE = Path(__file__).resolve().parent.parent / "proto" / "envmesh" / "v1" / "digest_vectors.json"

OUTCOMES: list[tuple[str, Any, float, bool, bool]] = [
    ("null", None, 0.0, False, False),
    ("null, terminated", None, 0.0, True, False),
    ("null, truncated", None, 0.0, False, True),
    ("null, both", None, 0.0, True, True),
    ("null, negative zero", None, -0.0, False, False),
    ("the text hello", "hello", 1.0, False, False),
    ("empty text", "", 1.0, False, False),
    ("text beyond ASCII", "héllo 👋", -1.0, True, False),
    ("text of 1000 characters", "x" * 1000, 0.1, False, False),
    ("integer 0", 0, 0.5, False, False),
    ("integer -1", -1, 0.5, False, False),
    ("the least integer", -(1 << 63), 0.5, False, False),
    ("an integer beyond 64 bits, as json", 1 << 64, 0.5, False, False),
    ("real 1.5", 1.5, 1e-300, False, False),
    ("true", True, 1e300, False, False),
    ("blob of the bytes 00 to ff", bytes(range(256)), 0.0, False, False),
    ("empty blob", b"", 0.0, False, False),
    ("blob with a media type", values.Blob(b"\x89PNG", "image/png"), 0.0, False, False),
    ("json", values.Json({"role": "user", "content": "wie geht's? ü", "n": [1, 2.5, None, True]}), 0.0, False, False),
    ("float32 tensor of shape (4,)", np.array([0.25, -1.0, 0.0, 3.5], np.float32), 1.0, False, False),
    ("uint8 tensor of shape (2, 3)", np.arange(6, dtype=np.uint8).reshape(2, 3), 1.0, False, False),
    ("int64 tensor of rank 0", np.int64(-7), 1.0, False, False),
    ("bool tensor of shape (3,)", np.array([True, False, True]), 1.0, False, False),
    ("empty float64 tensor of shape (0, 5)", np.zeros((0, 5)), 1.0, False, False),
    ("map, keys sorted by their UTF-8", {"z": 1, "a": None, "é": 2, "\U0001f600": 3, "\uffee": 4}, 2.0, False, False),
    ("empty map", {}, 2.0, False, False),
    ("list of several kinds", ["a", 1, 2.0, False, None, [], {"k": b"v"}], 2.0, True, False),
]  # fmt: skip


def vectors() -> list[dict[str, Any]]:
    """The rows of the file."""
    rows = []
    for what, value, reward, terminated, truncated in OUTCOMES:
        observation = values.encode(value)
        rows.append(
            {
                "what": what,
                "observation": observation.hex(),
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "digest": f"{digest.outcome_digest(observation, reward, terminated, truncated):016x}",
            }
        )
    return rows


def text() -> str:
    """The file: one row a line."""
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in vectors())
    return f"[\n{rows}\n]\n"


def main() -> int:
    """Writes the file named on the command line, or the one beside the .proto."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(text(), encoding="utf-8")
    print(f"{len(OUTCOMES)} vectors in {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
