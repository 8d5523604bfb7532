"""Scaling policies, each as its documentation describes it: ours, and what others would use.

Sources: the Kubernetes documentation of HorizontalPodAutoscaler (15 s sync, 10 % tolerance, scale-up by the larger of 4
pods or 100 % per 15 s, scale-down stabilization 300 s); Knative's KPA (2 s ticks, 60 s stable and 6 s panic window,
panic at 200 %, target 70 %, 30 s grace before zero); Agones' FleetAutoscaler buffer (30 s sync; it never deletes what
is allocated); Ray Serve's autoscaling (upscale delay 30 s, downscale delay 600 s, 30 s look-back, 10 s ticks).
"""

import math
from collections import deque
from typing import Any

from benchmarks.scaling.model import Cluster
from envmesh_autoscaler.demand import Demand, PoolPolicy
from envmesh_autoscaler.observation import FleetHost, Instance, Observation, PoolRecord, Waits
from envmesh_autoscaler.plan import Phase, Planner, PoolFacts, hold_reason


class Envmesh:
    """Ours: the code that runs, with the modelled cluster for broker and backend. Episodes that could move stay."""

    def __init__(self, **policy):
        self.settings = policy
        self.name = "envmesh" + "".join(f" {key}={value:g}" for key, value in policy.items())
        self.record = PoolRecord()
        self.demand = self.planner = None
        self.next = 0.0
        self.waited = False

    def act(self, cluster: Cluster) -> None:
        now = cluster.now
        if self.demand is None:
            policy = PoolPolicy(max_hosts=cluster.trace.max_hosts, slots=cluster.trace.slots, **self.settings)
            self.demand, self.planner = Demand(policy, now, idle=True), Planner(policy)
        queued = bool(cluster.queue)
        self.waited = queued and self.waited
        if now < self.next and (not queued or self.waited):
            return
        self.waited = queued
        self.next = now + 1.0
        hosts, instances = {}, []
        for host in cluster.hosts:
            name, ready = str(host.number), host.ready_at <= now
            if ready:
                phase = (Phase.DRAINING if host.used else Phase.SEALED) if host.draining else Phase.READY
                hosts[name] = FleetHost(
                    host_id=name,
                    pool="pool",
                    name=name,
                    phase=phase,
                    slots=host.slots,
                    in_use=host.used,
                    idle=0,
                    ended=0,
                )
            instances.append(
                Instance(
                    host_id=name,
                    ready=ready,
                    ours=host.ours,
                    leaving=host.leaving,
                    start_seconds=host.ready_at - host.born if ready else None,
                )
            )
        starting = any(not instance.ready for instance in instances)
        seen = Observation(replicas=cluster.replicas, instances=tuple(instances))
        waits = Waits(admissible=len(cluster.queue), oldest=cluster.oldest)
        self.record.starts.follow(seen.instances)
        signals = self.record.signals(hosts, seen, waits, 0, now)
        hold = hold_reason(
            complete=True,
            age=0.0,
            uptime=1e9,
            leading=1e9,
            look_back=0.0,
            disagreement=0.0,
            oldest=cluster.oldest,
        )
        facts, _ = self.record.facts(hosts, seen, now)
        terms = self.demand.terms(signals, now)
        unsettled = "hosts start" if starting else ""
        pool = PoolFacts(replicas=cluster.replicas, hosts=facts, hold=hold, unsettled=unsettled)
        plan = self.planner.plan(terms, pool, now)
        by_name = {str(host.number): host for host in cluster.hosts}
        for name in plan.drain:
            by_name[name].draining, by_name[name].ours, by_name[name].cost = True, True, -1
        for name in plan.take_back:
            by_name[name].draining, by_name[name].cost = False, 0
        for name in plan.count_out:
            by_name[name].cost = -2
        if plan.replicas != cluster.replicas:
            gone = cluster.scale(plan.replicas)
            assert {str(host.number) for host in gone} == set(plan.count_out), "others went than were meant"


class Hpa:
    """The HorizontalPodAutoscaler, on CPU (what is in use) or on sessions (what is in use or waits)."""

    def __init__(self, signal: str, target: float = 0.8):
        self.signal, self.target = signal, target
        self.name = f"hpa {signal} {target:.0%}"
        self.next = 0.0
        self.wishes: deque[tuple[float, int]] = deque()

    def act(self, cluster: Cluster) -> None:
        now = cluster.now
        if now < self.next:
            return
        self.next = now + 15.0
        replicas = cluster.replicas
        if not replicas:
            cluster.scale(1)
            return
        slots = cluster.trace.slots
        ready = len(cluster.ready)
        load = cluster.in_use + (len(cluster.queue) if self.signal == "sessions" else 0)
        if self.signal == "cpu":
            ratio = load / (max(ready, 1) * slots) / self.target
            wish = replicas if abs(ratio - 1) <= 0.1 else math.ceil(ready * ratio)
            wish = max(wish, replicas) if ratio > 0.9 and ready < replicas else wish
        else:
            ratio = load / (replicas * slots * self.target)
            wish = replicas if abs(ratio - 1) <= 0.1 else math.ceil(load / (slots * self.target))
        wish = max(1, wish)
        self.wishes.append((now, wish))
        while self.wishes[0][0] < now - 300.0:
            self.wishes.popleft()
        if wish < replicas:
            wish = min(replicas, max(wish for _, wish in self.wishes))
        else:
            wish = min(wish, max(replicas + 4, replicas * 2))
        if wish != replicas:
            cluster.scale(wish)


