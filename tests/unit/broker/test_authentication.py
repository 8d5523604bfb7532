"""A credential that is taken away, given back or moved to another tenant counts where the file says, nowhere else."""

import json

import pytest

from envmesh.errors import Refusal
from envmesh_broker.authentication import Credentials
from envmesh_broker.token_reviews import TokenReviews
from envmesh_service.credentials import credential_id, token_digest
from envmesh_service.kubernetes_api import ReviewedToken

TOKEN = "red-token-0123456789"
ACCOUNT = "header.claims.signature"


class Broker:
    """What a broker knows of credentials, its file, and clocks that are moved by hand. The API server knows one
    ServiceAccount, rl/ppo."""

    def __init__(self, directory, **tenants):
        self.now = 1000.0
        self.known = True
        self._path = directory / "credentials.json"
        self.write(**tenants)
        clock = lambda: self.now  # noqa: E731
        self.credentials = Credentials(
            self._path, clock, TokenReviews(self.ask, keep=60.0, clock=clock, wall=clock)
        )

    async def ask(self, token):
        return ReviewedToken("rl", "ppo", 1e12) if token == ACCOUNT and self.known else None

    def write(self, **tenants):
        """Which of the two credentials each tenant has."""
        entries = []
        for name, theirs in tenants.items():
            tokens = [token_digest(TOKEN).hex()] if TOKEN in theirs else []
            accounts = ["rl/ppo"] if ACCOUNT in theirs else []
            entries.append({"name": name, "tokens": tokens, "service_accounts": accounts})
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"tenants": entries}))
        new.replace(self._path)

    async def becomes(self, **tenants):
        self.write(**tenants)
        self.now += 1.0
        await self.credentials.review()

    async def caller(self, shown):
        return await self.credentials.caller((("authorization", f"Bearer {shown}"),))

    def counts(self, caller):
        """Whether a caller of before may go on, here and at the hosts."""
        try:
            self.credentials.check_standing(caller)
        except Refusal:
            stands = False
        else:
            stands = True
        told = caller.credential in self.credentials.revoked_credentials
        gone = caller.tenant in self.credentials.revoked_tenants(())
        assert stands is not (told or gone), "the broker and its hosts say the same"
        return stands


@pytest.fixture(params=[TOKEN, ACCOUNT], ids=["token", "account"])
def shown(request):
    return request.param


async def test_what_is_taken_away_is_revoked_and_counts_again_as_soon_as_it_is_back(tmp_path, shown):
    broker = Broker(tmp_path, red=[shown])
    caller = await broker.caller(shown)
    assert broker.counts(caller)
    await broker.becomes(red=[])
    assert not broker.counts(caller)
    with pytest.raises(Refusal):
        await broker.caller(shown)
    await broker.becomes(red=[shown])
    assert broker.counts(await broker.caller(shown))
    assert broker.counts(caller)


async def test_what_is_moved_counts_for_its_new_tenant_alone(tmp_path, shown):
    broker = Broker(tmp_path, red=[shown], blue=[])
    red = await broker.caller(shown)
    await broker.becomes(red=[], blue=[shown])
    blue = await broker.caller(shown)
    assert (red.tenant, blue.tenant) == ("red", "blue")
    assert broker.counts(blue)
    assert not broker.counts(red)
    await broker.becomes(red=[shown], blue=[])
    assert broker.counts(red)
    assert not broker.counts(blue)


async def test_an_account_that_the_api_server_has_refused_for_a_while_counts_when_it_is_good_again(tmp_path):
    broker = Broker(tmp_path, red=[ACCOUNT])
    caller = await broker.caller(ACCOUNT)
    broker.known = False
    broker.now += 61.0
    await broker.credentials.review()
    assert not broker.counts(caller)
    broker.known = True
    broker.now += 11.0
    assert broker.counts(await broker.caller(ACCOUNT))


async def test_an_account_of_no_tenant_is_nothing_to_tell_hosts_of(tmp_path):
    broker = Broker(tmp_path, red=[])
    with pytest.raises(Refusal, match="belongs to no tenant"):
        await broker.caller(ACCOUNT)
    await broker.credentials.review()
    assert not broker.credentials.revoked_credentials


async def test_a_pass_of_a_broker_that_did_not_bind_credentials_to_tenants_is_revoked_too(tmp_path, shown):
    broker = Broker(tmp_path, red=[shown])
    await broker.caller(shown)
    await broker.becomes(red=[])
    assert credential_id(token_digest(shown)) in broker.credentials.revoked_credentials
    await broker.becomes(red=[shown])
    assert not broker.credentials.revoked_credentials


async def test_what_is_revoked_is_told_until_the_last_pass_has_ended(tmp_path, shown):
    broker = Broker(tmp_path, red=[shown])
    caller = await broker.caller(shown)
    await broker.becomes(red=[])
    broker.now += 15 * 60.0
    await broker.credentials.review()
    assert not broker.counts(caller)
    broker.now += 5 * 60.0
    await broker.credentials.review()
    assert not broker.credentials.revoked_credentials
