"""The API server's word on a token: asked once, remembered for five minutes at most, and taken back when it changes."""

import asyncio

import pytest

from envmesh.errors import Refusal
from envmesh_broker.token_reviews import Account, TokenReviews
from envmesh_service.kubernetes_api import ApiRefused, ReviewedToken


class Judge:
    """An API server that knows tokens by name, and clocks that are moved by hand."""

    def __init__(self, keep: float = 60.0, **bounds: int) -> None:
        self.now = 1000.0
        self.ends = 1e9
        self.good, self.asked = {"ppo"}, 0
        self.away = False
        self.slow: dict[str, asyncio.Event] = {}
        self.reviews = TokenReviews(
            self.ask, keep=keep, clock=lambda: self.now, wall=lambda: self.now, **bounds
        )

    async def ask(self, token: str) -> ReviewedToken | None:
        self.asked += 1
        await asyncio.sleep(0)  # others come meanwhile
        if token in self.slow:
            await self.slow[token].wait()
        if self.away:
            raise ApiRefused("review a token", 0, "it does not answer")
        return ReviewedToken("rl", token, self.ends) if token in self.good else None

    async def name(self, token: str) -> str | None:
        account = await self.reviews.account(token)
        return account.name if account is not None else None


@pytest.mark.parametrize(("keep", "counts"), [(60.0, 60.0), (300.0, 300.0), (9000.0, 300.0)])
async def test_a_verdict_counts_as_long_as_is_set_and_never_over_five_minutes(keep, counts):
    judge = Judge(keep)
    assert await judge.name("ppo") == "ppo"
    judge.now += counts - 1.0
    assert await judge.name("ppo") == "ppo"
    assert judge.asked == 1
    judge.good.clear()
    judge.now += 1.0
    assert await judge.name("ppo") is None
    assert judge.asked == 2


async def test_a_thousand_calls_with_one_token_ask_once():
    judge = Judge()
    assert set(await asyncio.gather(*(judge.name("ppo") for _ in range(1000)))) == {"ppo"}
    assert judge.asked == 1


async def test_a_refused_token_is_not_asked_about_at_every_call():
    judge = Judge()
    assert [await judge.name("stranger") for _ in range(5)] == [None] * 5
    assert judge.asked == 1
    judge.good.add("stranger")
    judge.now += 10.0
    assert await judge.name("stranger") == "stranger"


async def test_a_token_past_its_own_end_does_not_count_though_it_is_remembered():
    judge = Judge()
    judge.ends = judge.now + 30.0
    assert await judge.name("ppo") == "ppo"
    judge.now += 31.0
    judge.good.clear()
    assert await judge.name("ppo") is None


async def test_a_token_that_is_revoked_is_told_and_one_that_has_ended_is_forgotten():
    judge = Judge()
    judge.good.add("older")
    judge.ends = judge.now + 61.0
    await judge.name("older")
    judge.ends = 1e9
    await judge.name("ppo")
    assert not await judge.reviews.review_again(), "both are fresh"
    judge.now += 62.0
    judge.good.clear()
    (gone,) = await judge.reviews.review_again()
    assert gone.name == "ppo"
    assert not list(judge.reviews.accounts())


async def test_while_the_api_server_is_away_nobody_is_revoked_and_nobody_new_comes_in():
    judge = Judge()
    await judge.name("ppo")
    judge.away = True
    judge.now += 61.0
    assert not await judge.reviews.review_again()
    assert [account.name for account in judge.reviews.accounts()] == ["ppo"]
    with pytest.raises(Refusal) as refused:
        await judge.name("newcomer")
    assert (refused.value.reason, refused.value.retry_after) == ("UNREACHABLE", 1.0)


async def test_newcomers_may_take_the_place_of_what_is_being_reviewed_again():
    judge = Judge(most=12)
    first = ["ppo", *(f"old-{number}" for number in range(11))]
    newcomers = [f"newcomer-{number}" for number in range(12)]
    judge.good.update(first + newcomers)
    for name in first:
        await judge.name(name)
    judge.now += 61.0  # nothing is fresh any more
    judge.slow["ppo"] = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        again = tasks.create_task(judge.reviews.review_again())
        for name in newcomers:
            assert await judge.name(name) == name
        judge.slow["ppo"].set()
    assert again.result() == []


async def test_a_second_look_at_a_token_takes_no_other_ones_place():
    judge = Judge(most=2)
    judge.good.add("sweep")
    await judge.name("ppo")
    await judge.name("sweep")
    judge.now += 61.0
    assert await judge.name("sweep") == "sweep"
    assert {account.name for account in judge.reviews.accounts()} == {"ppo", "sweep"}


async def test_what_is_remembered_is_bounded():
    judge = Judge(most=3)
    judge.good.update(str(number) for number in range(5))
    for number in range(5):
        await judge.name(str(number))
    assert len(list(judge.reviews.accounts())) == 3


async def test_strangers_push_no_good_token_out_and_its_revocation_is_told():
    judge = Judge(most=3)
    await judge.name("ppo")
    for number in range(2_000):
        assert await judge.name(f"stranger-{number}") is None
    assert [account.name for account in judge.reviews.accounts()] == ["ppo"]
    judge.good.clear()
    judge.now += 61.0
    assert [account.name for account in await judge.reviews.review_again()] == ["ppo"]


async def test_a_revocation_is_told_though_its_owner_shows_the_token_before_it_is_reviewed_again():
    judge = Judge()
    await judge.name("ppo")
    judge.good.clear()
    judge.now += 61.0
    assert await judge.name("ppo") is None
    assert [account.name for account in await judge.reviews.review_again()] == ["ppo"]
    assert await judge.reviews.review_again() == []


@pytest.mark.parametrize("tokens", [10, 2_000])
async def test_a_revocation_is_noticed_within_twice_the_time_set_however_many_tokens_there_are(tokens):
    judge = Judge(keep=60.0)
    judge.good = {str(number) for number in range(tokens)}
    for name in sorted(judge.good):
        await judge.name(name)
    last = list(judge.reviews.accounts())[-1].name
    judge.good.discard(last)
    revoked_at = judge.now
    gone: list[Account] = []
    while not gone and judge.now < revoked_at + 600.0:
        judge.now += 0.5  # as often as the broker looks
        gone = await judge.reviews.review_again()
    assert [account.name for account in gone] == [last]
    assert judge.now - revoked_at <= 120.0


async def test_an_api_server_that_is_away_is_not_asked_about_every_token_at_once():
    judge = Judge(keep=1.0)
    judge.good = {str(number) for number in range(100)}
    for name in sorted(judge.good):
        await judge.name(name)
    judge.away, judge.asked = True, 0
    judge.now += 2.0
    assert await judge.reviews.review_again() == []
    assert judge.asked == 8