class Kpa:
    """Knative's pod autoscaler, on concurrency."""

    def __init__(self, target: float = 0.7):
        self.target, self.name = target, f"knative {target:.0%}"
        self.next = 0.0
        self.samples: deque[tuple[float, float]] = deque()
        self.panic_until, self.panic_replicas = -1.0, 0
        self.zero_since: float | None = None

    def act(self, cluster: Cluster) -> None:
        now = cluster.now
        self.samples.append((now, cluster.in_use + len(cluster.queue)))
        while self.samples[0][0] < now - 60.0:
            self.samples.popleft()
        if now < self.next:
            return
        self.next = now + 2.0
        slots, ready = cluster.trace.slots * self.target, max(len(cluster.ready), 1)
        stable = sum(value for _, value in self.samples) / len(self.samples)
        recent = [value for when, value in self.samples if when > now - 6.0]
        panic = sum(recent) / len(recent)
        wish = math.ceil(stable / slots)
        wish_panic = math.ceil(panic / slots)
        if wish_panic / ready >= 2.0:
            self.panic_until = now + 60.0
        if now < self.panic_until:
            self.panic_replicas = wish = max(self.panic_replicas, wish_panic, wish)
        else:
            self.panic_replicas = 0
        wish = max(wish, ready // 2)
        if wish == 0:
            self.zero_since = now if self.zero_since is None else self.zero_since
            wish = 1 if now - self.zero_since < 30.0 and cluster.replicas else 0
        else:
            self.zero_since = None
        if wish != cluster.replicas:
            cluster.scale(wish)


class Agones:
    """Agones' buffer: so many hosts' worth of free slots; what is allocated is never deleted."""

    def __init__(self, buffer: int = 5):
        self.buffer, self.name = buffer, f"agones {buffer}"
        self.next = 0.0

    def act(self, cluster: Cluster) -> None:
        if cluster.now < self.next:
            return
        self.next = cluster.now + 30.0
        taken = sum(host.used > 0 for host in cluster.hosts)
        for host in cluster.hosts:
            host.cost = int(host.used > 0)
        wish = taken + self.buffer
        if wish < cluster.replicas:
            wish = max(wish, taken + sum(host.ready_at > cluster.now for host in cluster.hosts))
        cluster.scale(wish)


class RayServe:
    """Ray Serve's policy, on ongoing requests a replica; it removes those with the fewest first."""

    def __init__(self, target: float = 0.4):
        self.target, self.name = target, f"ray serve {target:.0%}"
        self.next = 0.0
        self.samples: deque[tuple[float, float]] = deque()
        self.up_since: float | None = None
        self.down_since: float | None = None

    def act(self, cluster: Cluster) -> None:
        now = cluster.now
        self.samples.append((now, cluster.in_use + len(cluster.queue)))
        while self.samples[0][0] < now - 30.0:
            self.samples.popleft()
        if now < self.next:
            return
        self.next = now + 10.0
        load = sum(value for _, value in self.samples) / len(self.samples)
        wish = max(1, math.ceil(load / (cluster.trace.slots * self.target)))
        replicas = cluster.replicas
        if not replicas:
            cluster.scale(1)
        self.up_since = (self.up_since if self.up_since is not None else now) if wish > replicas else None
        self.down_since = (
            (self.down_since if self.down_since is not None else now) if wish < replicas else None
        )
        up = self.up_since is not None and now - self.up_since >= 30.0
        down = self.down_since is not None and now - self.down_since >= 600.0
        if up or down:
            for host in cluster.hosts:
                host.cost = host.used
            cluster.scale(wish)
            self.up_since = self.down_since = None


RIVALS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "hpa cpu": (lambda target: Hpa("cpu", target), (0.8, 0.3, 0.5, 0.65, 0.9)),
    "hpa sessions": (lambda target: Hpa("sessions", target), (0.8, 0.5, 0.65, 0.9, 1.0)),
    "knative": (Kpa, (0.7, 0.3, 0.5, 0.85, 1.0)),
    "agones": (Agones, (5, 1, 2, 10, 20)),
    "ray serve": (RayServe, (0.4, 0.25, 0.6, 0.8, 1.0)),
}
"""By name: how to make it, and its settings, the published default (or the usual example) first."""
