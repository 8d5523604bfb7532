"""What the page is sent, as JSON: short names, for it goes out every second.

Hosts and environments may say numbers that are none, and JSON has no word for them: what is not finite is null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from envmesh.v1 import fleet_pb2
from envmesh_broker.page.history import Failure, History, Point

__all__ = ["beginning", "now", "steps"]

MOST_HOSTS = 200
MOST_FAILURES = 60
_STATES = {number: name.removeprefix("HOST_STATE_").lower() for name, number in fleet_pb2.HostState.items()}


def beginning(history: History) -> dict[str, Any]:
    """The last minutes."""
    return {"history": {key: [_point(point) for point in points] for key, points in history.points.items()}}


def now(fleet: fleet_pb2.Fleet, history: History, at: float) -> dict[str, Any]:
    """The picture of this second."""
    hosts = [_host(status) for status in fleet.hosts]
    pools: dict[str, dict[str, Any]] = {}
    for host in hosts:
        pool = pools.setdefault(
            host["pool"], {"hosts": {}, "slots": 0, "in_use": 0, "idle": 0, "environments": host["environments"]}
        )  # fmt: skip
        pool["hosts"][host["state"]] = pool["hosts"].get(host["state"], 0) + 1
        for what in ("slots", "in_use", "idle"):
            pool[what] += host[what] if host["state"] == "ready" or what != "slots" else 0
    return {
        "complete": fleet.complete,
        "uptime": fleet.uptime.ToNanoseconds() / 1e9,
        "pools": pools,
        "hosts": hosts[:MOST_HOSTS],
        "hosts_left_out": max(0, len(hosts) - MOST_HOSTS),
        "points": {key: _point(points[-1]) for key, points in history.points.items() if points},
        "queues": [
            {
                "environment": queue.environment,
                "requests": queue.requests,
                "slots": queue.admissible,
                "held": queue.held,
                "oldest": queue.oldest.ToNanoseconds() / 1e9,
            }
            for queue in fleet.queues
            if queue.requests
        ],
        "tenants": [
            {"tenant": t.tenant, "leased": t.leased, "queued": t.queued_slots, "quota": t.quota}
            for t in fleet.tenants
        ],
        "failures": [_failure(each, at) for each in _newest(history.failures)],
    }


def steps(told: fleet_pb2.WatchedSteps) -> dict[str, Any]:
    """What a host tells of an episode that is followed."""
    return {
        "episode": told.episode_id.hex(),
        "environment": told.environment,
        "over": told.over,
        "skipped": told.skipped,
        "steps": [
            {
                "index": step.index,
                "reward": _finite(step.reward),
                "end": "terminated" if step.terminated else "truncated" if step.truncated else "",
                "seconds": _finite(step.seconds),
                "action": step.action,
                "observation": step.observation,
                "failure": step.failure,
            }
            for step in told.steps
        ],
    }


def _newest(failures: Iterable[Failure]) -> list[Failure]:
    return sorted(failures, key=lambda failure: failure.at, reverse=True)[:MOST_FAILURES]


def _point(point: Point) -> list[float | None]:
    rates = round(point.steps, 1), round(point.episodes, 2)
    rounded = (point.live, *rates, point.failed, point.mean_return, point.p50, point.p99)
    return [None if value is None else _finite(float(f"{value:.5g}")) for value in rounded]


def _finite(value: float) -> float | None:
    """A number that JSON has, or None."""
    return value if math.isfinite(value) else None


def _host(status: fleet_pb2.HostStatus) -> dict[str, Any]:
    report, identity = status.report, status.identity
    in_use = sum(lease.in_use for lease in report.leases) + report.unleased
    return {
        "id": identity.host_id,
        "name": identity.name or identity.host_id[:12],
        "pool": identity.pool,
        "address": identity.address,
        "state": _STATES.get(status.state, "unknown"),
        "silent": status.silent.ToNanoseconds() / 1e9,
        "environments": [f"{info.name}@{info.version}" for info in identity.environments],
        "slots": identity.slots,
        "in_use": in_use,
        "idle": sum(lease.idle for lease in report.leases) + status.provisional,
        "steps": sum(load.steps for load in report.environments),
        "failed": sum(load.failed for load in report.environments),
        "lag": _finite(report.event_loop_lag),
        "memory": report.memory_bytes,
        "cpu": _finite(report.cpu_seconds),
    }


def _failure(failure: Failure, at: float) -> dict[str, Any]:
    return {
        "ago": at - failure.at,
        "environment": failure.environment,
        "episode": failure.episode_id.hex(),
        "index": failure.index,
        "reason": failure.reason,
        "message": failure.message,
        "host": failure.host,
    }
