"""`envmesh keys`: which certificates are renewed."""

import datetime as dt
import json
from pathlib import Path

import pytest

from envmesh_cli.arguments import build_parser
from envmesh_cli.keys import keys

HOUR = dt.timedelta(hours=1)


def made(directory: Path, renew: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What became of the host's certificate."""
    arguments = ["keys", str(directory), "--days", "1", "--renew", renew, "--json"]
    assert keys(build_parser().parse_args(arguments)) == 0
    done: str = json.loads(capsys.readouterr().out)["items"]["host-tls"]
    return done


def test_certificates_may_be_renewed_by_the_hour(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert made(tmp_path, "12h", capsys) == "made"
    assert made(tmp_path, "12h", capsys) == "renewed", "they end within a day"
