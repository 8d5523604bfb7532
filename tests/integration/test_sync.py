"""The client without async: the same surface, and nothing of it outlives its close."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading

import pytest

import envmesh


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("envmesh")]


def test_an_episode_by_hand(host):
    with envmesh.connect_sync(host.address) as mesh:
        assert "cartpole@1" in [spec.key for spec in mesh.environments()]
        assert mesh.describe("cartpole").seeded
        assert mesh.pools()
        with mesh.episode("cartpole", seed=7) as episode:
            assert episode.observation.shape == (4,)
            while not episode.done:
                outcome = episode.step(0, annotation={"at": episode.index})
            assert outcome.terminated
            assert episode.annotations == {step + 1: {"at": step} for step in range(outcome.index)}
            assert episode.outcome is outcome
            with pytest.raises(envmesh.EpisodeEnded):
                episode.step(0)
        with mesh.episode("talks", options={"topic": "rain"}) as episode:
            assert episode.observation["topic"] == "rain"
            assert episode.reward().components == {"style": 0.25}
    assert loop_threads() == []


def test_a_detached_episode_is_attached_and_goes_on(host):
    with envmesh.connect_sync(host.address) as mesh:
        episode = mesh.episode("cartpole", seed=7)
        episode.begin()
        episode.step(0)
        with mesh.attach(episode.detach()) as attached:
            assert attached.index == 1
            assert attached.step(0).index == 2


def test_rollouts_and_a_policys_own_error(host):
    with envmesh.connect_sync(host.address) as mesh:
        seeds = [trajectory.seed for trajectory in mesh.rollouts("cartpole", lambda _: 0, seeds=range(20))]
        assert sorted(seeds) == list(range(20))

        def stumble(observation):
            raise KeyError("no idea")

        with pytest.raises(KeyError, match="no idea"):
            next(mesh.rollouts("cartpole", stumble, episodes=3))


def test_leaving_the_loop_closes_what_is_open(host):
    with envmesh.connect_sync(host.address) as mesh:
        for trajectory in mesh.rollouts("cartpole", lambda _: 0, concurrency=4):
            assert trajectory.failure is None
            break
        gc.collect()
        with mesh.rollouts("cartpole", lambda _: 0, concurrency=4) as rollouts:
            next(rollouts)
        assert not rollouts._behind.live


def test_several_threads_and_several_clients_share_one_loop(host):
    with envmesh.connect_sync(host.address) as one, envmesh.connect_sync(host.address) as other:
        assert len(loop_threads()) == 1
        lengths: list[int] = []

        def play(mesh: envmesh.SyncMesh, seed: int) -> None:
            with mesh.episode("cartpole", seed=seed) as episode:
                while not episode.done:
                    episode.step(1)
                lengths.append(episode.index)

        threads = [threading.Thread(target=play, args=((one, other)[i % 2], i)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(lengths) == 8
        one.close()
        assert other.environments()
    assert loop_threads() == []


async def test_both_clients_in_one_process(host):
    def played() -> int:
        with envmesh.connect_sync(host.address) as mesh, mesh.episode("cartpole", seed=5) as episode:
            return len(episode.step(0).observation)

    async with envmesh.connect(host.address) as mesh, mesh.episode("cartpole", seed=5) as episode:
        assert await asyncio.to_thread(played) == 4
        assert (await episode.step(0)).index == 1
        assert played() == 4, "even from inside a running loop, which then waits"
    assert loop_threads() == []


def test_use_before_after_and_inside(host):
    mesh = envmesh.connect_sync(host.address)
    with pytest.raises(envmesh.MeshUnavailable, match="not been entered"):
        mesh.environments()
    with pytest.raises(envmesh.MeshUnavailable, match="not been entered"):
        mesh.episode("cartpole")
    with mesh:

        def selfish(observation):
            mesh.environments()

        with pytest.raises(envmesh.InvalidRequest, match=r"wait for\s+itself"):
            next(mesh.rollouts("cartpole", selfish, episodes=1))
    with pytest.raises(envmesh.MeshUnavailable):
        mesh.environments()
    with pytest.raises(envmesh.MeshUnavailable, match="entered once"):
        mesh.__enter__()
    mesh.close()
    with pytest.raises(envmesh.MeshUnavailable), envmesh.connect_sync("127.0.0.1:1", connect_timeout=0.2):
        pass
    assert loop_threads() == []


def test_a_client_that_could_not_be_entered_takes_nobody_elses_thread(host, tmp_path):
    other = tmp_path / "other"
    other.write_text("something else")
    with envmesh.connect_sync(host.address) as mesh:
        useless = envmesh.connect_sync(host.address, journal=other)
        with pytest.raises(envmesh.InvalidRequest):
            useless.__enter__()
        useless.close()
        assert mesh.environments()


def test_rollouts_end_with_the_client(host):
    with (
        envmesh.connect_sync(host.address) as mesh,
        mesh.rollouts("cartpole", lambda _: 0, concurrency=2) as rollouts,
    ):
        next(rollouts)
        mesh.close()


def test_a_crash_gives_the_trajectory_at_hand_again_and_no_other(host, tmp_path):
    program = (
        "import envmesh, os, sys, time\n"
        "with envmesh.connect_sync(sys.argv[1], journal=sys.argv[2]) as mesh:\n"
        "    rollouts = mesh.rollouts('cartpole', lambda _: 0, episodes=60, concurrency=8, seed=4)\n"
        "    for number, trajectory in enumerate(rollouts, 1):\n"
        "        print(trajectory.seed, flush=True)\n"
        "        time.sleep(0.01)\n"  # so that the next ones are there
        "        if number == int(sys.argv[3]):\n"
        "            os._exit(1)\n"
    )
    seen = [
        subprocess.run(
            [sys.executable, "-c", program, host.address, str(tmp_path / "journal"), crash],
            capture_output=True, timeout=60, check=False, text=True,
        ).stdout.split()
        for crash in ("30", "0")
    ]  # fmt: skip
    assert len(set(seen[0] + seen[1])) == 60
    assert set(seen[0]) & set(seen[1]) == {seen[0][-1]}


@pytest.fixture
def interruptible():
    """This process hears SIGINT, even where its shell made it deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_wait_and_the_client_goes_on(host, interruptible):
    with envmesh.connect_sync(host.address) as mesh, mesh.episode("sticks") as episode:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            episode.step("stick")
        timer.join()
        assert mesh.environments()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_client_used_after_a_fork_says_so(host):
    program = (
        "import envmesh, os, sys\n"
        "with envmesh.connect_sync(sys.argv[1]) as mesh:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            mesh.environments()\n"
        "        except BaseException as error:\n"
        "            os.write(1, type(error).__name__.encode())\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    os.write(1, b' and %d here' % len(mesh.environments()))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, host.address], capture_output=True, timeout=40, check=True
    )
    assert ran.stdout == b"ForkedClient and 7 here"


def test_a_program_that_forgets_to_close_still_ends(host):
    program = (
        "import envmesh, sys\n"
        "mesh = envmesh.connect_sync(sys.argv[1]).__enter__()\n"
        "episode = mesh.episode('cartpole').__enter__()\n"
        "print('played', episode.step(0).index)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, host.address], check=False, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "played 1\n"), done.stderr


def test_a_vector(host):
    with envmesh.connect_sync(host.address) as mesh, mesh.vector("cartpole", 8, seed=1) as vector:
        assert vector.reset().observations.shape == (8, 4)
        vector.send([0, 1], [2, 5])
        assert sorted(vector.recv(min_ready=2).ids.tolist()) == [2, 5]
        assert len(vector) == vector.n == 8
