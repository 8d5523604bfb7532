"""docs/protocol.md says what the .proto and the code say: every reason, its code, and every kind of command."""

import re
from pathlib import Path

from envmesh.errors import ENDS_EPISODE, Refusal
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
