"""What a decision of the autoscaler costs at 10,000 hosts and a million episodes: ``python -m benchmarks.plan``.

A host is one row of the broker's picture, whatever it holds, so the episodes themselves cost nothing here.
"""

from __future__ import annotations

import resource
import statistics
import time

from envmesh_autoscaler.demand import Demand, PoolPolicy
from envmesh_autoscaler.observation import FleetHost, Instance, Observation, PoolRecord, Waits
from envmesh_autoscaler.plan import Planner, PoolFacts

HOSTS = 10_000
ROUNDS = 20


def main() -> None:
    """Plan, and print."""
    hosts = {
        f"h{n}": FleetHost(
            host_id=f"h{n}", pool="p", name="", state="ready", slots=200, in_use=n % 201, idle=0, ended=n
        )
        for n in range(HOSTS)
    }
    seen = Observation(
        replicas=HOSTS,
        instances=tuple(Instance(host_id=h, ready=True, ready_for=9.0, start_seconds=5.0) for h in hosts),
    )
    policy, record = PoolPolicy(max_hosts=2 * HOSTS, look_back=0.0), PoolRecord()
    demand, planner = Demand(policy, 0.0), Planner(policy)
    took = []
    for now in range(1, ROUNDS + 1):
        begun = time.process_time()
        signals = record.signals(hosts, seen, Waits(), 0, float(now))
        facts, _ = record.facts(hosts, seen, float(now))
        planner.plan(demand.terms(signals, float(now)), PoolFacts(replicas=HOSTS, hosts=facts), float(now))
        took.append(time.process_time() - begun)
    episodes = sum(host.in_use for host in hosts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{HOSTS:,} hosts, {episodes:,} episodes: {statistics.median(took) * 1e3:.0f} ms of CPU a decision "
        f"(least {min(took) * 1e3:.0f}), {peak:.0f} MiB resident at most"
    )


if __name__ == "__main__":
    main()
