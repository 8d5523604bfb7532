"""What a watch tells late, of an object that we have written meanwhile, is not believed."""

from __future__ import annotations

from typing import Any

import pytest

from envmesh_autoscaler.backends.reflector import older


def metadata(version: str, uid: str = "a", generation: int = 1) -> dict[str, Any]:
    return {"uid": uid, "resourceVersion": version, "generation": generation}


@pytest.mark.parametrize(
    ("told", "known", "expected"),
    [
        (metadata("9"), metadata("10"), True),  # by number: as text "9" would come after "10"
        (metadata("11"), metadata("10"), False),
        (metadata("10"), metadata("10"), False),
        (metadata("9", uid="b"), metadata("10"), False),  # another object of the same name
        (
            metadata("11", generation=1),
            metadata("10", generation=2),
            True,
        ),  # we wrote a count, and have no version yet
        (metadata("x"), metadata("y"), False),  # versions that say nothing
    ],
)
def test_what_is_older_than_what_we_wrote(
    told: dict[str, Any], known: dict[str, Any], expected: bool
) -> None:
    assert older(told, known) is expected
