"""docs/protocol.md says what the .proto and the code say: every reason, its code, and every kind of command."""

import re
from pathlib import Path

import pytest

from envmesh.env import Recovery
from envmesh.errors import ENDS_EPISODE, Refusal
from envmesh.rebuild import Loss, Standing, Suspicion, Way, judge_loss
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import error_reason_pb2

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
REASONS = [name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()][1:]
CODES = (
    "NOT_FOUND|INVALID_ARGUMENT|ABORTED|OUT_OF_RANGE|FAILED_PRECONDITION|PERMISSION_DENIED|UNAUTHENTICATED|"
    "RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|CANCELLED|UNKNOWN|DATA_LOSS|INTERNAL"
)


def test_the_table_of_errors_is_the_proto_s_and_the_code_s():
    table = re.findall(rf"^\| ([A-Z_]+) \| ({CODES}) \| (yes)? ?\|$", PAGE, re.MULTILINE)
    assert [reason for reason, _, _ in table] == REASONS
    source = (ROOT / "proto" / "envmesh" / "v1" / "error_reason.proto").read_text(encoding="utf-8")
    for reason, code, ends in table:
        assert Refusal("", reason=reason).code.name == code
        assert (reason in ENDS_EPISODE) == bool(ends)
        assert re.search(rf"  // {code}: [^=]*\n  ERROR_REASON_{reason} = ", source), reason


def test_codes_and_reasons_stand_together_as_they_belong_together():
    pairs = re.findall(rf"\b({CODES}), ([A-Z]+(?:_[A-Z]+)*)\b", PAGE)
    assert len(pairs) > 20
    for code, reason in pairs:
        assert Refusal("", reason=reason).code.name == code, (code, reason)


def test_the_table_of_commands_is_the_proto_s():
    table = re.findall(r"^\| ([A-Z]+) \((\d+)[^)]*\) \|", PAGE, re.MULTILINE)
    kinds = pb.CommandKind.items()[1:]
    assert table == [(name.removeprefix("COMMAND_KIND_"), str(number)) for name, number in kinds]


def test_what_the_page_points_at_is_there():
    for target in re.findall(r"\]\((\.\./[^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


LOSSES = re.findall(
    r"^\| ([a-z_]+) \| ((?:not )?rebuildable[a-z, ]*) \| ([a-z]+)(?:: ([A-Z_]+))? \| (as before|suspected|poison) \|$",
    PAGE,
    re.MULTILINE,
)


@pytest.mark.parametrize(("loss", "words", "way", "reason", "step"), LOSSES)
def test_every_row_of_the_table_of_losses_is_the_client_s_judgement(loss, words, way, reason, step):
    known = set(words.split(", "))
    held = Suspicion(index=4, deaths=1) if "suspected" in known else None
    standing = Standing(
        recovery=Recovery.NONE if "not rebuildable" in known else Recovery.REPLAY,
        index=3,
        running="idle" not in known,
        journaled=True,
        suspicion=held,
        alone="alone" in known,
    )
    judged = judge_loss(standing, Loss(loss), poison_losses=2, explained="explained" in known)
    assert judged.way is (Way.FALL if way == "ends" else Way(way))
    assert judged.reason == reason
    wanted = {"as before": held, "suspected": Suspicion(4, 1), "poison": Suspicion(4, 2)}[step]
    assert judged.suspicion == wanted


def test_the_table_of_losses_has_every_loss_for_both_kinds_of_episode():
    assert {(loss, words.startswith("not")) for loss, words, *_ in LOSSES} == {
        (str(loss), kind) for loss in Loss for kind in (False, True)
    }
