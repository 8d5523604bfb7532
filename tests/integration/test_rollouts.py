"""Rollouts against a real host: every kind of policy, groups, retries, annotations, and what leaving early leaves."""

import asyncio
import gc
import itertools
import re
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

import envmesh
from envmesh.policies import Act, batched, per_episode
from tests.integration.closed_parts import until
from tests.integration.command_line import started
from tests.integration.conftest import ROOT, own_host


async def collect(rollouts):
    return [item async for item in rollouts]


@pytest.mark.parametrize("group_size", [1, 3])
async def test_what_seeds_begin_is_yielded_and_then_it_is_said_that_they_were_too_few(host, group_size):
    async with envmesh.connect(host.address) as mesh:
        rollouts = mesh.rollouts(
            "falls", lambda observation: 2, episodes=12, concurrency=2, seeds=range(3), group_size=group_size
        )
        for _ in range(3):
            await anext(rollouts)
        with pytest.raises(envmesh.InvalidRequest, match=f"seeds ran out after {3 * group_size} of 12"):
            await anext(rollouts)
        assert await collect(rollouts) == [], "it is over"


async def test_a_seed_that_is_none_is_drawn(host):
    async with envmesh.connect(host.address) as mesh:
        played = await collect(mesh.rollouts("falls", lambda observation: 2, seeds=[1, None, 4]))
        seeds = {trajectory.seed for trajectory in played}
        assert (len(seeds), {1, 4} < seeds) == (3, True)


async def test_the_same_seeds_give_the_same_trajectories_under_every_kind_of_policy(host):
    async def thinks(observation):
        await asyncio.sleep(0)
        return int(observation[2] > 0)

    @batched
    def together(observations):
        return [int(observation[2] > 0) for observation in observations]

    @batched
    async def together_later(observations):
        await asyncio.sleep(0)
        return [int(observation[2] > 0) for observation in observations]

    @per_episode
    def each(*, seed, task):
        return lambda observation: int(observation[2] > 0)

    made = []

    @per_episode
    def each_thinks(*, seed, task):
        made.append(seed)

        async def act(observation):
            await asyncio.sleep(0)
            return int(observation[2] > 0)

        return act

    def plain(observation):
        return int(observation[2] > 0)

    async with envmesh.connect(host.address) as mesh:
        played = []
        for policy in (plain, thinks, together, together_later, each, each_thinks):
            rollouts = mesh.rollouts("cartpole", policy, seeds=range(12), concurrency=5)
            trajectories = sorted(await collect(rollouts), key=lambda trajectory: trajectory.seed)
            assert [trajectory.seed for trajectory in trajectories] == list(range(12))
            assert all(trajectory.terminated and trajectory.failure is None for trajectory in trajectories)
            played.append([trajectory.digests for trajectory in trajectories])
        assert all(digests == played[0] for digests in played)
        assert sorted(made) == list(range(12)), "a policy is made once an episode"


async def test_a_factory_of_policies_that_makes_none(host):
    @per_episode
    def makes_text(*, seed, task):
        return "left"

    @per_episode
    def makes_a_batched_one(*, seed, task):
        return batched(lambda observations: observations)

    @per_episode
    async def waits(*, seed, task):
        return lambda observation: 0

    async with envmesh.connect(host.address) as mesh:
        for factory, words in ((makes_text, "got str"), (makes_a_batched_one, "a plain or an async policy")):
            with pytest.raises(TypeError, match=words):
                await collect(mesh.rollouts("cartpole", factory, episodes=2))
        with pytest.raises(TypeError, match="is a plain function; the policy it returns may be async"):
            mesh.rollouts("cartpole", waits, episodes=2)


async def test_what_is_no_policy_is_refused_and_leaves_nothing_to_complain_of(host):
    async with envmesh.connect(host.address) as mesh:
        with pytest.raises(TypeError, match="a policy is a callable from observation to action; got str"):
            mesh.rollouts("cartpole", "left")
        gc.collect()  # a complaint at the end of what was refused would fail this test


async def test_groups_share_a_seed_and_come_whole(host):
    async with envmesh.connect(host.address) as mesh:
        policy = lambda observation: 0  # noqa: E731
        groups = await collect(
            mesh.rollouts("cartpole", policy, episodes=12, group_size=4, spares=1, concurrency=10)
        )
        assert [len(group) for group in groups] == [4, 4, 4]
        assert all({member.seed for member in group} == {group.seed} for group in groups)
        assert len({group.seed for group in groups}) == 3


