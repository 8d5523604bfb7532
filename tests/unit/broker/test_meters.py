"""The broker's metrics: bounded whatever tenants, pools and hosts there are; what hosts interrupt is counted once."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from envmesh.v1 import environment_pb2, error_reason_pb2, fleet_pb2
from envmesh_broker.core import Core
from envmesh_broker.hosts import Host, HostState, LeaseRow, Report
from envmesh_broker.meters import Meters
from envmesh_broker.scheduler import Decision
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Registry


class Fleet:
    """A broker's mind, its meters, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: dict[str, tuple[fleet_pb2.HostIdentity, fleet_pb2.HostReport]] = {}
        self.core = Core(0.0, new_id=lambda: b"x" * 16)
        self.registry = Registry()
        self.meters = Meters(self.registry, self.core, LoopLag(), lambda: self.now, self.said)

    def host(
        self, name: str, pool: str, rows: tuple[LeaseRow, ...] = (), state: HostState = HostState.READY
    ) -> int:
        host = Host(host_id=name, pool=pool, address="a:1", slots=100, environments=("echo@1",))
        session = self.core.register(host, self.now)
        info = environment_pb2.EnvironmentInfo(
            name="echo", version="1", recovery=environment_pb2.RECOVERY_CLASS_NONE
        )
        self.said[name] = (fleet_pb2.HostIdentity(environments=[info]), fleet_pb2.HostReport())
        self.core.report(name, session, Report(state, rows), self.now)
        return session

    def says(self, name: str, live: int = 0, **interrupted: int) -> None:
        load = fleet_pb2.EnvironmentLoad(environment="echo@1", live=live)
        for reason, count in interrupted.items():
            load.interrupted.add(
                reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"), episodes=count
            )
        self.said[name] = (self.said[name][0], fleet_pb2.HostReport(environments=[load]))

    def found(self) -> dict[Any, float]:
        families = text_string_to_metric_families(self.registry.text().decode())
        return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_hosts_interruptions_are_counted_once_even_the_last_ones():
    fleet = Fleet()
    session = fleet.host("a", "pool", state=HostState.DRAINING)
    fleet.says("a", PREEMPTED=3)
    fleet.meters.tick()
    fleet.meters.tick()
    assert fleet.found()["envmesh_interrupted_episodes_total", ("reason", "PREEMPTED")] == 3
    fleet.says("a", PREEMPTED=5)
    assert fleet.core.disconnected("a", session, 0.0)  # it has said goodbye before the next tick
    fleet.meters.tick()
    del fleet.said["a"]
    fleet.meters.tick()
    found = fleet.found()
    assert found["envmesh_interrupted_episodes_total", ("reason", "PREEMPTED")] == 5
    assert found["envmesh_interrupted_episodes_total", ("reason", "HOST_LOST")] == 0


def test_what_cannot_be_rebuilt_is_lost_with_its_host():
    fleet = Fleet()
    fleet.host("a", "pool")
    fleet.says("a", live=7)
    fleet.meters.tick()
    fleet.now = 6.0
    fleet.core.tick(fleet.now)
    fleet.meters.tick()
    assert fleet.found()["envmesh_hosts_lost_total", ("pool", "pool")] == 1
    fleet.now = 400.0
    fleet.core.tick(fleet.now)  # and forgotten
    fleet.meters.tick()
    assert fleet.found()["envmesh_interrupted_episodes_total", ("reason", "HOST_LOST")] == 7


def test_waits_are_told_apart_by_whether_there_was_room():
    fleet = Fleet()
    assert not fleet.core.has_room("echo", 1)
    fleet.host("a", "pool")
    assert fleet.core.has_room("echo", 100)
    assert not fleet.core.has_room("echo", 101)
    fleet.meters.granted("t", Decision(1, (), 0), 0.01, True)
    fleet.meters.granted("t", Decision(2, (), 0), 20.0, False)
    found = fleet.found()
    assert found["envmesh_queue_wait_seconds_bucket", ("le", "0.25"), ("warm", "true")] == 1
    assert found["envmesh_queue_wait_seconds_bucket", ("le", "0.25"), ("warm", "false")] == 0


def test_the_oldest_drain_is_seen_while_it_lasts():
    fleet = Fleet()
    fleet.host("a", "pool", (LeaseRow(b"l" * 16, "t", "echo@1", 1, 0, b""),), HostState.DRAINING)
    fleet.meters.tick()
    fleet.now = 3.0
    fleet.meters.tick()
    assert fleet.found()["envmesh_pool_oldest_drain_seconds", ("pool", "pool")] == 3.0


def test_a_broker_stays_within_50000_series_with_many_tenants_pools_and_hosts():
    fleet = Fleet()
    for number in range(1_000):
        rows = tuple(
            LeaseRow(
                bytes([row]) + number.to_bytes(15), f"tenant-{(number + row) % 500}", "echo@1", 1, 0, b""
            )
            for row in range(10)
        )
        fleet.host(f"host-{number}", f"pool-{number % 400}", rows)
    for tenant in range(500):
        fleet.meters.asked(f"tenant-{tenant}")
        fleet.meters.granted(f"tenant-{tenant}", Decision(tenant, (), 0), 0.1, True)
    fleet.meters.tick()
    found = fleet.found()
    assert found["envmesh_tenant_slots", ("tenant", "other")] > 0
    assert sum(value for key, value in found.items() if key[0] == "envmesh_tenant_slots") == 10_000
    assert sum(value for key, value in found.items() if key[0] == "envmesh_pool_hosts") == 1_000
    assert len(found) < 50_000
    few = Fleet()
    for number in range(50):
        few.meters.asked(f"tenant-{number}")
    assert sum(key[0] == "envmesh_acquire_requests_total" for key in few.found()) == 50
