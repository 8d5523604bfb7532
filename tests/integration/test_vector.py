"""Many episodes stepped with arrays, against a real host."""

import asyncio

import numpy as np
import pytest

import envmesh
from envmesh import values
from envmesh_environments.echo import observation_of
from tests.integration.closed_parts import until
from tests.integration.conftest import own_host


async def test_every_outcome_is_of_the_episode_and_action_it_says(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("echo", 100, seed=3) as vector:
        batch = await vector.reset()
        assert batch.ids.tolist() == list(range(100))
        assert batch.observations[7] == observation_of((3 + 7).to_bytes(8, "little").ljust(50, b"\0"))
        sent: dict[int, bytes | None] = {}
        actions = [bytes([number]) * 50 for number in range(100)]
        sent.update(enumerate(actions))
        await vector.send(actions)
        steps = ended = 0
        while steps < 4_000:
            batch = await vector.recv(min_ready=10)
            for number, observation, reward in zip(
                batch.ids.tolist(), batch.observations, batch.rewards.tolist(), strict=True
            ):
                action = sent[number]
                if action is not None:  # else the answer to an autoreset
                    assert observation == observation_of(action)
                    assert reward == action[0]
                else:
                    assert reward == 0
            ended += int(batch.terminated.sum())
            steps += len(batch)
            actions = [bytes([(number + steps) % 256]) * 50 for number in batch.ids]
            over = set(batch.ids[batch.terminated].tolist())
            sent.update(
                (number, None if number in over else action)
                for number, action in zip(batch.ids.tolist(), actions, strict=True)
            )
            await vector.send(actions, batch.ids)
        assert ended > 50


async def test_observations_stack_and_agree_with_episodes_played_by_hand(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("cartpole", 4, seed=11) as vector:
        batch = await vector.reset()
        assert batch.observations.shape == (4, 4)
        assert batch.observations.dtype == np.float32
        rows = [await vector.step(np.array([0, 1, 0, 1])) for _ in range(5)]
        for number in range(4):
            async with mesh.episode("cartpole", seed=11 + number) as episode:
                for row in rows:
                    outcome = await episode.step(number % 2)
                    assert (row.observations[number] == outcome.observation).all()
                    assert row.rewards[number] == outcome.reward
                assert vector.journal(number).packed() == episode.journal.packed()


async def test_discrete_observations_are_one_array(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("lake", 8, seed=1) as vector:
        batch = await vector.reset()
        assert batch.observations.tolist() == [0] * 8
        batch = await vector.step([2] * 8)
        assert batch.observations.dtype.kind == "i"
        assert "prob" in batch.infos[0]


async def test_autoreset_answers_with_the_first_observation_and_nobody_elses_seed(host):
    async def first_seeds(order: int) -> dict[int, list[int]]:
        """The seeds of each episode's first three lives, whoever is quick."""
        lives: dict[int, list[int]] = {number: [] for number in range(6)}
        async with envmesh.connect(host.address) as mesh, mesh.vector("falls", 6, seed=100) as vector:
            batch = await vector.reset()
            for number, observation in zip(batch.ids, batch.observations, strict=True):
                lives[int(number)].append(int(observation[0]))
            await vector.send([0] * 6)
            while min(map(len, lives.values())) < 3:
                batch = await vector.recv()
                for number, observation, valid in zip(
                    batch.ids, batch.observations, batch.valid, strict=True
                ):
                    if valid and observation[1] == 0:
                        lives[int(number)].append(int(observation[0]))
                await vector.send(np.zeros(len(batch), np.int64)[::order], batch.ids[::order])
        return {number: seeds[:3] for number, seeds in lives.items()}

    seeds = await first_seeds(1)
    assert [lives[0] for lives in seeds.values()] == [100, 101, 102, 103, 104, 105]
    assert len({seed for lives in seeds.values() for seed in lives}) == 18
    assert await first_seeds(-1) == seeds


async def test_a_failed_episode_is_a_row_that_is_not_valid_and_never_a_reward(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("falls", 4, seed=10) as vector:
        await vector.reset()
        for _ in range(2):
            batch = await vector.step([1, 1, 1, 1])
            assert batch.valid.all()
        batch = await vector.step([1, 1, 1, 1])
        assert batch.valid.tolist() == [True, False, True, False]
        assert np.isnan(batch.rewards).tolist() == [False, True, False, True]
        assert not (batch.terminated | batch.truncated).any()
        assert batch.failures[1].cause == "ENVIRONMENT_RAISED"
        assert "the floor gave way" in batch.failures[1].message
        assert batch.observations[1].tolist() == [0, 0]
        batch = await vector.step([1, 1, 1, 1])
        assert batch.valid.all()
        assert batch.rewards.tolist() == [1, 0, 1, 0], "the fallen ones have begun anew"


async def test_a_refused_action_is_told_and_harms_nobody(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("cartpole", 3, seed=1) as vector:
        await vector.reset()
        await vector.send([0, 7, 1])
        with pytest.raises(envmesh.InvalidRequest, match="episode 1") as refused:
            await vector.recv(3)
        assert refused.value.reason == "ACTION_INVALID"
        await vector.send([1], [1])
        batch = (await vector.recv(3)).ordered()
        assert batch.ids.tolist() == [0, 1, 2]
        assert vector.journal(1).steps == 1


async def test_a_step_never_gives_the_outcomes_of_an_earlier_one(host):
    async with envmesh.connect(host.address) as mesh:
        async with mesh.vector("falls", 3, seed=1) as vector:
            await vector.reset(seed=[10, 12, 14])
            with pytest.raises(envmesh.InvalidRequest, match="episode 0"):
                await vector.step([7, 1, 1])
            with pytest.raises(envmesh.InvalidRequest, match="reset first, or receive") as refused:
                await vector.step([2, 2, 2])
            assert refused.value.reason == "STEP_CONFLICT"
            assert sorted((await vector.recv(2)).ids.tolist()) == [1, 2]
            batch = await vector.step([2, 2, 2])
            assert (batch.ids.tolist(), batch.rewards.tolist()) == ([0, 1, 2], [2, 2, 2])
        async with mesh.vector("sticks", 2, step_timeout=0.05) as vector:
            await vector.reset(timeout=20)
            with pytest.raises(envmesh.DeadlineExceeded):
                await vector.step(["stick", "a"])
            with pytest.raises(envmesh.InvalidRequest, match="reset first, or receive"):
                await vector.step(["b", "b"])
            await vector.reset(timeout=20)
            assert (await vector.step(["b", "c"], timeout=20)).observations == ["b", "c"]


async def test_a_reset_forgets_what_its_episodes_were_refused_and_nothing_else(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("cartpole", 3, seed=1) as vector:
        await vector.reset()
        for ids in ([0, 1, 2], [0, 2]):
            await vector.send([7, 7, 1])
            await until(lambda: not vector._outstanding)
            assert (await vector.reset(ids=ids)).ids.tolist() == ids
            if 1 not in ids:
                with pytest.raises(envmesh.InvalidRequest, match="episode 1"):
                    await vector.recv()
        assert (await vector.step([0, 0, 0])).valid.all()


async def test_reset_options_are_those_of_the_episodes_that_are_reset(host):
    def topics() -> list[str]:
        begun = [vector.journal(number).message().entries[0].reset for number in range(2)]
        return [values.from_proto(entry.options)["topic"] for entry in begun]

    async with envmesh.connect(host.address) as mesh, mesh.vector("talks", 2) as vector:
        await vector.reset(options={"topic": "rain"})
        await vector.reset(options={"topic": "snow"}, ids=[1])
        assert topics() == ["rain", "snow"]
        with pytest.raises(envmesh.InvalidRequest):
            await vector.reset(options={"topic": "hail"}, seed=-1)
        await vector.reset()
        assert topics() == ["snow", "snow"], "a reset that was refused changes nothing"


async def test_a_vector_that_could_not_begin_is_forgotten(host):
    async with envmesh.connect(host.address) as mesh:
        with pytest.raises(envmesh.NotFound):
            async with mesh.vector("carthorse", 2):
                pass
        assert not mesh.vectors


async def test_an_episode_that_is_being_stepped_is_not_stepped_again(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("sticks", 1) as vector:
        await vector.reset()
        await vector.send(["stick"])
        with pytest.raises(envmesh.InvalidRequest, match="being stepped"):
            await vector.send(["go on"])


async def test_mistakes_are_told_before_anything_is_sent(host):
    async with envmesh.connect(host.address) as mesh:
        with pytest.raises(envmesh.InvalidRequest):
            mesh.vector("cartpole", 0)
        with pytest.raises(envmesh.NotFound):
            await mesh.vector("carthorse", 2).reset()
        async with mesh.vector("cartpole", 3, seed=1, autoreset=False) as vector:
            with pytest.raises(envmesh.InvalidRequest, match="nothing is being stepped"):
                await vector.recv()
            with pytest.raises(envmesh.InvalidRequest, match="has not begun"):
                await vector.send([0, 0, 0])
            await vector.reset()
            for actions, ids in (
                ([0], [3]),
                ([0], [-1]),
                ([0, 0], [1, 1]),
                ([0], [0, 1]),
                ([0], [[0]]),
                ([0], [0.5]),
            ):
                with pytest.raises(envmesh.InvalidRequest):
                    await vector.send(actions, ids)
            await vector.send([0], [2])
            assert len(await vector.recv(3)) == 1, "there is no more to come"
            over = False
            while not over:
                over = bool((await vector.step([1, 1, 1])).terminated.any())
            with pytest.raises(envmesh.InvalidRequest, match="has ended") as ended:
                await vector.step([1, 1, 1])
            assert ended.value.reason == "EPISODE_ENDED"


async def test_some_are_reset_while_others_go_on(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("sticks", 4) as vector:
        await vector.reset()
        await vector.send(["a", "stick", "b", "stick"])
        batch = (await vector.recv(2)).ordered()
        assert batch.observations == ["a", "b"]
        with pytest.raises(envmesh.DeadlineExceeded, match="2 episodes of sticks"):
            await vector.recv(timeout=0.05)
        batch = await vector.reset(ids=[1])
        assert (batch.ids.tolist(), batch.observations) == ([1], ["go on"])
        await vector.send(["c", "d"], [0, 1])
        assert sorted((await vector.recv(2)).observations) == ["c", "d"]


async def test_an_episode_with_two_outcomes_in_one_batch_is_not_stepped_twice(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("sticks", 3) as vector:
        await vector.reset()
        await vector.send(["a", "b", "c"])  # written at once, so it is answered before the reset is
        assert (await vector.reset(ids=[0])).ids.tolist() == [0]
        await vector.send(["d", "e"], [1, 2])
        batch = await vector.recv(4)
        assert sorted(batch.ids.tolist()) == [1, 1, 2, 2]
        assert sorted(batch.observations) == ["b", "c", "d", "e"]
        with pytest.raises(envmesh.InvalidRequest, match="an id is there twice"):
            await vector.send(["f", "g", "h", "i"], batch.ids)
        await vector.send(["f", "g"], [1, 2])
        assert sorted((await vector.recv(2)).observations) == ["f", "g"]


async def test_what_a_caller_does_to_its_arrays_changes_no_journal(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("cartpole", 3, seed=5) as vector:
        batch = await vector.reset()
        with pytest.raises(ValueError, match="read-only"):
            batch.ids[0] = 2
        ids, actions = np.array([0, 1, 2]), np.array([0, 1, 0])
        for _ in range(3):
            await vector.send(actions, ids)
            ids[:], actions[:] = 1, 1
            batch = (await vector.recv(3)).ordered()
            ids[:], actions[:] = [0, 1, 2], [0, 1, 0]
        for number in range(3):
            async with mesh.episode("cartpole", seed=5 + number) as episode:
                for _ in range(3):
                    await episode.step(number % 2)
                assert vector.journal(number).packed() == episode.journal.packed()


async def test_two_vectors_rollouts_and_an_episode_share_a_connection(host):
    async with envmesh.connect(host.address) as mesh:

        async def steps(seed: int) -> int:
            async with mesh.vector("cartpole", 16, seed=seed) as vector:
                await vector.reset()
                return sum([len(await vector.step([0] * 16)) for _ in range(30)])

        async def rolled() -> int:
            async with mesh.rollouts(
                "cartpole", lambda observation: 1, episodes=40, concurrency=8
            ) as rollouts:
                return len([trajectory async for trajectory in rollouts if trajectory.failure is None])

        async with mesh.episode("cartpole", seed=1) as episode:
            async with asyncio.TaskGroup() as group:
                done = [group.create_task(steps(1)), group.create_task(steps(2)), group.create_task(rolled())]
            assert [task.result() for task in done] == [480, 480, 40]
            assert (await episode.step(0)).reward == 1


async def test_a_lost_host_is_a_failure_in_every_row_and_the_slots_come_from_the_next():
    with own_host("sticks") as doomed:
        async with envmesh.connect(doomed.address) as mesh, mesh.vector("sticks", 3) as vector:
            await vector.reset()
            await vector.send(["stick", "a"], [0, 1])
            await vector.recv()
            doomed.process.kill()
            batch = await vector.recv(timeout=20)
            assert (batch.ids.tolist(), batch.valid.tolist()) == ([0], [False])
            assert batch.failures[0].cause == "HOST_LOST"
            await vector.send(["b", "c"], [1, 2])
            batch = (await vector.recv(2, timeout=20)).ordered()
            assert batch.valid.tolist() == [False, False], "an action that could not be done says so"


async def test_closing_the_mesh_closes_the_vector_and_wakes_who_waits(host):
    mesh = await envmesh.connect(host.address).__aenter__()
    vector = mesh.vector("sticks", 2)
    await vector.reset()
    await vector.send(["stick", "stick"])
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_outcome_of(vector.recv()))
        await asyncio.sleep(0)
        await mesh.close()
    assert isinstance(waiting.result(), envmesh.MeshUnavailable)
    with pytest.raises(envmesh.MeshUnavailable):
        await vector.send(["a", "a"])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def _outcome_of(work):
    try:
        return await work
    except envmesh.EnvmeshError as error:
        return error


async def test_a_number_that_no_episode_has_is_named(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("cartpole", 4, seed=1) as vector:
        await vector.reset()
        for ids, named in (([0, -100], "-100"), ([0, -1], "-1"), ([0, 9, 1], "9")):
            with pytest.raises(envmesh.InvalidRequest, match=f"from 0 to 3; got {named} "):
                await vector.send([1] * len(ids), ids)
        for number in (4, 9, -1):
            with pytest.raises(KeyError):
                vector.journal(number)
