"""Files that are read again: what cannot be used, or is not taken, leaves the old one."""

import datetime as dt
import logging

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from envmesh_service.certificates import Authority
from envmesh_service.metrics import Exporter, Registry
from envmesh_service.tls import TlsFiles
from envmesh_service.watched import Watched

NOW = dt.datetime.now(dt.UTC)


def weak_pair() -> tuple[bytes, bytes]:
    """A certificate and key, of fewer bits than OpenSSL serves with."""
    key, name = (
        rsa.generate_private_key(65537, 1024),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "h")]),
    )
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(5).not_valid_before(NOW - dt.timedelta(1)).not_valid_after(NOW + dt.timedelta(9))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return built.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)


def write(files: TlsFiles, pair: tuple[bytes, bytes]) -> None:
    files.certificate.write_bytes(pair[0])
    files.private_key.write_bytes(pair[1])


async def test_a_certificate_that_openssl_refuses_leaves_the_old_one_and_is_logged(tmp_path, caplog):
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    write(files, Authority.make("mesh", 30, NOW).leaf(["localhost"], 10, NOW))
    exporter = Exporter(Registry())
    exporter.start("127.0.0.1", 0, files)
    try:
        served = exporter._tls.value
        write(files, weak_pair())
        exporter.refresh()
        assert exporter._tls.value is served
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "the old one stays" in record.message
        assert f"OpenSSL does not take the certificate in {files.certificate}" in record.error
    finally:
        await exporter.stop()


async def test_a_certificate_that_openssl_refuses_is_told_at_the_start(tmp_path):
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    write(files, weak_pair())
    with pytest.raises(ValueError, match="OpenSSL does not take"):
        Exporter(Registry()).start("127.0.0.1", 0, files)


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_what_its_user_does_not_take_is_logged_and_the_old_one_stays(tmp_path, caplog, error):
    path, taken = tmp_path / "file", []

    def take(text: str) -> None:
        if text == "bad one":
            raise error("not that")
        taken.append(text)

    path.write_text("first")
    watched = Watched("the file", [path], path.read_text, take)
    path.write_text("bad one")
    assert not watched.refresh()
    assert watched.value == "first"
    assert "the old one stays" in caplog.text
    assert not watched.refresh()
    assert len(caplog.records) == 1, "it is logged once"
    path.write_text("a good one")
    assert watched.refresh()
    assert (watched.value, taken) == ("a good one", ["a good one"])
