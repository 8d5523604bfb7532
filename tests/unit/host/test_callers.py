"""Whose calls count no more, as brokers have said and as a host's own file says."""

import hashlib
import json
import time
from pathlib import Path

import pytest

from envmesh.errors import Refusal
from envmesh_host.callers import REMEMBERED_SECONDS, Callers, Revocations
from envmesh_service.credentials import Caller, read_tokens
from envmesh_service.leases import LeaseSigner, LeaseVerifier
from envmesh_service.passes import PASS_VALIDITY, pass_entry
from envmesh_service.watched import Watched

TOKEN, OTHER = b"12345678", b"abcdefgh"


class Shown:
    """A call with this metadata."""

    def __init__(self, *metadata: tuple[str, str]):
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


def test_what_the_broker_leaves_out_counts_again():
    revocations = Revocations()
    assert revocations.tell(frozenset({"red", TOKEN}))
    assert not revocations.tell(frozenset({"red", TOKEN}))
    assert revocations.has("red", 0.0)
    assert revocations.has(TOKEN, 0.0)
    assert not revocations.has(OTHER, 0.0)
    assert revocations.tell(frozenset({"red"}))
    assert not revocations.has(TOKEN, 0.0)


def test_what_was_revoked_stays_so_while_its_passes_last_whatever_a_new_broker_knows():
    revocations = Revocations()
    revocations.tell(frozenset({"red", TOKEN}))
    revocations.away(100.0)
    revocations.tell(frozenset({OTHER}))
    revocations.tell(frozenset())
    assert not revocations.has(OTHER, 100.0)
    revocations.away(200.0)
    for gone in ("red", TOKEN):
        assert revocations.has(gone, 100.0 + PASS_VALIDITY + 5.0)
        assert not revocations.has(gone, 100.0 + REMEMBERED_SECONDS)


def test_a_broker_that_was_away_for_a_moment_may_take_back_what_it_said_before():
    revocations = Revocations()
    revocations.tell(frozenset({TOKEN}))
    revocations.away(100.0)
    revocations.tell(frozenset({TOKEN}))
    revocations.tell(frozenset())
    assert not revocations.has(TOKEN, 101.0)


def test_a_host_refuses_the_pass_of_a_revoked_credential_across_a_restart_of_the_broker():
    signer, now = LeaseSigner.generate(), [1000.0]
    callers = Callers(LeaseVerifier(signer.public_keys), required=True, wall=lambda: now[0])
    red, blue = Caller("red", False, TOKEN), Caller("blue", False, OTHER)
    shown = {
        each: Shown(*[(e.key, e.value) for e in [pass_entry(signer, each, now[0])]]) for each in (red, blue)
    }
    assert callers(shown[red]) == red
    assert callers.revoked(frozenset(), frozenset({TOKEN}))
    now[0] += 60.0
    callers.broker_away()
    callers.revoked(frozenset(), frozenset())
    now[0] += PASS_VALIDITY - 60.0
    assert callers.is_revoked(red)
    with pytest.raises(Refusal, match="revoked"):
        callers(shown[red])
    assert callers(shown[blue]) == blue


def test_a_token_that_is_moved_to_another_tenant_opens_nothing_of_the_first(tmp_path: Path):
    path, digest = tmp_path / "credentials.json", hashlib.sha256(b"token").hexdigest()

    def belongs_to(tenant: str) -> None:
        path.write_text(json.dumps({"tenants": [{"name": tenant, "tokens": [digest]}]}))

    belongs_to("red")
    file = Watched("credentials", [path], lambda: read_tokens(path))
    signer = LeaseSigner.generate()
    callers = Callers(LeaseVerifier(signer.public_keys), required=False, file=file)
    red = callers.of_token([("authorization", "Bearer token")])
    entry = pass_entry(signer, red, time.time())
    assert callers(Shown((entry.key, entry.value))).tenant == "red"
    belongs_to("purple")
    file.refresh()
    assert callers.of_token([("authorization", "Bearer token")]).tenant == "purple"
    assert callers.is_revoked(red)
    with pytest.raises(Refusal, match="revoked"):
        callers(Shown((entry.key, entry.value)))