async def test_graded_groups_with_spares_come_once_each(host):
    async with envmesh.connect(host.address) as mesh:
        rollouts = mesh.rollouts(
            "talks",
            lambda observation: "well",
            episodes=40,
            group_size=2,
            spares=2,
            concurrency=16,
            grade=True,
        )
        groups = await collect(rollouts)
        assert len({group.seed for group in groups}) == len(groups) == 20
        assert len({member.episode_id for group in groups for member in group}) == 40


async def test_a_failed_episode_is_yielded_with_its_failure_and_no_return(host):
    async with envmesh.connect(host.address) as mesh:
        played = await collect(mesh.rollouts("falls", lambda observation: 1, seeds=range(6), concurrency=3))
        assert len(played) == 6
        for trajectory in played:
            if trajectory.seed % 2:
                assert trajectory.failure.cause == "ENVIRONMENT_RAISED"
                assert not trajectory.failure.retryable
                assert trajectory.return_ is None
                assert len(trajectory) == 2
            else:
                assert trajectory.return_ == 5.0
                assert [list(observation) for observation in trajectory.observations][-1] == [
                    trajectory.seed,
                    5,
                ]


async def test_annotations_are_kept_at_their_steps(host):
    async with envmesh.connect(host.address) as mesh:
        policy = lambda observation: Act(2, {"version": int(observation[1])})  # noqa: E731
        (trajectory,) = await collect(mesh.rollouts("falls", policy, seeds=[4]))
        assert trajectory.annotations == {step + 1: {"version": step} for step in range(5)}
        assert trajectory.actions == [2] * 5


async def test_longer_episodes_are_cut_off_at_max_steps(host):
    async with envmesh.connect(host.address) as mesh:
        played = await collect(mesh.rollouts("cartpole", lambda observation: 0, episodes=8, max_steps=3))
        assert {len(trajectory) for trajectory in played} == {3}
        assert all(trajectory.truncated and not trajectory.terminated for trajectory in played)


async def test_leaving_early_gives_every_slot_back():
    served = ("serve", "cartpole=gymnasium:CartPole-v1", "--listen", "127.0.0.1:0")
    with started(*served, cwd=ROOT, ENVMESH_HOST_SLOTS="6") as host:
        async with envmesh.connect(host.address) as mesh, asyncio.timeout(30):
            for _ in range(4):
                async with mesh.rollouts("cartpole", lambda observation: 0, concurrency=6) as rollouts:
                    async for _ in rollouts:
                        break

            def stumble(observation):
                raise KeyError("no idea")

            for _ in range(3):
                with pytest.raises(KeyError):
                    await collect(mesh.rollouts("cartpole", stumble, episodes=6, concurrency=6))
            assert len(await collect(mesh.rollouts("cartpole", lambda observation: 0, episodes=6))) == 6


def moves(kind: str):
    """A policy of each kind."""

    async def waits(observation):
        return 0

    return {
        "plain": lambda observation: 0,
        "async": waits,
        "batched": envmesh.batched(lambda o: [0] * len(o)),
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "async", "batched"])
async def test_a_loop_that_is_left_closes_what_is_open(kind):
    with few_slots() as host:
        async with envmesh.connect(host.address) as mesh, asyncio.timeout(30):
            for _ in range(3):
                async for _ in mesh.rollouts("cartpole", moves(kind), concurrency=6):
                    break
            assert len(await collect(mesh.rollouts("cartpole", moves(kind), episodes=6))) == 6
            assert not mesh.rollout_runs


async def test_a_loop_that_is_left_may_be_entered_again(host):
    async with envmesh.connect(host.address) as mesh:
        rollouts = mesh.rollouts("cartpole", lambda observation: 0, episodes=20, concurrency=4)
        seen = [trajectory async for trajectory in first_of(rollouts, 5)]
        gc.collect()
        seen += [trajectory async for trajectory in rollouts]
        assert len({trajectory.episode_id for trajectory in seen}) == 20


async def first_of(rollouts, count):
    async for trajectory in rollouts:
        yield trajectory
        count -= 1
        if not count:
            return


