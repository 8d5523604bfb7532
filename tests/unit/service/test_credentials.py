"""Token files and passes: who calls, and what is wrong with what is shown."""

import base64
import hashlib
import json

import pytest

from envmesh.errors import Refusal
from envmesh.v1.placement_pb2 import LeaseClaims, PassClaims, SignedLease
from envmesh_service.credentials import Caller, Tokens, bearer_token, read_tokens
from envmesh_service.leases import LeaseSigner, LeaseVerifier
from envmesh_service.passes import PASS_VALIDITY, PassReader, pass_entry

RED, BLUE = "a" * 20, "b" * 20


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def test_a_token_file_says_who_is_who():
    document = {
        "tenants": [
            {
                "name": "red",
                "weight": 2,
                "quota": 5,
                "tokens": [digest(RED)],
                "service_accounts": ["rl/ppo", "lab/*"],
            },
            {"name": "blue", "tokens": [digest(BLUE)]},
        ],
        "fleet": [digest("fleet")],
    }
    tokens = Tokens.parse(json.dumps(document))
    red, blue, fleet = (tokens.of_token(t) or Caller("", False) for t in (RED, BLUE, "fleet"))
    assert (red.tenant, red.fleet, blue.tenant, fleet.fleet) == ("red", False, "blue", True)
    assert len({red.credential, blue.credential, fleet.credential}) == 3
    assert all(len(c.credential) == 8 for c in (red, blue))
    assert red.credential not in bytes.fromhex(digest(RED))
    assert tokens.of_token("unknown") is None
    assert (tokens.tenants["red"].weight, tokens.tenants["red"].quota) == (2.0, 5)
    accounts = [tokens.of_account(*each) for each in (("rl", "ppo"), ("lab", "any"), ("rl", "other"))]
    assert accounts == ["red", "red", None]
    assert tokens.known(red)
    assert not tokens.known(Caller("red", False, b"12345678"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "it is no JSON"),
        ("[]", "it must be an object with 'tenants' and 'fleet'"),
        ('{"tenants": {}}', "tenants: a list is right"),
        ('{"tenants": [{}]}', r"tenants\[0\]: a tenant is an object with a 'name'"),
        ('{"tenants": [{"name": "x", "token": []}]}', "and nothing else"),
        ('{"tenants": [{"name": "x", "weight": 0}]}', r"tenants\[0\]\.weight: a number from 0\.001"),
        ('{"tenants": [{"name": "x", "quota": -1}]}', r"tenants\[0\]\.quota: a whole number"),
        (
            '{"tenants": [{"name": "x", "tokens": ["my-secret"]}]}',
            r"tokens\[0\]: the SHA-256 of a token is right",
        ),
        ('{"tenants": [{"name": "x", "tokens": "y"}]}', "tokens: a list is right"),
        ('{"tenants": [{"name": "x"}, {"name": "x"}]}', "'x' is there twice"),
        ('{"tenants": [{"name": "x", "service_accounts": ["ppo"]}]}', "NAMESPACE/NAME or NAMESPACE/"),
        ('{"tenants": [{"name": "x", "service_accounts": ["*/ppo"]}]}', "NAMESPACE/NAME or NAMESPACE/"),
        (
            '{"tenants": [{"name": "x", "service_accounts": ["a/b"]}, {"name": "y", "service_accounts": ["a/b"]}]}',
            "'a/b' stands for two tenants",
        ),
        (
            f'{{"tenants": [{{"name": "x", "tokens": ["{"0" * 64}"]}}], "fleet": ["{"0" * 64}"]}}',
            "two callers",
        ),
    ],
)
def test_what_is_wrong_in_a_token_file_is_told_without_what_is_secret(tmp_path, text, words):
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_tokens(tmp_path / "tokens.json")
    assert str(tmp_path / "tokens.json") in str(caught.value)
    assert "my-secret" not in str(caught.value)


def test_what_is_no_bearer_token():
    assert bearer_token([("other", "x"), ("authorization", b"bearer  abc ")]) == "abc"
    for metadata in (
        (),
        [("authorization", "Basic x")],
        [("authorization", "Bearer ")],
        [("authorization", "x" * 99999)],
    ):
        with pytest.raises(Refusal) as caught:
            bearer_token(metadata)
        assert caught.value.reason == "CREDENTIAL_INVALID"


def reader_of(signer, now=1000.0):
    return PassReader(LeaseVerifier(signer.public_keys), lambda: now)


def refused(reader, text):
    with pytest.raises(Refusal) as caught:
        reader.caller(text)
    assert caught.value.reason == "CREDENTIAL_INVALID"
    return str(caught.value)


def test_a_pass_says_whose_call_it_is_until_it_ends():
    signer = LeaseSigner.generate()
    entry = pass_entry(signer, Caller("red", True, b"credenti"), 1000.0)
    assert reader_of(signer).caller(entry.value) == Caller("red", False, b"credenti")
    assert reader_of(signer, 1000.0 + PASS_VALIDITY).caller(entry.value).tenant == "red"
    assert "ended" in refused(reader_of(signer, 1010.0 + PASS_VALIDITY), entry.value)


def test_no_forged_pass_counts_and_no_lease_is_one():
    signer = LeaseSigner.generate()
    reader = reader_of(signer)
    other = pass_entry(LeaseSigner.generate(), Caller("red", False), 1000.0).value
    assert "key that is not known" in refused(reader, other)
    assert "cannot be read" in refused(reader, "§§§")
    signed = SignedLease.FromString(
        base64.urlsafe_b64decode(pass_entry(signer, Caller("red", False), 1000.0).value)
    )
    claims = PassClaims.FromString(signed.claims)
    claims.tenant = "blue"
    signed.claims = claims.SerializeToString()
    assert "forged" in refused(reader, base64.urlsafe_b64encode(signed.SerializeToString()).decode())
    lease = signer.sign(LeaseClaims(lease_id=b"0" * 16, tenant="red", host_id="h", count=1))
    assert "forged" in refused(reader, base64.urlsafe_b64encode(lease).decode())


def test_no_pass_is_a_lease():
    signer = LeaseSigner.generate()
    entry = pass_entry(signer, Caller("red", False), 1000.0)
    with pytest.raises(Refusal) as caught:
        LeaseVerifier(signer.public_keys).authentic(base64.urlsafe_b64decode(entry.value))
    assert caught.value.reason == "LEASE_INVALID"


def test_a_key_that_is_dropped_takes_its_passes_along():
    old, new = LeaseSigner.generate(), LeaseSigner.generate()
    verifier = LeaseVerifier(old.public_keys)
    reader = PassReader(verifier, lambda: 1000.0)
    entry = pass_entry(old, Caller("red", False), 1000.0)
    assert reader.caller(entry.value).tenant == "red"
    verifier.accept((*new.public_keys, *old.public_keys))
    assert reader.caller(entry.value).tenant == "red"
    verifier.accept(new.public_keys)
    assert "not known" in refused(reader, entry.value)
