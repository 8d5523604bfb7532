"""The private authority, the judgement of TLS files, and what `envmesh keys` makes, keeps, renews and rotates."""

import datetime as dt
import hashlib
import json
import threading

import pytest
from cryptography import x509

from envmesh_service.certificates import Authority, days_left
from envmesh_service.credentials import Tokens
from envmesh_service.key_material import ITEMS, KeyPlan, ensure, rotate
from envmesh_service.key_stores import DirectoryStore
from envmesh_service.leases import LeaseSigner, Sealer, read_lease_keys, read_seal_keys
from envmesh_service.rotation import Rotated
from envmesh_service.tls import TlsFiles, read_identity
from envmesh_service.watched import Watched

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
NAMES = {
    leaf: [f"envmesh-{leaf}", "localhost", "127.0.0.1"]
    for leaf in ("broker-tls", "host-tls", "autoscaler-tls")
}


def plan(**more):
    return KeyPlan(names=NAMES, **more)


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write(directory, leaf, authority=None):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tls.crt").write_bytes(leaf[0])
    (directory / "tls.key").write_bytes(leaf[1])
    if authority is not None:
        (directory / "ca.crt").write_bytes(authority.pem)
    return TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt" if authority else None)


def test_a_leaf_is_for_its_names_both_ways_and_ends_with_its_authority():
    authority = Authority.make("mesh", 30, NOW)
    certificate = x509.load_pem_x509_certificate(authority.leaf(["envmesh-host", "127.0.0.1"], 999, NOW)[0])
    certificate.verify_directly_issued_by(authority.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["envmesh-host", "127.0.0.1"]
    assert len(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == 2
    assert certificate.not_valid_after_utc <= authority.certificate.not_valid_after_utc
    again = Authority.load(authority.pem, authority.key_pem)
    assert days_left(again.leaf(["x"], 5, NOW)[0], NOW) == pytest.approx(5)


def test_tls_files_that_are_right_are_read(tmp_path):
    authority = Authority.make("mesh", 30, NOW)
    files = write(tmp_path, authority.leaf(["envmesh-host", "localhost"], 10, NOW), authority)
    identity = read_identity(files, now=lambda: NOW)
    assert identity.names == ("envmesh-host", "localhost")
    assert identity.authority == authority.pem
    assert identity.not_after == NOW + dt.timedelta(days=10)


def test_tls_files_that_are_wrong_are_told_with_file_and_remedy(tmp_path):
    authority = Authority.make("mesh", 90, NOW)
    one, other = authority.leaf(["one"], 10, NOW), authority.leaf(["two"], 10, NOW)
    good = write(tmp_path / "good", one, authority)
    mixed = write(tmp_path / "mixed", (one[0], other[1]))
    garbage = write(tmp_path / "garbage", (b"nothing", one[1]))
    no_key = write(tmp_path / "no_key", (one[0], b"nothing"))
    (tmp_path / "good" / "roots").write_bytes(b"nothing")
    no_roots = TlsFiles(good.certificate, good.private_key, tmp_path / "good" / "roots")
    later, earlier = NOW + dt.timedelta(days=11), NOW - dt.timedelta(days=1)
    for files, moment, words in (
        (mixed, NOW, "tls.key is not the key of the certificate in"),
        (garbage, NOW, "garbage/tls.crt holds no certificate in PEM form"),
        (no_key, NOW, "no_key/tls.key holds no private key in PEM form"),
        (no_roots, NOW, "good/roots holds no certificate"),
        (good, later, "good/tls.crt expired on 2027-01-11 00:00 UTC; renew it"),
        (good, earlier, "is valid from 2026-12-31 23:55 UTC only; is this machine's clock right"),
    ):
        with pytest.raises(ValueError, match=words):
            read_identity(files, now=lambda moment=moment: moment)


def test_keys_are_made_once_and_fit_together(tmp_path):
    store = DirectoryStore(tmp_path / "keys")
    assert {item.done for item in ensure(store, plan(tenant="lab"), NOW)} == {"made"}
    made = contents(tmp_path / "keys")
    assert {name.split("/")[0] for name in made} == set(ITEMS)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").rglob("*.*") if path.is_file()} == {
        0o600
    }
    assert {item.done for item in ensure(store, plan(tenant="other"), NOW)} == {"kept"}
    assert contents(tmp_path / "keys") == made
    for leaf in NAMES:
        directory = tmp_path / "keys" / leaf
        read_identity(
            TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt"), now=lambda: NOW
        )
    tokens = Tokens.parse(made["credentials/credentials.json"].decode())
    assert tokens.of_token(made["trainer-token/token"].decode()).tenant == "lab"
    assert made["trainer-token/token"] not in made["credentials/credentials.json"]
    assert len(read_lease_keys(tmp_path / "keys" / "lease-keys" / "lease-keys.pem")) == 1
    assert len(read_seal_keys(tmp_path / "keys" / "seal-keys" / "seal-keys")) == 1


def test_what_is_missing_is_made_to_fit_what_is_there(tmp_path):
    store = DirectoryStore(tmp_path)
    ensure(store, plan(), NOW)
    token = (tmp_path / "trainer-token" / "token").read_bytes()
    for item in ("host-tls", "credentials"):
        for path in (tmp_path / item).iterdir():
            path.unlink()
        (tmp_path / item).rmdir()
    done = {item.name: item.done for item in ensure(store, plan(), NOW)}
    assert [name for name, what in done.items() if what == "made"] == ["host-tls", "credentials"]
    authority = x509.load_pem_x509_certificate((tmp_path / "ca" / "tls.crt").read_bytes())
    leaf = x509.load_pem_x509_certificate((tmp_path / "host-tls" / "tls.crt").read_bytes())
    leaf.verify_directly_issued_by(authority)
    document = json.loads((tmp_path / "credentials" / "credentials.json").read_text())
    assert document["tenants"][0]["tokens"] == [hashlib.sha256(token).hexdigest()]


def test_many_at_once_make_one(tmp_path):
    barrier = threading.Barrier(8)
    made: list[str] = []

    def run():
        barrier.wait()
        made.extend(
            item.name for item in ensure(DirectoryStore(tmp_path), plan(), NOW) if item.done == "made"
        )

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(made) == sorted(ITEMS)
    assert not list(tmp_path.glob(".*"))
    tokens = Tokens.parse((tmp_path / "credentials" / "credentials.json").read_text())
    assert tokens.of_token((tmp_path / "trainer-token" / "token").read_text()) is not None


def test_certificates_that_end_soon_are_renewed_where_that_is_asked_for(tmp_path):
    store = DirectoryStore(tmp_path)
    ensure(store, plan(days=100), NOW)
    before = contents(tmp_path)
    soon = NOW + dt.timedelta(days=80)
    assert {item.done for item in ensure(store, plan(days=100), soon)} == {"kept"}
    done = {item.name: item.done for item in ensure(store, plan(days=100, renew_days=30), soon)}
    assert [name for name, what in done.items() if what == "renewed"] == list(NAMES)
    after = contents(tmp_path)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"{leaf}/{file}" for leaf in NAMES for file in ("tls.crt", "tls.key")}


