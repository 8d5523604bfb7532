"""`envmesh keys`: which certificates are renewed."""

import json
from pathlib import Path

import pytest
from cryptography import x509

from envmesh_cli.arguments import build_parser
from envmesh_cli.keys import keys

LEAVES = ("broker-tls", "host-tls", "autoscaler-tls")


def run(directory: Path, *options: str) -> int:
    return keys(build_parser().parse_args(["keys", str(directory), "--days", "1", *options]))


def made(directory: Path, renew: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What became of the host's certificate."""
    assert run(directory, "--renew", renew, "--json") == 0
    done: str = json.loads(capsys.readouterr().out)["items"]["host-tls"]
    return done


def change_authority(directory: Path, other: Path, *, beside: bool) -> None:
    """The new root, in the place of the old one or beside it in every ca.crt, as the documentation has it."""
    assert run(other) == 0
    for name in ("tls.crt", "tls.key"):
        (directory / "ca" / name).write_bytes((other / "ca" / name).read_bytes())
    for leaf in LEAVES if beside else ():
        roots = directory / leaf / "ca.crt"
        roots.write_bytes(roots.read_bytes() + (other / "ca" / "tls.crt").read_bytes())


def test_certificates_may_be_renewed_by_the_hour(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert made(tmp_path, "12h", capsys) == "made"
    assert made(tmp_path, "23h", capsys) == "kept", "they are good for a day"
    assert made(tmp_path, "25h", capsys) == "renewed"


def test_certificates_are_renewed_while_the_authority_is_changed_and_both_roots_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    directory = tmp_path / "keys"
    assert made(directory, "12h", capsys) == "made"
    change_authority(directory, tmp_path / "other", beside=True)
    capsys.readouterr()
    roots = (directory / "host-tls" / "ca.crt").read_bytes()
    assert made(directory, "25h", capsys) == "renewed"
    assert (directory / "host-tls" / "ca.crt").read_bytes() == roots
    certificate, authority = (
        x509.load_pem_x509_certificate((directory / item / "tls.crt").read_bytes())
        for item in ("host-tls", "ca")
    )
    certificate.verify_directly_issued_by(authority)


def test_a_certificate_of_another_authority_is_kept_and_it_is_said_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    directory = tmp_path / "keys"
    assert made(directory, "12h", capsys) == "made"
    change_authority(directory, tmp_path / "other", beside=False)
    before = (directory / "host-tls" / "tls.crt").read_bytes()
    assert run(directory) == 0
    assert "does not have" not in capsys.readouterr().out, "nobody asked for it to be renewed"
    assert run(directory, "--renew", "25h") == 0
    assert "kept: its ca.crt does not have this authority" in capsys.readouterr().out
    assert run(directory, "--renew", "25h", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["items"]["host-tls"], told["why"]["host-tls"]) == (
        "kept",
        "its ca.crt does not have this authority",
    )
    assert (directory / "host-tls" / "tls.crt").read_bytes() == before
