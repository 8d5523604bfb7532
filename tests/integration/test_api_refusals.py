"""An API server that throttles, conflicts, or tells old news: nothing blocks, it is asked again, and counted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from envmesh_autoscaler.backends import BackendRefused
from envmesh_autoscaler.backends.kubernetes import KubernetesBackend
from envmesh_autoscaler.backends.leader import Leadership
from envmesh_autoscaler.pools import ScaledPool
from envmesh_service.clock import monotonic, wall
from envmesh_service.kubernetes_api import ApiRefused, ClusterApi
from tests.integration.api_stand_in import DEPLOYMENTS, PODS, StandIn, api_server, deployment, pod
from tests.integration.closed_parts import until

POOL = ScaledPool(name="walk", environments=("walk@1",))
SCALE = f"{DEPLOYMENTS}/walk/scale"


class Leads(Leadership):
    """Leads without a Lease, which is not what is looked at here."""

    @property
    def leading(self) -> bool:
        return True

    async def run(self) -> None:
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def backend(
    tmp_path, *pods, refusals=()
) -> AsyncIterator[tuple[StandIn, ClusterApi, KubernetesBackend]]:
    """A backend that has seen a Deployment of two and its pods. ``refusals`` meet its first lists of pods."""
    with api_server(tmp_path) as (server, kubeconfig):
        server.refusals["GET", PODS] = list(refusals)
        server.put(f"{DEPLOYMENTS}/walk", deployment("walk", 2))
        for each in pods or (pod("a", "walk"), pod("b", "walk")):
            server.put(f"{PODS}/{each['metadata']['name']}", each)
        api = ClusterApi.connect(kubeconfig)
        made = KubernetesBackend(
            api, "rl", lambda changed: Leads(api, "rl", "l", "me", monotonic, changed), monotonic, wall
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(made.run(), name="backend")
            await until(lambda: made.leading)
            yield server, api, made
            server.closing.set()
            running.cancel()


def test_a_call_that_is_throttled_returns_at_once_and_says_for_how_long(tmp_path):
    with api_server(tmp_path) as (server, kubeconfig):
        server.refusals["GET", PODS] = [(429, 20), (503, 0)]
        api = ClusterApi.connect(kubeconfig)
        for status, wait in ((429, 20.0), (503, 0.0)):
            with pytest.raises(ApiRefused) as refused:
                api.raw("GET", PODS)
            assert (refused.value.status, refused.value.retry_after) == (status, wait)
        assert server.calls == [("GET", PODS)] * 2
        assert api.raw("GET", PODS)["items"] == []
        assert api.calls == {("GET", "pods"): 3}
        assert api.refusals == {("GET", "pods", "429"): 1, ("GET", "pods", "503"): 1}


async def test_a_throttled_raise_is_refused_with_the_pause_and_passes_when_it_is_made_again(tmp_path):
    async with backend(tmp_path) as (server, api, made):
        server.refusals["PUT", SCALE] = [(429, 7)]
        with pytest.raises(BackendRefused, match="HTTP 429") as refused:
            await made.scale(POOL, 5, ())
        assert refused.value.retry_after == 7.0
        await made.scale(POOL, 5, ())
        assert server.objects[f"{DEPLOYMENTS}/walk"]["spec"]["replicas"] == 5
        assert api.refusals == {("PUT", "deployments/scale", "429"): 1}


async def test_a_raise_passes_though_the_status_has_changed_and_not_though_somebody_else_scaled(tmp_path):
    async with backend(tmp_path) as (server, _, made):
        server.put(f"{DEPLOYMENTS}/walk", deployment("walk", 2))  # the watch has not told it yet
        await made.scale(POOL, 4, ())
        assert server.objects[f"{DEPLOYMENTS}/walk"]["spec"]["replicas"] == 4
        server.put(f"{DEPLOYMENTS}/walk", deployment("walk", 9))
        with pytest.raises(BackendRefused, match="somebody else set replicas to 9"):
            await made.scale(POOL, 6, ())
        assert server.objects[f"{DEPLOYMENTS}/walk"]["spec"]["replicas"] == 9


async def test_what_was_watched_is_not_trusted_when_hosts_are_counted_out(tmp_path):
    async with backend(tmp_path, pod("a", "walk"), pod("b", "walk", sealed=True)) as (server, _, made):
        server.put(f"{PODS}/b", pod("b", "walk"))  # it was unsealed, and the watch has not told it
        with pytest.raises(BackendRefused, match="the pod b is Ready and not sealed"):
            await made.scale(POOL, 1, ["b"])
        server.put(f"{PODS}/b", pod("b", "walk", sealed=True))
        server.put(f"{DEPLOYMENTS}/walk", deployment("walk", 3))
        with pytest.raises(BackendRefused, match="somebody else set replicas to 3"):
            await made.scale(POOL, 1, ["b"])
        assert ("PUT", SCALE) not in server.calls
        server.put(f"{DEPLOYMENTS}/walk", deployment("walk", 2))
        await made.scale(POOL, 1, ["b"])
        assert server.objects[f"{DEPLOYMENTS}/walk"]["spec"]["replicas"] == 1


async def test_a_plan_that_was_made_of_another_number_of_replicas_is_not_carried_out(tmp_path):
    async with backend(tmp_path, pod("a", "walk"), pod("b", "walk", sealed=True)) as (server, _, made):
        for replicas, gone in ((0, ["b"]), (1, []), (2, ["b"])):  # there are two
            with pytest.raises(BackendRefused, match="somebody else set replicas to 2"):
                await made.scale(POOL, replicas, gone)
        assert ("PUT", SCALE) not in server.calls


async def test_a_pod_that_goes_while_it_is_marked_does_not_come_back(tmp_path):
    async with backend(tmp_path) as (server, _, made):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(made.mark(POOL, ["b"]), name="mark")
            await asyncio.sleep(0)  # it is under way
            made._pods._take("DELETED", server.objects[f"{PODS}/b"])
        assert ("PATCH", f"{PODS}/b") in server.calls
        seen = made.observe(POOL, monotonic())
        assert seen is not None
        assert [instance.host_id for instance in seen.instances] == ["a"]


async def test_a_list_that_is_refused_is_asked_for_again(tmp_path):
    async with backend(tmp_path, refusals=[(500, 0), (429, 1)]) as (_, api, made):
        seen = made.observe(POOL, monotonic())
        assert seen is not None
        assert seen.replicas == 2
        assert not seen.hold
        assert api.refusals == {("GET", "pods", "500"): 1, ("GET", "pods", "429"): 1}
