"""What a client's journal on disk keeps of episodes, for the process that goes on with them after a crash."""

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import envmesh
from envmesh.journal_file import JournalFile
from envmesh.policies import Act
from tests.integration.command_line import Running


def annotated(observation):
    return Act("a", {"logprob": -0.5, "version": 3})


async def test_grades_annotations_and_seconds_are_those_of_the_first_life(host: Running, tmp_path: Path):
    asked = {"episodes": 4, "concurrency": 1, "seed": 4, "grade": True}
    async with asyncio.timeout(30):
        async with envmesh.connect(host.address, journal=tmp_path / "journal") as mesh:
            rollouts = mesh.rollouts("talks", annotated, **asked)
            first = await anext(rollouts)
            shutil.copy(tmp_path / "journal", tmp_path / "as it was")  # and here the first client crashes
        assert first.grade is not None
        assert first.annotations
        async with envmesh.connect(host.address, journal=tmp_path / "as it was") as mesh:
            again = [trajectory async for trajectory in mesh.rollouts("talks", annotated, **asked)]
    assert len(again) == 4
    (same,) = [trajectory for trajectory in again if trajectory.seed == first.seed]
    assert (same.grade, same.annotations, same.seconds) == (first.grade, first.annotations, first.seconds)
    assert all(trajectory.annotations.keys() == set(range(1, len(trajectory) + 1)) for trajectory in again)


async def test_what_loops_leave_early_does_not_add_up(host: Running, tmp_path: Path):
    async with asyncio.timeout(60), envmesh.connect(host.address, journal=tmp_path / "journal") as mesh:
        left = []
        for seed in range(5):
            async with mesh.rollouts("talks", annotated, concurrency=4, seed=seed) as rollouts:
                async for _ in rollouts:
                    break
            with closing(JournalFile(shutil.copy(tmp_path / "journal", tmp_path / f"copy {seed}"))) as copy:
                left.append({unfinished.beginning["run"] for unfinished in copy.unfinished.values()})
    assert left == [{f"talks#{number}"} for number in range(5)]


async def test_an_annotation_that_has_no_form_is_no_reason_to_stop(host: Running, tmp_path: Path):
    async with envmesh.connect(host.address, journal=tmp_path / "journal") as mesh:
        odd = object()
        rollouts = mesh.rollouts("talks", lambda observation: Act("a", odd), episodes=1)
        (trajectory,) = [each async for each in rollouts]
        assert set(trajectory.annotations.values()) == {odd}


async def test_branches_are_not_in_the_journal(host: Running, tmp_path: Path):
    async with (
        envmesh.connect(host.address, journal=tmp_path / "journal") as mesh,
        mesh.episode("cartpole", seed=3) as episode,
    ):
        await episode.step(0)
        (branch,) = await episode.fork()
        await branch.step(1)
        shutil.copy(tmp_path / "journal", tmp_path / "as it was")
        await branch.close()
    async with envmesh.connect(host.address, journal=tmp_path / "as it was") as mesh:
        assert [unfinished.index for unfinished in mesh.unfinished] == [1]


async def test_a_detached_episode_is_in_nobodys_journal(host: Running, tmp_path: Path):
    async with envmesh.connect(host.address, journal=tmp_path / "journal") as mesh:
        episode = mesh.episode("cartpole", seed=3)
        await episode.begin()
        await episode.step(0)
        detached = await episode.detach()
    async with envmesh.connect(host.address, journal=tmp_path / "journal") as mesh:
        assert not mesh.unfinished
        async with await mesh.attach(detached) as episode:
            assert (await episode.step(1)).index == 2


async def test_what_is_taken_up_is_of_the_build_that_wrote_the_journal(host: Running, tmp_path: Path):
    asked = {"episodes": 4, "concurrency": 2, "seed": 4}
    async with envmesh.connect(host.address, journal=tmp_path / "journal") as mesh:
        first = await anext(mesh.rollouts("cartpole", lambda observation: 0, **asked))
        shutil.copy(tmp_path / "journal", tmp_path / "as it was")
    async with envmesh.connect(host.address, journal=tmp_path / "as it was") as mesh, asyncio.timeout(30):
        assert mesh.journal is not None
        left = {each.episode_id for each in mesh.journal.unfinished.values()}
        for unfinished in mesh.journal.unfinished.values():
            unfinished.beginning["build"] = "another"
        again = [each async for each in mesh.rollouts("cartpole", lambda observation: 0, **asked)]
    assert {each.episode_id for each in again if each.build == "another"} == left >= {first.episode_id}
    assert {each.failure for each in again} == {None}


async def test_what_is_attached_to_steps_by_hand_is_kept_and_taken_up(host: Running, tmp_path: Path):
    first = {1: {"policy_version": 3}}
    async with (
        envmesh.connect(host.address, journal=tmp_path / "journal") as mesh,
        mesh.episode("cartpole", seed=3) as episode,
    ):
        assert episode.annotations == {}
        await episode.step(0, annotation={"policy_version": 3})
        await episode.step(1)
        (branch,) = await episode.fork()
        await branch.step(0, annotation="the branch's own")
        assert branch.annotations == {**first, 3: "the branch's own"}
        assert episode.annotations == first
        await branch.close()
        shutil.copy(tmp_path / "journal", tmp_path / "as it was")
    async with envmesh.connect(host.address, journal=tmp_path / "as it was") as mesh:
        (left,) = mesh.unfinished
        async with await mesh.resume(left) as episode:
            await episode.step(0, annotation=4)
            assert episode.annotations == {**first, 3: 4}


async def test_a_journal_does_not_grow_with_the_episodes_that_are_over(host: Running, tmp_path: Path):
    path = tmp_path / "journal"
    played, most = 0, 0
    async with envmesh.connect(host.address) as mesh, asyncio.timeout(60):
        mesh.journal = JournalFile(path, rewrite_bytes=20_000)
        async with mesh.episode("cartpole", seed=3) as episode:
            await episode.step(0)
            while played < 60 or path.stat().st_size >= most:
                async for trajectory in mesh.rollouts(
                    "cartpole", lambda observation: 0, episodes=8, seed=played
                ):
                    assert trajectory.failure is None
                played += 1
                most = max(most, path.stat().st_size)
            await episode.step(1, annotation="after that")
            shutil.copy(path, tmp_path / "as it was")
    assert not path.with_name("journal.new").exists()
    async with envmesh.connect(host.address, journal=tmp_path / "as it was") as mesh:
        (left,) = mesh.unfinished
        async with await mesh.resume(left) as episode:
            assert (episode.index, episode.annotations) == (2, {2: "after that"})
            await episode.step(0)
