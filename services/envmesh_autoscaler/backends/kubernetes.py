"""Pools as Deployments: their ``/scale``, their pods' marks, and the Lease of the leader.

Nothing here grows with episodes: a host costs one PATCH when its drain begins and one when it has sealed itself, a
decision costs at most four calls, and the Lease one or two every second and a half.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from envmesh_autoscaler.backends import BackendRefused
from envmesh_autoscaler.backends import pods as kube
from envmesh_autoscaler.backends.events import Events
from envmesh_autoscaler.backends.leader import Leadership
from envmesh_autoscaler.backends.reflector import Collection
from envmesh_autoscaler.observation import Observation
from envmesh_autoscaler.pools import ScaledPool
from envmesh_service.clock import Clock
from envmesh_service.kubernetes_api import ApiRefused, ClusterApi

__all__ = ["KubernetesBackend"]

log = logging.getLogger("envmesh.autoscaler")

STALE_SECONDS = 45.0
GOING_SECONDS = 15.0
"""So long those that were counted out may take to be terminating; then others went in their place."""
PATCHES_AT_ONCE = 10


@dataclass(slots=True)
class _Meant:
    """What was counted out, and when."""

    hosts: set[str]
    at: float


@dataclass(slots=True)
class _State:
    """What is remembered of a pool."""

    meant: list[_Meant] = field(default_factory=list)
    marks: dict[str, tuple[Any, float]] = field(default_factory=dict)
    """By host: its marks, and since when they have been seen so."""


class KubernetesBackend:
    """Scales Deployments of one namespace."""

    def __init__(
        self,
        api: ClusterApi,
        namespace: str,
        leadership: Callable[[Callable[[], None]], Leadership],
        clock: Clock,
        wall: Clock,
        *,
        instance: str = "envmesh-autoscaler",
        mismatched: Callable[[str, int], None] = lambda pool, count: None,
    ) -> None:
        self._events = Events(api, namespace, instance, clock, wall)
        self._api, self._namespace, self._clock, self._wall = api, namespace, clock, wall
        self._mismatched = mismatched
        self.changed = asyncio.Event()
        core, apps = f"/api/v1/namespaces/{namespace}", f"/apis/apps/v1/namespaces/{namespace}"
        self._deployments_path, self._pods_path = f"{apps}/deployments", f"{core}/pods"
        self._deployments = Collection(api, self._deployments_path, self.changed.set, clock)
        self._pods = Collection(api, self._pods_path, self.changed.set, clock)
        self._nodes = Collection(api, "/api/v1/nodes", self.changed.set, clock, optional=True)
        self._leadership = leadership(self.changed.set)
        self._states: dict[str, _State] = {}
        self._patches = asyncio.Semaphore(PATCHES_AT_ONCE)

    @property
    def leading(self) -> bool:
        """Whether we hold the Lease and have seen everything once."""
        return self._leadership.leading and all(
            each.synced for each in (self._deployments, self._pods, self._nodes)
        )

    async def run(self) -> None:
        """Watch, and hold the Lease or wait for it."""
        async with asyncio.TaskGroup() as tasks:
            for each in (self._deployments, self._pods, self._nodes):
                tasks.create_task(each.follow(), name=f"watch {each.path}")
            tasks.create_task(self._leadership.run(), name="lease")

    # ---- seeing

    def observe(self, pool: ScaledPool, now: float) -> Observation | None:
        """The pool's Deployment and its pods."""
        deployment = self._deployments.objects.get(pool.target)
        if deployment is None or not self._pods.synced:
            return None
        state = self._states.setdefault(pool.name, _State())
        owned = [pod for pod in self._pods.objects.values() if kube.matches(deployment, pod)]
        live = {pod["metadata"]["uid"]: pod for pod in owned if kube.is_live(pod)}
        self._follow_meant(pool, state, live, now)
        meant = {host for each in state.meant for host in each.hosts}
        staying = {uid: pod for uid, pod in live.items() if uid not in meant}
        state.marks = {uid: self._marked(state, uid, pod, now) for uid, pod in staying.items()}
        wall = self._wall()
        instances = tuple(
            kube.instance_of(
                pod,
                self._nodes.objects.get(pod["spec"].get("nodeName", "")),
                wall,
                now - state.marks[uid][1],
            )
            for uid, pod in staying.items()
        )
        stranded = [instance.host_id for instance in instances if instance.stranded]
        oldest = max(each.age(now) for each in (self._deployments, self._pods, self._nodes))
        said = deployment["metadata"].get("annotations", {})
        return Observation(
            replicas=deployment["spec"]["replicas"],
            instances=instances,
            going=frozenset(pod["metadata"]["uid"] for pod in owned) - staying.keys(),
            unsettled=kube.unsettled(deployment, staying.values(), stranded),
            hold=f"the API server was last heard {oldest:.0f} s ago" if oldest > STALE_SECONDS else "",
            paused=said.get(kube.PAUSED) == "true",
            dry_run=said.get(kube.DRY_RUN) == "true",
            refused=kube.creation_refused(deployment),
        )

    def _marked(self, state: _State, uid: str, pod: Mapping[str, Any], now: float) -> tuple[Any, float]:
        meta = pod["metadata"]
        marks = (meta.get("annotations", {}).get(kube.DELETION_COST), meta.get("labels", {}).get(kube.SEALED))
        before = state.marks.get(uid)
        return before if before is not None and before[0] == marks else (marks, now)

    def _follow_meant(self, pool: ScaledPool, state: _State, live: Mapping[str, Any], now: float) -> None:
        """Compare those that went with those that were meant."""
        for each in state.meant:
            each.hosts &= live.keys()
            if each.hosts and now - each.at > GOING_SECONDS:
                log.error(
                    "others went than were meant", extra={"pool": pool.name, "stayed": sorted(each.hosts)}
                )
                self._mismatched(pool.name, len(each.hosts))
                each.hosts.clear()
        state.meant = [each for each in state.meant if each.hosts]

    # ---- acting

    async def mark(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """These go first. Raises: BackendRefused."""
        await self._patch(hosts, kube.mark_patch())

    async def unmark(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """These are protected again. Raises: BackendRefused."""
        await self._patch(hosts, kube.unmark_patch())

    async def seal(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """These go before all others, and may be evicted. Raises: BackendRefused."""
        await self._patch(hosts, kube.seal_patch(self._wall()))

    async def tend(self, pool: ScaledPool) -> None:
        """Pace a roll: pause it while more hosts drain than the pool's budget. Raises: BackendRefused."""
        deployment = self._deployments.objects.get(pool.target)
        if deployment is None:
            return
        owned = (pod for pod in self._pods.objects.values() if kube.matches(deployment, pod))
        pause = kube.roll_pace(deployment, owned, pool.drain_budget)
        if pause is not None:
            log.info("the roll pauses" if pause else "the roll goes on", extra={"pool": pool.name})
            path = f"{self._deployments_path}/{quote(pool.target)}"
            patch = kube.roll_patch(pause)
            changed = await self._call("PATCH", path, patch, content="application/merge-patch+json")
            self._deployments.answered(pool.target, changed)

    async def scale(self, pool: ScaledPool, replicas: int, gone: Sequence[str]) -> None:
        """Write ``/scale``. Raises: BackendRefused: somebody else was first, or it is not sure who would go."""
        deployment = self._deployments.objects.get(pool.target)
        if deployment is None:
            raise BackendRefused(f"there is no Deployment {pool.target}")
        before = deployment["spec"]["replicas"]
        if max(0, before - replicas) != len(gone):  # the plan was made of another number, and more would go
            raise BackendRefused(f"somebody else set replicas to {before}")
        path = f"{self._deployments_path}/{quote(pool.target)}/scale"
        if replicas < before:
            deployment = await self._judge(pool, deployment, gone)
        body = _scale(deployment, self._namespace, replicas)
        try:
            written = await self._call("PUT", path, body)
        except BackendRefused as refused:
            if replicas < before or not str(refused).endswith("(HTTP 409)"):
                raise
            body = await self._call("GET", path)  # its status changes often; what we asked for is what counts
            if body["spec"].get("replicas", 0) != before:
                raise BackendRefused(
                    f"somebody else set replicas to {body['spec'].get('replicas', 0)}"
                ) from None
            body["spec"]["replicas"] = replicas
            written = await self._call("PUT", path, body)
        if gone:
            self._states.setdefault(pool.name, _State()).meant.append(_Meant(set(gone), self._clock()))

        def change(known: dict[str, Any]) -> None:
            if known["spec"]["replicas"] == replicas:
                return  # the watch was faster
            known["spec"]["replicas"] = replicas
            known["metadata"]["generation"] += 1
            known["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"]

        self._deployments.replaced(pool.target, change)

    async def announce(self, pool: ScaledPool, before: int, replicas: int, reason: str) -> None:
        """As an Event of the Deployment."""
        deployment = self._deployments.objects.get(pool.target)
        if deployment is not None:
            what, action = ("ScaledUp", "ScaleUp") if replicas > before else ("ScaledDown", "ScaleDown")
            await self._events.tell(deployment, what, action, f"from {before} to {replicas} hosts: {reason}")

    async def _judge(
        self, pool: ScaledPool, known: Mapping[str, Any], gone: Sequence[str]
    ) -> Mapping[str, Any]:
        """Look afresh before lowering: exactly those that were meant must be the ones to go. Returns the Deployment."""
        selector = ",".join(f"{k}={v}" for k, v in known["spec"]["selector"]["matchLabels"].items())
        deployment = await self._call("GET", f"{self._deployments_path}/{quote(pool.target)}")
        listed = await self._call("GET", f"{self._pods_path}?labelSelector={quote(selector)}")
        if deployment["spec"]["replicas"] != known["spec"]["replicas"]:
            raise BackendRefused(f"somebody else set replicas to {deployment['spec']['replicas']}")
        live = [pod for pod in listed["items"] if kube.matches(deployment, pod) and kube.is_live(pod)]
        if why := kube.unsettled(deployment, live, gone):
            raise BackendRefused(why)
        by_id = {pod["metadata"]["uid"]: pod for pod in live}
        for uid in gone:
            pod = by_id.get(uid)
            if pod is None:
                raise BackendRefused(f"the pod {uid} is gone already")
            if kube.is_ready(pod) and pod["metadata"].get("labels", {}).get(kube.SEALED) != "true":
                raise BackendRefused(f"the pod {pod['metadata']['name']} is Ready and not sealed")
        last = max((kube.deletion_cost(by_id[uid]) for uid in gone if kube.is_ready(by_id[uid])), default=0)
        others = [pod for uid, pod in by_id.items() if uid not in gone]
        if last and (before := sum(kube.deletion_cost(pod) <= last for pod in others)):
            raise BackendRefused(f"{before} other pods could go in their place")
        return deployment  # type: ignore[no-any-return]

    async def _patch(self, hosts: Sequence[str], patch: Mapping[str, Any]) -> None:
        names = {p["metadata"]["uid"]: p["metadata"]["name"] for p in self._pods.objects.values()}

        async def one(host_id: str) -> None:
            name = names.get(host_id)
            if name is None:
                raise BackendRefused(f"the pod {host_id} is gone already")
            async with self._patches:
                body = {**patch, "metadata": {**patch["metadata"], "uid": host_id}}
                changed = await self._call(
                    "PATCH", f"{self._pods_path}/{quote(name)}", body, content="application/merge-patch+json"
                )
            self._pods.answered(name, changed)

        done = await asyncio.gather(*(one(host_id) for host_id in hosts), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result

    async def _call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        try:
            return await asyncio.to_thread(self._api.raw, method, path, body, **more)
        except ApiRefused as error:
            raise BackendRefused(str(error), error.retry_after) from None


def _scale(deployment: Mapping[str, Any], namespace: str, replicas: int) -> dict[str, Any]:
    meta = deployment["metadata"]
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {
            "name": meta["name"],
            "namespace": namespace,
            "resourceVersion": meta["resourceVersion"],
        },
        "spec": {"replicas": replicas},
    }
