"""How process isolation scales with workers: ``python -m benchmarks.process_scaling``.

Two environments, each with one worker and with two, in turns: one whose steps burn about 0.2 ms of Python, and one
whose steps cost next to nothing, which shows what a step through a worker costs. 256 episodes are always under way.
Beside each run's rate stand the CPUs that workers and host had, and the share of the machine that was idle: a ratio
means little where other programs took the second CPU; the steps in a CPU-second of the workers then say what two of
them cost.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from pathlib import Path

from envmesh import event_loop, values
from envmesh.env import environment
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.process import ProcessRunner
from envmesh_host.isolation.process_settings import ProcessSettings
from envmesh_host.isolation.runner import Job

RESULTS = Path(__file__).parent / "results" / "process_scaling.json"
EPISODES = 256
ACTION = values.encode(b"x" * 50)
STEP, RESET = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET


@environment(recovery="replay", episodes_per_worker=EPISODES)
class Burn:
    """Burns about 0.2 ms of a CPU in each step, in Python."""

    def reset(self, *, seed=None, options=None):
        self.left = 64
        return b"", {}

    def step(self, action):
        total = 0
        for number in range(4_000):
            total ^= number * number
        self.left -= 1
        return action, float(total & 1), self.left == 0, False, {}


@environment(recovery="replay", episodes_per_worker=EPISODES)
class Light:
    """Answers 50 bytes with 100."""

    def reset(self, *, seed=None, options=None):
        self.left = 64
        return b"", {}

    def step(self, action):
        self.left -= 1
        return action + action, 1.0, self.left == 0, False, {}


class Load:
    """Keeps every episode busy, and counts."""

    def __init__(self, runner):
        self.runner = runner
        self.steps = 0
        self.ended = asyncio.get_running_loop().create_future()

    def begin(self, number):
        request = pb.ResetRequest(seed=number).SerializeToString()
        self.runner.submit(Job(RESET, self.runner.seat(), 0, request, 60.0, self.done))

    def done(self, job, result):
        if not isinstance(result, tuple):
            if not self.ended.done():
                self.ended.set_exception(result)
            return
        self.steps += 1
        if self.ended.done():
            return
        if result[2]:
            self.runner.submit(Job(RESET, job.seat, 0, b"", 60.0, self.done))
        else:
            self.runner.submit(Job(STEP, job.seat, job.index + 1, ACTION, 60.0, self.done))

    async def measure(self, seconds):
        """Steps a second over a while."""
        before, started = self.steps, time.perf_counter()
        async with asyncio.timeout(seconds + 60):
            await asyncio.wait([self.ended], timeout=seconds)
        if self.ended.done():
            self.ended.result()  # raises what was refused
        return (self.steps - before) / (time.perf_counter() - started)


def cpu_seconds():
    """The machine's CPU time so far: all, and idle."""
    user, nice, system, idle, wait, *rest = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return user + nice + system + idle + wait + sum(rest), idle + wait


def worker_cpu_seconds():
    """The CPU time of the worker processes so far: this process's grandchildren."""
    ticks = 0
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for worker in Path(f"/proc/{child}/task/{child}/children").read_text().split():
            fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def run(target, workers, seconds):
    """One run: steps a second, and the CPU share of everything else."""
    definition = load(target)
    runner = ProcessRunner(
        definition,
        slots=EPISODES,
        copies_lost=lambda seats, refusal: None,
        settings=ProcessSettings(workers=workers),
    )
    await runner.start()
    try:
        load_ = Load(runner)
        for number in range(EPISODES):
            load_.begin(number)
        await load_.measure(min(1.0, seconds / 4))
        own, (total, idle), burnt = os.times(), cpu_seconds(), worker_cpu_seconds()
        rate = await load_.measure(seconds)
        burnt = (worker_cpu_seconds() - burnt) / seconds
        load_.ended.cancel()
        own_after, (total_after, idle_after) = os.times(), cpu_seconds()
    finally:
        await runner.stop(5.0)
    return {
        "steps_per_second": rate,
        "workers_cpu": burnt,
        "host_cpu": (own_after.user + own_after.system - own.user - own.system) / seconds,
        "machine_idle": (idle_after - idle) / max(total_after - total, 1),
    }


def summary(runs):
    """Medians and ranges of the runs with one and with two workers, and of their ratios pair by pair."""
    rates = {workers: [one["steps_per_second"] for one in runs[workers]] for workers in runs}
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        "steps_per_second": {
            str(workers): {"median": statistics.median(found), "min": min(found), "max": max(found)}
            for workers, found in rates.items()
        },
        "steps_per_worker_cpu_second": {
            str(workers): statistics.median(one["steps_per_second"] / one["workers_cpu"] for one in found)
            for workers, found in runs.items()
        },
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "runs": {str(workers): found for workers, found in runs.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result = {
        "what": f"{EPISODES} episodes under way, straight to the runner (no gRPC)",
        "python": platform.python_version(),
        "event_loop": event_loop.implementation,
        "cpus": os.cpu_count(),
    }
    for name, target in (("cpu_bound", "Burn"), ("light", "Light")):
        runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for _ in range(arguments.rounds):
            for workers in runs:
                one = run(f"{Path(__file__)}:{target}", workers, arguments.seconds)
                runs[workers].append(event_loop.run(one))
        result[name] = found = summary(runs)
        rate, ratio = found["steps_per_second"], found["ratio"]
        print(
            f"{name}: {rate['1']['median']:,.0f} steps/s with one worker, {rate['2']['median']:,.0f} with two: "
            f"{ratio['median']:.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f}); a CPU-second of the workers: "
            + " and ".join(f"{steps:,.0f}" for steps in found["steps_per_worker_cpu_second"].values())
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(arguments.output)


if __name__ == "__main__":
    main()
