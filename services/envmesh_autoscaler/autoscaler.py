"""The autoscaler's loop: look at the fleet and at the backend, plan, act."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from envmesh_autoscaler.backends import Backend, BackendRefused
from envmesh_autoscaler.demand import Demand, Terms
from envmesh_autoscaler.fleet import LOOK_SECONDS, Fleet
from envmesh_autoscaler.meters import Meters, PoolView
from envmesh_autoscaler.observation import (
    FleetHost,
    Observation,
    PoolRecord,
    serving_though_marked,
    vanished_hosts,
)
from envmesh_autoscaler.plan import HostFacts, Phase, Plan, Planner, PoolFacts, allot, answer, hold_reason
from envmesh_autoscaler.pools import ScaledPool
from envmesh_service.clock import Clock

__all__ = ["Autoscaler", "Fleet"]

log = logging.getLogger("envmesh.autoscaler")

REFUSED_SECONDS = 0.25


@dataclass(slots=True)
class _Pool:
    """A pool and what is remembered of it while this process leads."""

    settings: ScaledPool
    record: PoolRecord
    planner: Planner
    since: float
    """When this began to be remembered: nothing is lowered on the word of a look-back that is not over."""
    demand: Demand | None = None
    said: str = ""
    refused: bool = False
    drained_at: dict[str, float] | None = None
    left_out: set[str] | None = None
    """Sealed hosts that an answer to KEDA left out; a new leader takes every sealed one for such. None: not known."""
    not_before: float = float("-inf")
    """After a refusal nothing is done for a moment: what was refused may be so still."""

    def follow(self, settings: ScaledPool) -> bool:
        """Scale it so from now on. False: these settings are about other hosts or other demand, and what is remembered
        says nothing of it."""
        if (settings.environments, settings.target) != (self.settings.environments, self.settings.target):
            return False
        self.settings, self.planner.policy = settings, settings.policy
        if self.demand is not None:
            self.demand.policy = settings.policy
        if settings.mode != "keda":
            self.left_out = None
        return True


@dataclass(frozen=True, slots=True)
class _Look:
    pool: _Pool
    seen: Observation
    facts: PoolFacts
    terms: Terms
    plan: Plan
    vanished: tuple[str, ...] = ()
    """Hosts that the broker hears no more, and of which the backend knows that nothing is left."""
    marked: tuple[str, ...] = ()
    """Hosts that serve, and whose marks say that they may go."""


class Autoscaler:
    """Scales pools. ``cap`` bounds the hosts of all pools together; 0: no bound. ``dry_run`` only says what it would
    do."""

    def __init__(
        self,
        pools: Sequence[ScaledPool],
        fleet: Fleet,
        backend: Backend,
        meters: Meters,
        clock: Clock,
        *,
        cap: int = 0,
        dry_run: bool = False,
    ) -> None:
        self._fleet, self._backend, self._meters, self._clock = fleet, backend, meters, clock
        self._cap, self._dry_run = cap, dry_run
        self._pools: list[_Pool] = []
        self._leading_since: float | None = None
        self.answers: dict[str, int] = {}
        """By pool: the replicas that were decided last. For KEDA."""
        self.answered_at = float("-inf")
        self.answered = asyncio.Event()
        self.replace(pools, cap)

    def replace(self, pools: Sequence[ScaledPool], cap: int) -> None:
        """Scale these pools from now on; what is remembered of those that were there is kept."""
        kept = {pool.settings.name: pool for pool in self._pools}
        self._cap = cap
        self._pools = []
        for settings in pools:
            before = kept.get(settings.name)
            known = before is not None and before.follow(settings)
            self._pools.append(before if known and before is not None else _fresh(settings, self._clock()))
            self._meters.pool(settings.name)
        self._forget_removed()

    def _forget_removed(self) -> None:
        names = {pool.settings.name for pool in self._pools}
        for views in (self._meters.views, self.answers):
            for gone in views.keys() - names:
                del views[gone]

    async def run(self) -> None:
        """Scale until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fleet.watch(), name="fleet-watch")
            tasks.create_task(self._backend.run(), name="backend")
            tasks.create_task(self._forever(), name="plan")

    async def _forever(self) -> None:
        while True:
            await self._woken()
            if not self._backend.leading:
                self._leading_since = None
                continue
            if self._leading_since is None:
                now = self._leading_since = self._clock()
                self._pools = [_fresh(pool.settings, now) for pool in self._pools]
                log.info("leading")
            await self.step()

    async def _woken(self) -> None:
        """Wait for news of the fleet or the backend, at most for a second."""
        events = (self._fleet.changed, self._backend.changed)
        if not any(event.is_set() for event in events):
            async with asyncio.TaskGroup() as tasks:
                waits = [tasks.create_task(event.wait(), name="news") for event in events]
                await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
        for event in events:
            event.clear()

    async def step(self) -> None:
        """One pass over all pools."""
        now = self._clock()
        looks = [look for pool in self._pools if (look := self._look(pool, now)) is not None]
        if self._cap:
            wants = {look.pool.settings.name: (look.facts.replicas, look.plan.replicas) for look in looks}
            ceilings = allot(self._cap, wants)
            looks = [
                self._replan(look, ceilings[look.pool.settings.name], now)
                if look.plan.replicas > ceilings[look.pool.settings.name]
                else look
                for look in looks
            ]
        self._meters.plan_seconds.labels().observe(self._clock() - now)
        for look in looks:
            self._export(look, now)
        await self._fleet.forget(host for look in looks for host in look.vanished)
        await asyncio.gather(*(self._act(look) for look in looks))
        self._forget_removed()  # the pools may have been replaced meanwhile
        self.answered_at = now
        self.answered.set()
        self.answered = asyncio.Event()

    # ---- looking

    def _look(self, pool: _Pool, now: float) -> _Look | None:
        seen = self._backend.observe(pool.settings, now)
        if seen is None or self._fleet.heard_at == float("-inf"):
            return None
        picture, settings, policy = self._fleet.picture, pool.settings, pool.settings.policy
        hosts: Mapping[str, FleetHost] = picture.hosts.get(settings.name, {})
        pool.record.starts.follow(seen.instances)
        reserved = picture.reserved(settings.environments, 1.5 * pool.record.starts.typical + 1.0)
        waits = picture.waits(settings.environments)
        if settings.retiring:  # what is new goes to the pool beside it
            waits = replace(waits, admissible=waits.relocating, oldest=0.0)
            reserved = 0
        signals = pool.record.signals(hosts, seen, waits, reserved, now)
        bounded = picture.bounded(settings.environments, signals, retiring=settings.retiring)
        signals = replace(signals, bounded=bounded)
        if pool.demand is None:
            pool.demand = Demand(policy, now, idle=not seen.replicas and not hosts)
        terms = pool.demand.terms(signals, now)
        facts, disagreement = pool.record.facts(hosts, seen, now)
        hold = seen.hold or hold_reason(
            complete=picture.complete,
            age=now - self._fleet.heard_at,
            uptime=picture.uptime,
            leading=now - max(self._leading_since if self._leading_since is not None else now, pool.since),
            look_back=policy.look_back,
            disagreement=disagreement,
            oldest=signals.oldest,
        )
        left = self._left_out(pool, facts)
        staying = tuple(host for host in facts if host.host_id not in left)
        # Replicas that are lowered already, with the hosts still there, do not count those that were left out.
        counted = max(0, len(left) - max(0, len(seen.instances) - seen.replicas))
        whole = PoolFacts(
            replicas=seen.replicas - counted, hosts=staying, hold=hold, unsettled=seen.unsettled
        )
        vanished = () if seen.hold else vanished_hosts(hosts, seen)
        marked = serving_though_marked(staying, seen, now - self._fleet.heard_at)
        return _Look(pool, seen, whole, terms, pool.planner.plan(terms, whole, now), vanished, marked)

    def _left_out(self, pool: _Pool, facts: Sequence[HostFacts]) -> set[str]:
        if pool.settings.mode != "keda":
            return set()
        there = {host.host_id for host in facts}
        sealed = {host.host_id for host in facts if host.phase is Phase.SEALED}
        pool.left_out = (sealed if pool.left_out is None else pool.left_out) & there
        return pool.left_out

    def _replan(self, look: _Look, ceiling: int, now: float) -> _Look:
        facts = replace(look.facts, ceiling=ceiling)
        look.pool.planner.forget_raise()
        return replace(look, facts=facts, plan=look.pool.planner.plan(look.terms, facts, now))

    def _export(self, look: _Look, now: float) -> None:
        pool, plan = look.pool, look.plan
        counts = Counter(host.phase.value for host in look.facts.hosts)
        counts["unschedulable"] = sum(instance.unschedulable for instance in look.seen.instances)
        named = {state: counts[state] for state in (*Phase, "unschedulable")}
        self._meters.views[pool.settings.name] = PoolView(
            terms=look.terms,
            plan=plan,
            counts=named,
            held=bool(look.facts.hold),
            oldest_drain=pool.planner.oldest_drain(now),
            max_hosts=pool.settings.policy.max_hosts,
            paused=look.seen.paused,
            dry_run=self._dry_run or look.seen.dry_run,
            hpa=pool.settings.mode == "hpa",
            refused=bool(look.seen.refused),
        )
        if bool(look.seen.refused) != pool.refused:  # its words name a pod, another one each time
            pool.refused = bool(look.seen.refused)
            log.warning(
                "the cluster refuses hosts" if pool.refused else "the cluster takes hosts again",
                extra={"pool": pool.settings.name, "why": look.seen.refused},
            )
        said = f"{plan.replicas} {plan.reason.partition(':')[0]}"
        if said != pool.said or plan.acts:
            pool.said = said
            terms = look.terms
            log.info(
                "plan",
                extra={
                    "pool": pool.settings.name,
                    "replicas": plan.replicas,
                    "before": look.facts.replicas,
                    "hosts": plan.wanted,
                    "reason": plan.reason,
                    "terms": {
                        "A": terms.leased, "Q": terms.queued, "R": terms.reserved, "trend": round(terms.trend, 3),
                        "forecast": round(terms.forecast, 1), "buffer": terms.buffer, "want": round(terms.want, 1),
                    },
                    "drain": list(plan.drain),
                    "take_back": list(plan.take_back),
                    "count_out": list(plan.count_out),
                },
            )  # fmt: skip

    # ---- acting

    async def _act(self, look: _Look) -> None:
        pool, plan, seen = look.pool, look.plan, look.seen
        settings = pool.settings
        if self._clock() < pool.not_before:
            return
        if self._dry_run or seen.dry_run or seen.paused or settings.mode == "hpa":
            self.answers[settings.name] = seen.replicas
            return
        try:
            for act in (self._raise, self._take_back, self._drain, self._seal, self._tend, self._lower):
                if not self._backend.leading:
                    break  # what takes long may outlive the Lease, and another acts by now
                await act(look)
        except BackendRefused as refused:
            self._meters.refused.add(1, settings.name)
            pool.not_before = self._clock() + max(REFUSED_SECONDS, refused.retry_after)
            log.warning("planned anew", extra={"pool": settings.name, "why": str(refused)})
        settled = not (look.facts.hold or look.facts.unsettled)
        self.answers[settings.name] = answer(
            plan, replicas=seen.replicas, left_out=seen.replicas - look.facts.replicas, settled=settled
        )
        if settings.mode == "keda" and settled:
            pool.left_out = (pool.left_out or set()) | set(plan.count_out)

    async def _raise(self, look: _Look) -> None:
        if look.plan.replicas > look.facts.replicas:
            await self._scale(look)

    async def _take_back(self, look: _Look) -> None:
        """Told first, unmarked then: one that was not told keeps its marks, so its drain stays ours to take back. What
        is lost between the two leaves marks on a host that serves, and the next look finds those."""
        pool, plan = look.pool, look.plan
        vain = [host_id for host_id in look.marked if host_id not in plan.drain]
        if vain:
            log.info(
                "hosts that serve are protected again", extra={"pool": pool.settings.name, "hosts": vain}
            )
        told = await self._order((*plan.take_back, *vain), False, pool)
        self._meters.decisions.add(len({*told} & {*plan.take_back}), pool.settings.name, "take_back")
        if told:
            await self._backend.unmark(pool.settings, told)

    async def _drain(self, look: _Look) -> None:
        pool, plan = look.pool, look.plan
        if plan.drain:
            await self._backend.mark(pool.settings, plan.drain)
            told = await self._order(plan.drain, True, pool)
            self._meters.decisions.add(len(told), pool.settings.name, "drain")

    async def _order(self, hosts: Iterable[str], drain: bool, pool: _Pool) -> list[str]:
        """Order hosts to drain or not to, as long as we lead. Returns those that were told."""
        told = await self._fleet.drain(takewhile(lambda _: self._backend.leading, hosts), drain)
        for host_id in told:  # which may be long after the plan: a thousand orders take a while
            pool.record.order(host_id, drain, self._clock())
        return told

    async def _tend(self, look: _Look) -> None:
        await self._backend.tend(look.pool.settings)

    async def _lower(self, look: _Look) -> None:
        if look.plan.replicas < look.facts.replicas:
            await self._scale(look)

    async def _seal(self, look: _Look) -> None:
        """Hosts that have sealed themselves since the last look."""
        pool, now = look.pool, self._clock()
        drained = pool.drained_at if pool.drained_at is not None else {}
        phases = {host.host_id: host.phase for host in look.facts.hosts}
        for host_id, phase in phases.items():
            if phase in (Phase.DRAINING, Phase.SEALED):
                drained.setdefault(host_id, now)
        pool.drained_at = {host: at for host, at in drained.items() if host in phases}
        marked = {instance.host_id for instance in look.seen.instances if instance.sealed}
        fresh = [
            host_id
            for host_id, phase in phases.items()
            if phase is Phase.SEALED and host_id not in marked and host_id not in look.plan.take_back
        ]
        if fresh:
            await self._backend.seal(pool.settings, fresh)
            for host_id in fresh:
                self._meters.drains.labels().observe(now - drained[host_id])

    async def _scale(self, look: _Look) -> None:
        plan, settings = look.plan, look.pool.settings
        if settings.mode == "direct":
            await self._backend.scale(settings, plan.replicas, plan.count_out)
            await self._backend.announce(settings, look.facts.replicas, plan.replicas, plan.reason)
        more = plan.replicas - look.facts.replicas
        if more > 0:
            self._meters.decisions.add(more, settings.name, "raise")
            self._meters.seconds.labels().observe(self._clock() - self._fleet.heard_at)
        else:
            self._meters.decisions.add(len(plan.count_out), settings.name, "count_out")


def _fresh(pool: ScaledPool, now: float) -> _Pool:
    return _Pool(pool, PoolRecord(), Planner(pool.policy), now)
