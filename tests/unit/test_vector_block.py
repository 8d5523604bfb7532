"""The rows of a frame that are a vector's: each event before or after the outcomes, as the host sent it."""

from __future__ import annotations

from typing import Any

from envmesh.v1 import environment_pb2 as pb
from envmesh.vector_block import Block

OUTCOME, FAILURE, CHECKPOINT = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_CHECKPOINT


class Noting:
    """A vector whose episodes all await step 4, and a connection of nothing else; it notes what it hears."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.heard: list[Any] = []

    def awaited(self, number: int) -> int:
        return 4

    def on_outcomes(self, numbers: Any, *columns: Any) -> None:
        self.heard.append(("outcomes", numbers.tolist()))

    def on_failure(self, number: int, index: int, payload: bytes) -> None:
        self.heard.append(("failure", number))

    def on_checkpoint(self, number: int, payload: bytes) -> None:
        self.heard.append(("checkpoint", number, payload))


def heard(*rows: tuple[int, int, int, bytes]) -> list[Any]:
    """What a vector hears of a frame of rows: handle (11 is that of episode 1), index, kind, payload."""
    noting = Noting()
    block = Block(noting, noting)  # type: ignore[arg-type]
    block.numbers.update({10 + number: number for number in range(4)})
    handles, indices, kinds, payloads = (list(column) for column in zip(*rows, strict=True))
    empty = [b""] * len(rows)
    block.on_columns(
        (handles, indices, payloads, [0.0] * len(rows), [0] * len(rows), [0] * len(rows), empty, kinds)
    )
    return noting.heard


def test_a_checkpoint_that_follows_its_outcome_is_taken_after_it():
    rows = [
        (11, 4, OUTCOME, b""),
        (11, 0, CHECKPOINT, b"1"),
        (12, 4, OUTCOME, b""),
        (12, 0, CHECKPOINT, b"2"),
    ]
    assert heard(*rows) == [("outcomes", [1, 2]), ("checkpoint", 1, b"1"), ("checkpoint", 2, b"2")]


def test_what_comes_before_an_outcome_is_not_taken_for_what_follows_it():
    rows = [(11, 0, CHECKPOINT, b"of the episode before"), (12, 4, FAILURE, b""), (11, 4, OUTCOME, b"")]
    assert heard(*rows) == [
        ("checkpoint", 1, b"of the episode before"), ("failure", 2), ("outcomes", [1]),
    ]  # fmt: skip


def test_an_echo_holds_up_no_checkpoint():
    rows = [(11, 3, OUTCOME, b""), (11, 0, CHECKPOINT, b"old"), (11, 4, OUTCOME, b"")]
    assert heard(*rows) == [("checkpoint", 1, b"old"), ("outcomes", [1, 1])]
