"""What others speak already is not broken: `make proto-check` compares the protocol with `proto/baseline.binpb`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).with_name("buf")
STEP = "  // How many slots; at least 1, at most 100,000.\n  uint32 count = 2;\n"


def judged(tmp_path: Path, old: str, new: str) -> subprocess.CompletedProcess[str]:
    """What buf says of a protocol in which ``placement.proto`` is changed so."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    file = tmp_path / "proto/envmesh/v1/placement.proto"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
    return subprocess.run(
        [BUF, "breaking", "--against", ROOT / "proto/baseline.binpb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        ("", 'field "2" with name "count"'),
        (STEP.replace("uint32", "string"), "changed type"),
        (STEP.replace("= 2", "= 40"), 'field "2" with name "count"'),
        (STEP.replace("count", "slots"), "changed name"),
    ],
    ids=["removed", "of another type", "with another number", "renamed"],
)
def test_a_field_that_clients_send_cannot_go_or_change(tmp_path, new, complaint):
    done = judged(tmp_path, STEP, new)
    assert done.returncode != 0
    assert complaint in done.stdout


def test_a_new_field_breaks_nobody(tmp_path):
    done = judged(tmp_path, STEP, f"{STEP}  // New.\n  uint32 more = 40;\n")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_ci_asks():
    assert "proto-check" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    asked = subprocess.run(
        ["make", "--dry-run", "proto-check"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    assert "buf breaking --against proto/baseline.binpb" in asked.stdout
