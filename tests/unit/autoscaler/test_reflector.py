"""A watch and the answers to our own writes overtake one another: what is told late is not believed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from envmesh_autoscaler.backends.reflector import Collection, older


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


@pytest.mark.parametrize(
    ("known", "answer", "kept"),
    [
        (metadata("9"), metadata("10"), "10"),
        (metadata("11"), metadata("10"), "11"),
        (None, metadata("10"), None),  # it has gone meanwhile
        (metadata("9", uid="b"), metadata("10"), "9"),  # another one has taken its name
    ],
)
def test_the_answer_to_a_write_is_seen_at_once_unless_the_watch_was_faster(
    known: dict[str, Any] | None, answer: dict[str, Any], kept: str | None
) -> None:
    collection = Collection(cast(Any, None), "/pods", lambda: None, lambda: 0.0)
    if known is not None:
        collection.objects["walk"] = {"metadata": known}
    collection.answered("walk", {"metadata": answer})
    seen = {name: item["metadata"]["resourceVersion"] for name, item in collection.objects.items()}
    assert seen == ({"walk": kept} if kept is not None else {})
