"""A recording in which everything happens: rewards that rise, failures, episodes rebuilt, text like markup."""

import random
from pathlib import Path

import numpy as np

from envmesh.env import RewardResult
from envmesh.errors import Failure
from envmesh.outcome import EnvironmentSpec, Resume, Trajectory
from envmesh.recording import Recorder
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import encode

HOSTS = tuple(f"10.4.{n}.17:7070" for n in range(1, 5))
HOSTILE = "</code></td><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
BEGAN = 1_790_000_000.0
CAUSES = (
    ("WORKER_LOST", "the worker process was killed (signal 9)"),
    ("TIMEOUT", "step 14 ran longer than 60 s"),
)
QUESTIONS = (
    "A train leaves at 9:40 and takes 95 minutes. When does it arrive?",
    "ls -la /workspace\ntotal 12\n-rw-r--r-- 1 agent agent 418 main.py",
    "Test failed: expected 42, got 41",
)


def record(file: Path, episodes: int = 900, *, seed: int = 7, polite: bool = False) -> None:
    """Write it. The clock in it is made up, so that it is the same each time. A polite one holds no markup."""
    chance = random.Random(seed)
    spec = EnvironmentSpec(
        pb.EnvironmentInfo(name="repair", version="2", build="5d1c8be09f3a", target="repair:Repair")
    )
    recorder = Recorder.open(file)
    clocks = [BEGAN + chance.random() for _ in range(48)]
    made = []
    for number in range(episodes):
        lane = min(range(len(clocks)), key=clocks.__getitem__)
        trajectory = _play(
            spec, number / episodes, chance, clocks[lane], "run the tests" if polite else HOSTILE
        )
        clocks[lane] = trajectory.ended_at + chance.random() * 0.2
        made.append(trajectory)
    for trajectory in sorted(made, key=lambda each: each.ended_at):
        recorder.write(trajectory)
    recorder.close()


def _play(
    spec: EnvironmentSpec, progress: float, chance: random.Random, began: float, hostile: str
) -> Trajectory:
    trajectory = Trajectory(
        spec, chance.randbytes(16), seed=chance.getrandbits(31), options=None, task=f"repair-{chance.randrange(40):03}"
    )  # fmt: skip
    steps = max(2, int(chance.lognormvariate(2.4 + 0.4 * progress, 0.55)))
    times = np.array([chance.lognormvariate(-2.6, 0.8) for _ in range(steps)])
    if chance.random() < 0.02:
        times[chance.randrange(steps)] += chance.uniform(2, 7)
    trajectory.host = chance.choice(HOSTS[:3] if began - BEGAN > 14 else HOSTS)
    pause = 0.0
    if (trajectory.host == HOSTS[3] and began - BEGAN > 12) or chance.random() < 0.004:
        pause = chance.uniform(0.15, 0.9)
        at = chance.randrange(steps)
        to = chance.choice(HOSTS[:3])
        trajectory.resumes = (
            Resume(
                index=at, cause="closed", seconds=pause, replayed=at, from_host=trajectory.host, to_host=to
            ),
        )
        trajectory.host = to
    failed = chance.random() < 0.018
    rows = [(encode(QUESTIONS[0]), 0.0, 0, chance.getrandbits(63), b"")]
    for step in range(1, steps + 1):
        done = step == steps and not failed
        reward = (chance.random() < 0.25 + 0.6 * progress) * 1.0 if done else 0.05 * (chance.random() < 0.3)
        text = hostile if step == 2 else f"{QUESTIONS[step % 3]} ({step})"
        rows.append((encode(text), reward, int(done), chance.getrandbits(63), b""))
    actions = [
        encode(f"edit main.py line {chance.randrange(80)}" if n != 1 else hostile) for n in range(steps)
    ]
    trajectory.fill(rows, actions)
    trajectory.flags = 0 if failed else 1
    trajectory.step_seconds = times.tolist()
    trajectory.seconds = float(times.sum()) + 0.1 + pause
    trajectory.ended_at = began + trajectory.seconds
    if failed:
        cause, message = chance.choice(CAUSES)
        trajectory.failure = Failure(
            cause=cause, message=f"{message}; {hostile}", retryable=True, reward_valid=False
        )
    else:
        trajectory.grade = RewardResult(value=trajectory.return_ or 0.0)
    return trajectory
