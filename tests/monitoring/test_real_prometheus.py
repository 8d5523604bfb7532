"""A mesh under load and with real faults, scraped by a real Prometheus: every expression parses, names what the code
registers, and brings data; the alerts about the faults are seen firing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import envmesh
from envmesh.errors import EnvmeshError, InvalidRequest
from envmesh.policies import Act
from envmesh.wire import Json
from envmesh_cli.child import Child
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pools import PoolPlan
from tests.monitoring.real_prometheus import Prometheus, prometheus
from tests.monitoring.registered import names
from tests.monitoring.rule_files import (
    ALERTS,
    alerts,
    expressions,
    metrics_of,
    needs_prometheus,
    of_autoscaler,
    records,
)
from tests.monitoring.test_metrics_page import queries
from tools.prometheus_beside import trainer_metrics

pytestmark = [
    needs_prometheus,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("real-prometheus"),
]

NO_DATA = {
    "Certificates valid for",  # this mesh stays on loopback, without TLS
    "Quota used",  # and has no quotas
}
"""Panels of which this mesh has nothing to show."""

NO_ANSWER = (
    "envmesh_certificate_expiry", "envmesh_replay_divergences", "envmesh_tenant_quota",
    "envmesh_kubernetes_",  # tests/cluster read these, of an autoscaler on a cluster
)  # fmt: skip
"""What queries of the documentation ask that has no answer here."""

FAULTS = {
    "EnvmeshDrainPastDeadline": "a host is told to go with an episode that cannot leave",
    "EnvmeshEnvironmentFailing": "episodes of Faulty raise and crash",
    "EnvmeshEpisodesInterruptedByScaling": "a host is told to go with an episode that cannot leave",
    "EnvmeshEpisodePoisoned": "an episode ends every worker it is rebuilt in",
    "EnvmeshEpisodesLost": "a worker takes episodes of class NONE with it",
    "EnvmeshEventLoopLate": "an inline environment blocks",
    "EnvmeshFleetIncomplete": "a host is killed",
    "EnvmeshGroupsWithoutVariance": "Graded gives every episode the same return",
    "EnvmeshHostSilent": "a host is killed",
    "EnvmeshQueueOld": "somebody keeps the only slot that another waits for",
    "EnvmeshReplayDiverged": "Drifting is replayed",
    "EnvmeshResetsFailing": "resets of Faulty raise",
    "EnvmeshRewardConstant": "Graded gives every episode the same return",
    "EnvmeshRewardInvalid": "Graded calls every other grade invalid",
    "EnvmeshScrapeGone": "a host is killed, and comes back at another port",
    "EnvmeshSlotsStuck": "a thread sleeps on after its step's limit",
    "EnvmeshWorkersCrashing": "workers of Faulty crash",
}
"""The alerts that must fire, and the fault that each is about."""


def plan(name: str, target: str, hosts: int = 1, **settings: str) -> PoolPlan:
    target = (
        f"{name}=tests.environments.{target}"
        if ":" in target
        else f"{name}=tests.environments.faulty:{target}"
    )
    variables = {f"ENVMESH_HOST_{key.upper()}": value for key, value in settings.items()}
    return PoolPlan(name=name, targets=(target,), hosts=hosts, settings=variables)


def versioned(observation: Any) -> Act:
    versioned.calls += 1  # type: ignore[attr-defined]
    return Act("go", {"policy_version": versioned.calls // 40, "tokens": 3})  # type: ignore[attr-defined]


versioned.calls = 0  # type: ignore[attr-defined]


class Faults:
    """What goes wrong, again and again, while the mesh is looked at."""

    def __init__(self, local: LocalMesh, mesh: envmesh.Mesh, directory: Path) -> None:
        self.local, self.mesh, self.directory = local, mesh, directory
        self.rounds = 0

    async def load(self) -> None:
        """Good episodes, groups of one return, grades, checkpoints."""
        mesh = self.mesh
        async for _ in mesh.rollouts(
            "graded", versioned, episodes=160, group_size=4, concurrency=64, grade=True
        ):
            pass
        async with mesh.episode("kept") as episode:
            await episode.step("go")
            await episode.checkpoint()
            await episode.step("go")
            held = await episode.detach()
        async with await mesh.attach(held) as episode:
            await episode.step("go")

    async def tools(self) -> None:
        """Calls of tools that work, fail, and are none."""
        async with self.mesh.episode("desk") as episode:
            for by in (1, 0):
                await episode.step(Json({"name": "divide", "arguments": {"by": by}}))
            with contextlib.suppress(InvalidRequest):
                await episode.step(Json({"name": "shout"}))

    async def faulty(self) -> None:
        """Episodes that raise, crash their worker, and cannot begin."""
        for action in ("raise", "crash", "crash", "nan"):
            with contextlib.suppress(EnvmeshError):
                async with self.mesh.episode("faulty") as episode:
                    await episode.step("go")
                    await episode.step(action)
        async for trajectory in self.mesh.rollouts(
            "faulty", lambda observation: "go", episodes=24, concurrency=8, options={"fail": True}
        ):
            assert trajectory.failure is not None

    async def drifting(self) -> None:
        """A worker dies under an episode that says it can be replayed."""
        self.rounds += 1
        with contextlib.suppress(EnvmeshError):
            async with self.mesh.episode("drifting") as episode:
                await episode.step("go")
                await episode.step(f"crash {self.directory / str(self.rounds)}")

    async def fatal(self) -> None:
        """An episode ends whatever worker it is in; another holds up its host's event loop."""
        with contextlib.suppress(EnvmeshError):
            async with self.mesh.episode("fatal") as episode:
                await episode.step("exit")
        with contextlib.suppress(EnvmeshError):
            async with self.mesh.episode("slow") as episode:
                for _ in range(5):
                    await episode.step("slow 0.6")

    async def too_many(self) -> None:
        """More slots are asked for than there are, and what nobody serves."""
        with contextlib.suppress(EnvmeshError):
            async with self.mesh.episode("nobody"):
                pass
        with contextlib.suppress(EnvmeshError):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(3):
                    await stack.enter_async_context(self.mesh.episode("small", timeout=0.5))

    async def never_ends(self) -> None:
        """A step overruns its limit in a thread, which nothing can end."""
        with contextlib.suppress(EnvmeshError):
            async with self.mesh.episode("stuck") as episode:
                await episode.step("sleep")

    async def keep_waiting(self) -> None:
        """Somebody keeps the only slot of a pool, and another waits for it."""
        async with self.mesh.episode("tight"), self.mesh.episode("tight", timeout=300.0):
            pass

    async def kill_a_host(self) -> None:
        """One dies without a word, another is told to go while an episode of class NONE is on it."""
        hosts = {child.name: child for child in self.local.hosts}
        async with self.mesh.episode("graded") as episode:
            await episode.step("go")
            address = episode.place[0].connection.address
            next(child for child in hosts.values() if child.address == address).crash()
            await episode.step("go")
        async with self.mesh.episode("faulty") as episode:
            await episode.step("go")
            process = hosts["faulty-1"].process_id
            assert process is not None
            os.kill(process, signal.SIGTERM)
            assert await eventually(lambda: gone(hosts["faulty-1"]), 20), "the host did not go"

    async def run(self) -> None:
        await self.never_ends()
        while True:
            await self.load()
            await self.tools()
            await self.faulty()
            await self.drifting()
            await self.fatal()
            await self.too_many()


