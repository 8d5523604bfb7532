import contextlib
import stat

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from envmesh.errors import Refusal
from envmesh.v1.placement_pb2 import LeaseClaims, SignedLease
from envmesh_service.leases import (
    CLOCK_LEEWAY,
    LeaseSigner,
    LeaseVerifier,
    Sealer,
    key_id,
    read_lease_keys,
    read_seal_keys,
    write_lease_key,
    write_seal_key,
)

NOW = 1_700_000_000.0


def claims(**changes):
    made = LeaseClaims(lease_id=b"l" * 16, tenant="red", host_id="h0", environment="e@1", count=4, **changes)
    made.show_before.FromNanoseconds(int((NOW + 10) * 1e9))
    return made


def refused(verifier, token, *, host_id="h0", now=NOW):
    with pytest.raises(Refusal) as caught:
        verifier.verify(token, host_id=host_id, now=now)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, "LEASE_INVALID")
    return str(caught.value)


def test_a_lease_says_what_was_signed():
    signer = LeaseSigner.generate()
    assert LeaseVerifier(signer.public_keys).verify(signer.sign(claims()), host_id="h0", now=NOW) == claims()


def test_every_way_in_which_a_lease_can_be_wrong_is_told_apart():
    signer = LeaseSigner.generate()
    verifier = LeaseVerifier(signer.public_keys)
    token = signer.sign(claims())
    forged = SignedLease.FromString(token)
    forged.claims = claims(relocation=True).SerializeToString()
    assert "there is none" in refused(verifier, b"")
    assert "it cannot be read" in refused(verifier, b"\xff" * 40)
    assert "forged or damaged" in refused(verifier, forged.SerializeToString())
    assert "not known here (no key id)" in refused(verifier, SignedLease(claims=b"x").SerializeToString())
    assert f"not known here ({signer.key_id.hex()})" in refused(LeaseVerifier(), token)
    assert "it is for the host 'h0', this one is 'h1'" in refused(verifier, token, host_id="h1")
    assert "it expired 6.0 s ago" in refused(verifier, token, now=NOW + 10 + CLOCK_LEEWAY + 1)
    assert "its claims are incomplete" in refused(verifier, signer.sign(LeaseClaims(host_id="h0")))
    verifier.verify(token, host_id="h0", now=NOW + 10 + CLOCK_LEEWAY)


@given(st.data())
def test_no_changed_byte_passes(data):
    signer = LeaseSigner([Ed25519PrivateKey.from_private_bytes(b"k" * 32)])
    verifier = LeaseVerifier(signer.public_keys)
    token = bytearray(signer.sign(claims()))
    position = data.draw(st.integers(0, len(token) - 1))
    token[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Refusal):
        assert verifier.verify(bytes(token), host_id="h0", now=NOW) == claims()  # such as an unknown field


def test_keys_are_rotated_without_a_gap(tmp_path):
    old, new = tmp_path / "old.pem", tmp_path / "new.pem"
    write_lease_key(old)
    write_lease_key(new)
    both = tmp_path / "both.pem"
    both.write_bytes(new.read_bytes() + old.read_bytes())
    before, during, after = (LeaseSigner(read_lease_keys(path)) for path in (old, both, new))
    assert during.key_id == after.key_id == key_id(after.public_keys[0])
    verifier = LeaseVerifier(before.public_keys)
    verifier.verify(before.sign(claims()), host_id="h0", now=NOW)
    verifier.accept(during.public_keys)
    verifier.verify(before.sign(claims()), host_id="h0", now=NOW)
    verifier.verify(during.sign(claims()), host_id="h0", now=NOW)
    verifier.accept(after.public_keys)
    refused(verifier, before.sign(claims()))
    with pytest.raises(ValueError, match="32"):
        verifier.accept([b"short"])
    verifier.verify(after.sign(claims()), host_id="h0", now=NOW)


def test_key_files_are_private_and_never_overwritten(tmp_path):
    for write, read in ((write_lease_key, read_lease_keys), (write_seal_key, read_seal_keys)):
        path = tmp_path / write.__name__
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(read(path)) == 1
        with pytest.raises(FileExistsError):
            write(path)
    empty = tmp_path / "empty"
    empty.write_text("")
    for read in (read_lease_keys, read_seal_keys):
        with pytest.raises(ValueError, match="empty"):
            read(empty)
    (tmp_path / "odd").write_text("not hexadecimal")
    with pytest.raises(ValueError, match="hexadecimal"):
        read_seal_keys(tmp_path / "odd")


def test_a_seal_fits_one_checkpoint_only():
    old, new = b"o" * 32, b"n" * 32
    seal = Sealer([old]).seal("red", "e", "1", 7, b"state")
    for sealer in (Sealer([old]), Sealer([new, old])):
        sealer.check(seal, "red", "e", "1", 7, b"state")
    for other in (
        ("blue", "e", "1", 7, b"state"),
        ("red", "f", "1", 7, b"state"),
        ("red", "e", "2", 7, b"state"),
        ("red", "e", "1", 8, b"state"),
        ("red", "e", "1", 7, b"other"),
        ("re", "de", "1", 7, b"state"),
    ):
        with pytest.raises(Refusal) as caught:
            Sealer([old]).check(seal, *other)
        assert caught.value.reason == "NOT_YOURS"
    with pytest.raises(Refusal):
        Sealer([new]).check(seal, "red", "e", "1", 7, b"state")
    with pytest.raises(ValueError, match="at least one key"):
        Sealer([b"short"])


def test_an_attach_token_is_for_one_episode_of_one_tenant():
    sealer = Sealer.generate()
    token = sealer.attach_token("red", b"e" * 16, 2**63 + 5)
    assert sealer.check_attach_token(token, "red", b"e" * 16) == 2**63 + 5
    changed = bytes([token[0] ^ 1]) + token[1:]
    for wrong in (
        (token, "blue", b"e" * 16),
        (token, "red", b"f" * 16),
        (changed, "red", b"e" * 16),
        (b"", "red", b"e" * 16),
    ):
        with pytest.raises(Refusal) as caught:
            sealer.check_attach_token(*wrong)
        assert caught.value.reason == "NOT_YOURS"
