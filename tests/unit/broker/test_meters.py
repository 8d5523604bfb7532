"""The broker's metrics: bounded whatever tenants, pools and hosts there are; what hosts interrupt is counted once."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from envmesh.v1 import environment_pb2, error_reason_pb2, fleet_pb2
from envmesh_broker.core import Core
from envmesh_broker.fleet import Sessions
from envmesh_broker.hosts import Host, HostState, LeaseRow, Report
from envmesh_broker.meters import Meters
from envmesh_broker.scheduler import Decision
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Registry


class Fleet:
    """A broker's mind, its meters, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sessions = Sessions()
        self.said = self.sessions.said
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
        identity = fleet_pb2.HostIdentity(host_id=name, pool=pool, environments=[info])
        self.sessions.begin(identity)
        self.core.report(name, session, Report(state, rows), self.now)
        return session

    def says(self, name: str, live: int = 0, begun: int = 0, **interrupted: int) -> None:
        load = fleet_pb2.EnvironmentLoad(environment="echo@1", live=live, begun=begun)
        for reason, count in interrupted.items():
            load.interrupted.add(
                reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"), episodes=count
            )
        self.said[name] = (self.said[name][0], fleet_pb2.HostReport(environments=[load]))

    def drains(self, name: str, *outcomes: str, known: int = 0) -> None:
        """The host says how its drains ended, each after ten seconds; some an earlier broker has heard of."""
        report = fleet_pb2.HostReport()
        for number, outcome in enumerate(outcomes, 1):
            value = fleet_pb2.DrainOutcome.Value(f"DRAIN_OUTCOME_{outcome}")
            report.drains.add(number=number, outcome=value, known=number <= known).duration.FromSeconds(10)
        self.said[name] = (self.said[name][0], report)

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


def test_a_new_broker_does_not_count_again_what_an_earlier_one_has_heard_of():
    fleet = Fleet()
    fleet.host("a", "pool")
    fleet.says("a", VERSION_GONE=3)
    fleet.said["a"][1].environments[0].interrupted[0].known = 2
    fleet.meters.tick()
    fleet.meters.tick()
    assert fleet.found()["envmesh_interrupted_episodes_total", ("reason", "VERSION_GONE")] == 1
    fleet.drains("a", "TAKEN_BACK", "TAKEN_BACK", "TAKEN_BACK", known=2)
    fleet.meters.tick()
    fleet.meters.tick()
    assert fleet.found()["envmesh_drains_total", ("outcome", "taken_back")] == 1


def test_a_host_that_registers_again_has_been_counted_already():
    fleet = Fleet()
    fleet.host("a", "pool")
    fleet.drains("a", "TAKEN_BACK")
    fleet.meters.tick()
    fleet.host("a", "pool")  # a session anew, its word for it that nobody acknowledged the drain
    fleet.meters.tick()
    fleet.drains("a", "TAKEN_BACK", "OVERDUE")
    fleet.meters.tick()
    found = fleet.found()
    assert found["envmesh_drains_total", ("outcome", "taken_back")] == 1
    assert found["envmesh_drains_total", ("outcome", "overdue")] == 1


def test_a_drain_is_counted_though_its_host_said_so_with_its_last_word():
    fleet = Fleet()
    session = fleet.host("a", "pool", state=HostState.DRAINING)
    fleet.meters.tick()
    fleet.drains("a", "EMPTIED")
    assert fleet.core.disconnected("a", session, 0.0)
    fleet.meters.tick()
    del fleet.said["a"]
    fleet.meters.tick()
    found = fleet.found()
    assert found["envmesh_drains_total", ("outcome", "emptied")] == 1
    assert found["envmesh_drain_duration_seconds_bucket", ("le", "10")] == 1
    assert found["envmesh_drain_duration_seconds_bucket", ("le", "3")] == 0


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


def test_what_cannot_be_rebuilt_is_lost_with_a_host_that_is_said_to_be_gone_before_anybody_noticed():
    fleet = Fleet()
    session = fleet.host("a", "pool", (LeaseRow(b"l" * 16, "t", "echo@1", 7, 0, b""),))
    fleet.says("a", live=7)
    fleet.meters.tick()
    fleet.core.disconnected("a", session, fleet.now)
    fleet.now = 0.2
    assert fleet.core.gone("a", fleet.now)
    fleet.meters.tick()
    assert fleet.found()["envmesh_interrupted_episodes_total", ("reason", "HOST_LOST")] == 7


def test_a_container_that_is_started_again_under_its_id_has_lost_what_it_held_and_counts_from_nothing():
    fleet = Fleet()
    session = fleet.host("a", "pool", (LeaseRow(b"l" * 16, "t", "echo@1", 7, 0, b""),))
    fleet.says("a", live=7, begun=50, LIMIT_EXCEEDED=5)
    fleet.meters.tick()
    fleet.core.disconnected("a", session, 1.0)  # killed for its memory
    fleet.host("a", "pool")
    fleet.meters.tick()  # it has not said anything yet
    found = fleet.found()
    assert found["envmesh_interrupted_episodes_total", ("reason", "HOST_LOST")] == 0
    fleet.says("a", live=1, begun=1)
    fleet.meters.tick()
    fleet.says("a", live=2, begun=9, LIMIT_EXCEEDED=3)
    fleet.meters.tick()
    fleet.meters.tick()
    found = fleet.found()
    assert found["envmesh_interrupted_episodes_total", ("reason", "HOST_LOST")] == 7
    assert found["envmesh_interrupted_episodes_total", ("reason", "LIMIT_EXCEEDED")] == 8


def test_drains_of_a_container_that_is_started_again_are_counted():
    fleet = Fleet()
    fleet.host("a", "pool")
    fleet.says("a", begun=50)
    fleet.said["a"][1].drains.add(number=1, outcome=fleet_pb2.DRAIN_OUTCOME_TAKEN_BACK)
    fleet.meters.tick()
    fleet.host("a", "pool")
    fleet.says("a", begun=1)
    fleet.said["a"][1].drains.add(number=1, outcome=fleet_pb2.DRAIN_OUTCOME_EMPTIED)
    fleet.meters.tick()
    found = fleet.found()
    assert found["envmesh_drains_total", ("outcome", "taken_back")] == 1
    assert found["envmesh_drains_total", ("outcome", "emptied")] == 1


def test_a_host_that_only_registers_again_has_lost_nothing():
    fleet = Fleet()
    fleet.host("a", "pool")
    for begun in (50, 51):
        fleet.says("a", live=7, begun=begun, LIMIT_EXCEEDED=5)
        fleet.meters.tick()
        fleet.host("a", "pool")
        fleet.meters.tick()
    found = fleet.found()
    assert found["envmesh_interrupted_episodes_total", ("reason", "HOST_LOST")] == 0
    assert found["envmesh_interrupted_episodes_total", ("reason", "LIMIT_EXCEEDED")] == 5


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