async def test_a_client_that_closes_takes_its_rollouts_along():
    with few_slots() as host:
        async with asyncio.timeout(30), envmesh.connect(host.address) as other:
            async with envmesh.connect(host.address) as mesh:
                left = mesh.rollouts("cartpole", lambda observation: 0, concurrency=3)
                assert await anext(left)
                others = mesh.rollouts("echo", stays, concurrency=3)
                waiting = asyncio.ensure_future(anext(others))  # noqa: TID251 - awaited below
                await until(lambda: others.peak == 3)
            with pytest.raises(envmesh.MeshUnavailable, match="closed while its rollouts went on"):
                await waiting
            assert await anext(left)  # what had ended before
            assert len(await collect(other.rollouts("cartpole", lambda observation: 0, episodes=6))) == 6


async def stays(observation):
    await asyncio.Event().wait()


def few_slots():
    """A host with six."""
    served = (
        "serve",
        "cartpole=gymnasium:CartPole-v1",
        "echo=envmesh_environments.echo:Echo",
        "--listen",
        "127.0.0.1:0",
    )
    return started(*served, cwd=ROOT, ENVMESH_HOST_SLOTS="6")


async def test_a_slow_consumer_slows_new_episodes_and_loses_none(host):
    async with envmesh.connect(host.address) as mesh:
        seen = 0
        async for _ in mesh.rollouts("falls", lambda observation: 1, seeds=range(0, 2000, 2), concurrency=50):
            seen += 1
            for _ in range(20):
                await asyncio.sleep(0)
        assert seen == 1000


async def test_nothing_of_a_client_outlives_it(host):
    before = asyncio.all_tasks()
    async with envmesh.connect(host.address) as mesh:
        async for _ in mesh.rollouts("cartpole", lambda observation: 0, concurrency=8):
            break
    assert asyncio.all_tasks() == before


async def test_rollouts_that_are_left_take_no_slot_from_others_who_wait():
    with started(
        "serve", "echo=envmesh_environments.echo:Echo", "--listen", "127.0.0.1:0", ENVMESH_HOST_SLOTS="1"
    ) as host:
        async with envmesh.connect(host.address) as mesh, asyncio.TaskGroup() as group:
            async with mesh.episode("echo", seed=1), mesh.rollouts("echo", lambda seen: bytes(50)) as left:
                waiting = group.create_task(mesh.episode("echo", seed=2).__aenter__(), name="waiting")
                leaving = group.create_task(anext(left), name="leaving")
                await until(lambda: mesh.pool("echo")._line.waiting > 1)
                leaving.cancel()
                await left.aclose()
                assert not waiting.done()
            episode = await waiting
            assert episode.observation
            await episode.close()


async def test_a_long_wait_for_slots_is_told_with_place_and_reason(caplog, monkeypatch):
    monkeypatch.setattr("envmesh.slot_line.TOLD_AFTER_SECONDS", 0.2)
    with started(
        "serve", "echo=envmesh_environments.echo:Echo", "--listen", "127.0.0.1:0", ENVMESH_HOST_SLOTS="1"
    ) as host:
        async with envmesh.connect(host.address) as holder, holder.episode("echo", seed=1):
            for wait in (_roll, _step_a_vector, _take_by_hand):
                caplog.clear()
                async with envmesh.connect(host.address) as mesh, asyncio.TaskGroup() as group:
                    waiting = group.create_task(wait(mesh), name="waiting")
                    await until(lambda: len(caplog.messages) > 1)
                    waiting.cancel()
                told = r"waiting \d+ s for a slot of echo: \d+ requests go first; 1 of 1 slots of this host are leased"
                assert re.match(told, caplog.messages[0]), wait.__name__


async def _roll(mesh):
    async for _ in mesh.rollouts("echo", lambda seen: bytes(50), concurrency=1):
        pass


async def _step_a_vector(mesh):
    async with mesh.vector("echo", 1) as vector:
        await vector.reset()


async def _take_by_hand(mesh):
    async with mesh.episode("echo", seed=2):
        pass


@pytest.mark.parametrize("command", ["serve", "up"])
async def test_slots_that_nobody_waits_for_any_more_are_not_asked_for(command):
    """Else they would be granted to a trainer that has gone or has what it wants, and be nobody's for a minute."""
    echo = "echo=envmesh_environments.echo:Echo"
    with started(command, echo, "--listen", "127.0.0.1:0", ENVMESH_HOST_SLOTS="2") as local:
        async with envmesh.connect(local.address) as other:
            async with envmesh.connect(local.address) as mesh:
                act = lambda seen: bytes(50)  # noqa: E731
                played = await collect(mesh.rollouts("echo", act, episodes=20, concurrency=10))
                assert [trajectory.failure for trajectory in played] == [None] * 20

                async def queued():
                    return [pool.queued for pool in await other.pools()]

                async with asyncio.timeout(5):
                    while any(await queued()):
                        pass
                leaving = mesh.rollouts("echo", act, concurrency=10)
                async with leaving:
                    await anext(leaving)
            async with asyncio.timeout(5), other.vector("echo", 2) as vector:
                await vector.reset()


