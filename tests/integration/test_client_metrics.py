"""What a client's own metrics say of its rollouts."""

from typing import Any

import envmesh
from envmesh.errors import Failure
from envmesh.metrics import ClientMetrics
from envmesh.outcome import EnvironmentSpec, Trajectory
from tests.integration.command_line import Running
from tests.integration.told_hosts import ToldMesh


def live_episodes(metrics: ClientMetrics) -> float:
    (sample,) = [
        sample
        for family in metrics.collect()
        if family.name == "envmesh_client_live_episodes"
        for sample in family.samples
    ]
    return float(sample.value)


async def test_live_episodes_are_those_of_open_rollouts_and_nothing_else(host: Running):
    async with envmesh.connect(host.address) as mesh:
        metrics = ClientMetrics(mesh)
        rollouts = mesh.rollouts("cartpole", lambda observation: 1, episodes=20, concurrency=4)
        async for _ in rollouts:
            assert live_episodes(metrics) == len(rollouts.live)
        assert mesh.pool("cartpole").bindings_on(*mesh.open_connections())
        assert live_episodes(metrics) == 0, "its leases are no episodes"
        async with mesh.vector("cartpole", 2) as vector, mesh.episode("cartpole"):
            await vector.reset()
            assert live_episodes(metrics) == 0, "neither is what is played by hand"


async def test_a_group_counts_where_there_are_returns_to_compare():
    async with ToldMesh() as mesh:
        metrics, spec = ClientMetrics(mesh), EnvironmentSpec(mesh.info)

        def group_of(*returns: float | None) -> list[Trajectory]:
            members = []
            for value in returns:
                member = Trajectory(spec, b"", seed=1, options=None)
                member.fill([(b"", 0.0, 0, 0, b""), (b"", value or 0.0, 1, 0, b"")], [b""])
                member.failure = Failure.of("ENVIRONMENT_RAISED", "fell") if value is None else None
                members.append(member)
            return members

        for group in (
            group_of(None, None),
            group_of(1.0, None),
            group_of(1.0, 1.0, None),
            group_of(1.0, 2.0),
        ):
            metrics.grouped(group)
        counted = {
            sample.labels["variance"]: sample.value
            for family in metrics.collect()
            if family.name == "envmesh_client_groups"
            for sample in family.samples
        }
    assert counted == {"zero": 1.0, "some": 1.0}


class Clock:
    """An event loop's time, as the test has it."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def call_later(self, *_: Any) -> Any:
        return self

    def cancel(self) -> None:
        pass


async def test_each_slot_has_been_waited_for_since_it_was_asked_for():
    waited: list[float] = []
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        mesh.meters = ClientMetrics(mesh)
        mesh.meters.slot_came = waited.append  # type: ignore[method-assign, assignment]
        rollouts = mesh.rollouts("walk@1", lambda observation: 1)
        run, clock = rollouts._run, Clock()
        run._loop, run._closed = clock, True  # type: ignore[assignment]
        for clock.now in (1.0, 5.0):
            run._want(1)
        clock.now = 7.0
        for _ in range(2):
            run._slot_came(await mesh.slot(host))
    assert waited == [6.0, 2.0]