def test_a_certificate_of_another_authority_is_left_alone(tmp_path):
    store = DirectoryStore(tmp_path)
    theirs = Authority.make("theirs", 400, NOW)
    write(tmp_path / "host-tls", theirs.leaf(["envmesh-host"], 1, NOW), theirs)
    before = contents(tmp_path)
    ensure(store, plan(renew_days=30), NOW)
    assert {name: contents(tmp_path)[name] for name in before} == before


def test_a_rotated_key_goes_first_and_the_one_before_still_counts(tmp_path):
    store = DirectoryStore(tmp_path)
    with pytest.raises(ValueError, match=r"there is no lease-keys with lease-keys\.pem yet"):
        rotate(store, "lease-keys")
    ensure(store, plan(), NOW)
    path = tmp_path / "lease-keys" / "lease-keys.pem"
    (first,) = read_lease_keys(path)
    rotate(store, "lease-keys")
    second, old = read_lease_keys(path)
    assert old.private_bytes_raw() == first.private_bytes_raw()
    rotate(store, "lease-keys")
    assert [k.private_bytes_raw() for k in read_lease_keys(path)][1:] == [second.private_bytes_raw()]
    seals = tmp_path / "seal-keys" / "seal-keys"
    (before,) = read_seal_keys(seals)
    rotate(store, "seal-keys")
    assert read_seal_keys(seals)[1:] == [before]
    with pytest.raises(ValueError, match="cannot be rotated"):
        rotate(store, "ca")


def watched(path, read):
    return Watched("keys", [path], lambda: read(path))


def test_a_new_lease_key_is_announced_before_it_signs(tmp_path):
    store, now = DirectoryStore(tmp_path), [0.0]
    ensure(store, plan(), NOW)
    path = tmp_path / "lease-keys" / "lease-keys.pem"
    signer = LeaseSigner(read_lease_keys(path))
    rotated = Rotated(watched(path, read_lease_keys), signer, settle=6.0, clock=lambda: now[0])
    old = signer.key_id
    rotate(store, "lease-keys")
    rotated.refresh()
    assert len(signer.public_keys) == 2
    for moment, turned in ((0.0, False), (5.9, False), (6.0, True)):
        now[0] = moment
        rotated.refresh()
        assert (signer.key_id != old) is turned


def test_hosts_accept_a_new_seal_key_before_any_of_them_seals_with_it(tmp_path):
    store, now = DirectoryStore(tmp_path), [0.0]
    ensure(store, plan(), NOW)
    path = tmp_path / "seal-keys" / "seal-keys"

    def host():
        sealer = Sealer(read_seal_keys(path))
        return sealer, Rotated(watched(path, read_seal_keys), sealer, settle=180.0, clock=lambda: now[0])

    late, early = host(), host()
    rotate(store, "seal-keys")
    early[1].refresh()
    new = host()  # begins with both keys, and the other hosts may have the old one only

    def understood(by, of):
        by[0].check_attach_token(of[0].attach_token("red", b"e" * 16, 1), "red", b"e" * 16)

    for one in (late, early, new):
        for other in (late, early, new):
            understood(one, other)
    late[1].refresh()
    now[0] = 180.0
    for each in (late, early, new):
        each[1].refresh()
    for one in (late, early, new):
        for other in (late, early, new):
            understood(one, other)
    only_new = Sealer(read_seal_keys(path)[:1])
    only_new.check_attach_token(new[0].attach_token("red", b"e" * 16, 1), "red", b"e" * 16)