@contextlib.asynccontextmanager
async def watched_mesh(directory: Path) -> AsyncIterator[tuple[Prometheus, Faults]]:
    """A mesh under load and faults, its trainer's metrics, and a Prometheus that has seen them for a while."""
    plans = [
        plan("graded", "Graded", hosts=2), plan("kept", "Kept"), plan("drifting", "Drifting"),
        plan("faulty", "Faulty", drain_deadline="3s"), plan("small", "Graded", slots="2"),
        plan("stuck", "misbehaving:MisbehavingInThread"), plan("tight", "Graded", slots="1"),
        plan("desk", "tools:Desk"), plan("fatal", "fatal:FatalInWorker"), plan("slow", "fatal:Patient"),
    ]  # fmt: skip
    async with (
        LocalMesh(plans) as local,
        envmesh.connect(local.address) as mesh,
        trainer_metrics(mesh) as trainer,
        prometheus(directory, {**local.metrics, "trainer": trainer}, ALERTS) as here,
        asyncio.TaskGroup() as group,
    ):
        faults = Faults(local, mesh, directory)
        running = [group.create_task(work) for work in (faults.run(), faults.keep_waiting())]
        yield here, faults
        for task in running:
            task.cancel()


async def eventually(condition: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """The first result that is true, or the last."""
    result = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                result = await condition()
                if result:
                    break
                await asyncio.sleep(0.2)
    return result


async def gone(child: Child) -> bool:
    """Whether a child has ended and was started again."""
    return child.starts > 1


async def test_every_expression_names_what_the_code_registers():
    known = await names() | set(records())
    everything = {**expressions(), **records(), **{name: rule["expr"] for name, rule in alerts().items()}}
    assert len(everything) > 100
    for where, expression in everything.items():
        assert metrics_of(expression), where
        assert metrics_of(expression) - known == set(), where


async def test_expressions_bring_data_and_faults_fire_alerts(tmp_path):
    async with watched_mesh(tmp_path) as (here, faults):

        async def played() -> bool:
            return bool(await here.query("sum(increase(envmesh_client_groups_total[1m])) > 100"))

        assert await eventually(played, 60), "no load arrives"
        await faults.kill_a_host()
        missing: list[str] = []
        shown = {
            where: expression for where, expression in expressions().items()
            if not of_autoscaler(expression) and "annotation" not in where and where.split(": ")[1] not in NO_DATA
        }  # fmt: skip
        shown |= {
            where: f"last_over_time(({expression})[10m:1s])" for where, expression in expressions().items()
            if not of_autoscaler(expression) and "annotation" in where  # what was marked at some time
        }  # fmt: skip

        async def all_there() -> bool:
            missing[:] = [where for where, expression in shown.items() if not await here.query(expression)]
            missing[:] += [
                query for query in queries()
                if not of_autoscaler(query) and not any(name in query for name in (*NO_ANSWER, " == 0", " > 0"))
                and not await here.query(query)
            ]  # fmt: skip
            missing[:] += [name for name, expression in records().items() if not await here.query(name)]
            return not missing

        fired: set[str] = set()

        async def all_fired() -> bool:
            fired.update(await here.firing())
            return fired >= FAULTS.keys()

        async def broker_gone() -> bool:
            return "EnvmeshBrokerGone" in await here.firing()

        assert await eventually(all_there, 60), f"without data: {missing}"
        assert await eventually(all_fired, 90), f"did not fire: {sorted(FAULTS.keys() - fired)}"
        for where, expression in expressions().items():
            await here.query(expression)  # raises where it does not parse
            assert where
        groups = (await here.ask("rules"))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == len(alerts()) + len(records())
        assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
        targets = (await here.ask("targets"))["activeTargets"]
        up = {target["labels"]["pod"] for target in targets if target["health"] == "up"}
        assert {"broker", "trainer", "kept-1", "drifting-1"} <= up
        faults.local.broker.crash()  # it comes back, its metrics at another port
        assert await eventually(broker_gone, 30)