async def test_all_that_was_asked_for_has_ended_when_the_only_host_is_gone():
    """No slot is waited for only to find that there is nothing more to play: it would never come."""
    with started(
        "serve", "countdown=tests.environments.countdown:Countdown", "--listen", "127.0.0.1:0"
    ) as host:
        thinking = []

        async def policy(observation):
            thinking.append(observation)
            await asyncio.Event().wait()

        async with (
            envmesh.connect(host.address, reattach_timeout=0.5) as mesh,
            asyncio.timeout(30),
            asyncio.TaskGroup() as group,
        ):
            rollouts = mesh.rollouts("countdown", policy, episodes=2, concurrency=2)
            played = group.create_task(collect(rollouts), name="playing")
            await until(lambda: len(thinking) == 2)
            host.process.kill()
        assert [trajectory.failure.cause for trajectory in played.result()] == ["HOST_LOST"] * 2


def counted(host, name: str, **labels: str) -> float:
    """What a host's metrics page counts, over all series with these labels."""
    text = urllib.request.urlopen(host.announced["metrics"], timeout=10).read().decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


async def test_episodes_that_follow_each_other_in_a_slot_are_closed_by_the_next_ones_reset():
    with own_host("cartpole") as host:
        async with envmesh.connect(host.address) as mesh:
            rollouts = mesh.rollouts("cartpole", lambda observation: 0, seeds=range(40), concurrency=4)
            assert len(await collect(rollouts)) == 40
            limited = mesh.rollouts(
                "cartpole", lambda observation: 0, seeds=range(8), concurrency=4, max_steps=3
            )
            assert {len(trajectory.rewards) for trajectory in await collect(limited)} == {3}
            await until(lambda: counted(host, "envmesh_commands_total", kind="reset", code="OK") == 48)
            await until(lambda: counted(host, "envmesh_live_episodes") == 0)
        # The last in each slot, and those that the host did not know to be over.
        assert counted(host, "envmesh_commands_total", kind="close", code="OK") == 4 + 8
        assert counted(host, "envmesh_episodes_total", outcome="terminated") == 40
        assert counted(host, "envmesh_episodes_total", outcome="closed") == 8


async def test_a_member_of_a_group_that_fails_again_when_retried_is_its_member_once():
    made = itertools.count()

    @per_episode
    def first_and_fourth_kill(seed, task):
        number = next(made)
        return lambda observation: "kill -9" if number in (0, 3) else "well"  # the fourth retries the first

    target = "tests.environments.misbehaving:Misbehaving"
    with started("serve", f"misbehaving={target}", "--listen", "127.0.0.1:0", cwd=ROOT) as host:
        async with envmesh.connect(host.address) as mesh, asyncio.timeout(40):
            asked = {"episodes": 3, "group_size": 3, "concurrency": 3, "retries": 1, "max_steps": 2}
            (group,) = await collect(mesh.rollouts("misbehaving", first_and_fourth_kill, **asked))
            causes = sorted(member.failure.cause if member.failure else "" for member in group)
            assert (causes, next(made)) == (["", "", "WORKER_LOST"], 4)


async def test_every_group_has_its_spares_at_once_where_there_is_room(host):
    async with envmesh.connect(host.address) as mesh:
        rollouts = mesh.rollouts("falls", lambda observation: 2, episodes=8, group_size=2, spares=2)
        assert len(await collect(rollouts)) == 4
        assert rollouts.peak == 16
        with pytest.raises(envmesh.InvalidRequest, match="spares are for groups"):
            mesh.rollouts("falls", lambda observation: 2, episodes=8, spares=2)


async def test_spares_of_a_group_that_is_full_are_not_played(host):
    made = itertools.count()

    @per_episode
    def counted(seed, task):
        next(made)
        return lambda observation: 1

    async with envmesh.connect(host.address) as mesh:
        asked = {"episodes": 8, "group_size": 2, "spares": 2, "concurrency": 2}
        groups = await collect(mesh.rollouts("cartpole", counted, **asked))
        assert [len(group) for group in groups] == [2] * 4
        assert all(len({trajectory.seed for trajectory in group}) == 1 for group in groups)
        assert next(made) == 12, "one more of each group has begun when its second ends"
