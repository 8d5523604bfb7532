"""What a decision of the autoscaler costs at 10,000 hosts and a million episodes: ``python -m benchmarks.plan``.

A host is one row of the broker's picture, whatever it holds, so the episodes themselves cost nothing here.
"""

from __future__ import annotations

import resource
import statistics
import time

from envmesh.v1 import fleet_pb2
from envmesh_autoscaler.demand import Demand, PoolPolicy
from envmesh_autoscaler.observation import Instance, Observation, PoolRecord, Waits
from envmesh_autoscaler.picture import read_picture
from envmesh_autoscaler.plan import Planner, PoolFacts

HOSTS = 10_000
ROUNDS = 20


def fleet() -> fleet_pb2.Fleet:
    """The broker's picture."""
    told = fleet_pb2.Fleet(complete=True)
    for number in range(HOSTS):
        told.hosts.add(
            identity=fleet_pb2.HostIdentity(host_id=f"h{number}", pool="p", slots=200),
            state=fleet_pb2.HOST_STATE_READY,
            in_use=number % 201,
            ended=number,
        )
    return told


def main() -> None:
    """Plan, and print."""
    told = fleet().SerializeToString()
    seen = Observation(
        replicas=HOSTS,
        instances=tuple(
            Instance(host_id=f"h{number}", ready=True, ready_for=9.0, start_seconds=5.0)
            for number in range(HOSTS)
        ),
    )
    policy, record = PoolPolicy(max_hosts=2 * HOSTS, look_back=0.0), PoolRecord()
    demand, planner = Demand(policy, 0.0), Planner(policy)
    read, planned = [], []
    for now in range(1, ROUNDS + 1):
        begun = time.process_time()
        hosts = read_picture(fleet_pb2.Fleet.FromString(told)).hosts["p"]
        at = time.process_time()
        signals = record.signals(hosts, seen, Waits(), 0, float(now))
        facts, _ = record.facts(hosts, seen, float(now))
        planner.plan(demand.terms(signals, float(now)), PoolFacts(replicas=HOSTS, hosts=facts), float(now))
        read.append(at - begun)
        planned.append(time.process_time() - at)
    episodes = sum(host.in_use for host in hosts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{HOSTS:,} hosts, {episodes:,} episodes: {statistics.median(planned) * 1e3:.0f} ms of CPU a plan "
        f"(least {min(planned) * 1e3:.0f}), {statistics.median(read) * 1e3:.0f} ms to read the broker's picture, "
        f"{peak:.0f} MiB resident at most"
    )


if __name__ == "__main__":
    main()
