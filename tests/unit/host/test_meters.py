"""A host's metrics: what is counted of real steps, and how many series there can be at most."""

import secrets
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import Json
from envmesh_host.connection import Connection
from envmesh_host.counting import note_failure
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.meters import MAX_ENVIRONMENTS, HostMeters
from envmesh_host.served import Served
from envmesh_host.slots import Claim, SlotTable
from envmesh_service.credentials import ANYBODY
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Registry
from envmesh_service.rpc import RpcMetrics
from tests.unit.host.test_batches import connection_with, step_all


def samples(registry: Registry) -> dict[Any, float]:
    families = text_string_to_metric_families(registry.text().decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def total(found: dict[Any, float], name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for key, value in found.items() if key[0] == name and wanted <= set(key[1:]))


def meters_of(connection: Connection) -> tuple[HostMeters, Registry]:
    registry = Registry()
    return HostMeters(registry, connection.engine, LoopLag()), registry


def test_every_step_of_a_frame_is_observed_once_and_blame_is_split():
    connection, hosted = connection_with("envmesh_environments.echo:Echo", 50)
    meters, registry = meters_of(connection)
    step_all(connection, 50, 1, [b"x" * 50] * 50)
    meters.flush()
    found = samples(registry)
    own = {"environment": hosted.info.name, "version": hosted.info.version}
    assert total(found, "envmesh_step_duration_seconds_count", **own) == 50
    assert total(found, "envmesh_command_duration_seconds_count", kind="step") == 50
    assert total(found, "envmesh_step_overhead_seconds_count") == 50
    assert total(found, "envmesh_commands_total", kind="step", code="OK") == 50
    assert total(found, "envmesh_commands_total", kind="reset", code="OK") == 50
    assert total(found, "envmesh_action_bytes_total", **own) >= 50 * 50
    assert (
        total(found, "envmesh_step_duration_seconds_sum") + total(found, "envmesh_step_overhead_seconds_sum")
        <= total(found, "envmesh_command_duration_seconds_sum", kind="step") + 1e-9
    )
    assert total(found, "envmesh_live_episodes", state="waiting") == 50
    assert total(found, "envmesh_leaked_slots") == 0


def test_a_refused_command_is_counted_by_why():
    connection, _ = connection_with("envmesh_environments.echo:Echo", 1)
    meters, registry = meters_of(connection)
    step_all(connection, 1, 7, [b"x"])
    connection.command(pb.COMMAND_KIND_STEP, 99, 1, b"", 0)
    meters.flush()
    found = samples(registry)
    assert total(found, "envmesh_commands_total", kind="step", code="OutOfRange", reason="STEP_INDEX") == 1
    assert total(found, "envmesh_commands_total", kind="step", code="NotFound", reason="EPISODE_UNKNOWN") == 1


def hosted_as(name: str) -> Hosted:
    definition = load("envmesh_environments.echo:Echo")
    served = Served.prepare(definition)
    info = pb.EnvironmentInfo()
    info.CopyFrom(served.info)
    info.name, info.grades, info.checkpoints = name, True, True
    return Hosted(info, served=served, runner=None, reuse=False, definition=definition)


def test_a_host_stays_within_5000_series_whatever_it_serves():
    """200 environments, 10,000 episodes, each environment with components and causes of failure of its own."""
    hosted = [hosted_as(f"environment-{number}") for number in range(200)]
    engine = Engine(hosted, SlotTable(20_000), cast(Any, None))
    registry = Registry()
    rpc = RpcMetrics(registry)
    meters = HostMeters(registry, engine, LoopLag())
    for service, methods in (("envmesh.v1.EnvironmentService", 9), ("grpc.health.v1.Health", 2)):
        for method in range(methods):
            labels = ("unary", service, f"Method{method}")
            rpc.started.add(1, *labels)
            rpc.seconds.labels(*labels).observe(0.1)
            for code in ("OK", "NotFound", "Unavailable", "Internal"):
                rpc.handled.add(1, *labels, code)
    pb_message = pb.Hello(client_id=secrets.token_bytes(16), connection_id=secrets.token_bytes(16))
    connection = Connection(engine, pb_message, ANYBODY, lease_idle=60.0, liveness_window=10.0)
    reasons = (
        "ENVIRONMENT_RAISED",
        "LIMIT_EXCEEDED",
        "WORKER_CRASHED",
        "WORKER_LOST",
        "REPLAY_DIVERGED",
        "POISON",
    )
    handle = 0
    for number, environment in enumerate(hosted):
        lease = secrets.token_bytes(16)
        claim = Claim(lease_id=lease, tenant="default", environment=environment.key, count=50)
        connection.leases._holdings[1_000 + number] = engine.slots.show(claim, 0.0)
        for episode in range(50):
            handle += 1
            reset = pb.ResetRequest(episode_id=secrets.token_bytes(16), epoch=1, lease_number=1_000 + number)
            connection.command(pb.COMMAND_KIND_RESET, handle, 0, reset.SerializeToString(), 0)
            copy = connection.bindings[handle]
            observed = environment.observed
            observed.returns.append(float(episode))
            observed.lengths.append(episode)
            observed.step_seconds.append(1e-5 * episode)
            observed.step_totals.append(2e-5 * episode)
            observed.reward_seconds.append(1e-3)
            observed.components.setdefault(f"component-{number}-{episode}", []).append(1.0)
            observed.grades[True] = 1
            observed.outcomes["terminated"] = observed.outcomes.get("terminated", 0) + 1
            note_failure(copy, Refusal("", reason=reasons[episode % len(reasons)]))
            for kind in range(1, 12):
                engine.traffic.note_command(kind, reasons[episode % len(reasons)])
                engine.traffic.note_seconds(kind, 0.1)
    meters.flush()
    found = samples(registry)
    assert len(engine.episodes) == 10_000
    assert total(found, "envmesh_step_duration_seconds_count") == 10_000
    environments = {dict(key[1:])["environment"] for key in found if key[0] == "envmesh_episodes_total"}
    assert len(environments) == MAX_ENVIRONMENTS
    assert "other" in environments
    assert total(found, "envmesh_reward_component_count") == 10_000
    assert total(found, "envmesh_failures_total") == 10_000
    assert len(found) < 5_000


def test_what_became_other_is_counted():
    hosted = [hosted_as(f"environment-{number}") for number in range(40)]
    registry = Registry()
    meters = HostMeters(registry, Engine(hosted, SlotTable(40), cast(Any, None)), LoopLag())
    meters.flush()
    found = samples(registry)
    assert total(found, "envmesh_other_label_values", what="environment") == 40 - (MAX_ENVIRONMENTS - 1)
    assert total(found, "envmesh_other_label_values", what="component") == 0


def test_a_slot_in_use_by_no_episode_is_seen_as_leaked():
    connection, _ = connection_with("envmesh_environments.echo:Echo", 3)
    _, registry = meters_of(connection)
    lost = next(iter(connection.engine.episodes))
    assert total(samples(registry), "envmesh_leaked_slots") == 0
    del connection.engine.episodes[lost]  # a defect that forgets an episode and not its slot
    found = samples(registry)
    assert total(found, "envmesh_leaked_slots") == 1
    assert total(found, "envmesh_slots", state="in_use") == 3


def test_calls_of_tools_are_counted_by_what_came_of_them():
    connection, hosted = connection_with("tests.environments.tools:Desk", 2)
    meters, registry = meters_of(connection)
    calls: list[Any] = [
        [Json({"name": "add", "arguments": {"left": 1, "right": 2}}), Json("hm")],
        [Json([{"name": "divide", "arguments": {"by": by}} for by in (0, 1, 2)]), Json("I am done")],
        [Json({"name": "divide", "arguments": {"by": 0}}), Json({"name": "shout"})],
    ]
    for index, actions in enumerate(calls, 1):
        step_all(connection, 2, index, actions)
    meters.flush()
    found = samples(registry)
    own = {"environment": hosted.info.name, "version": hosted.info.version}
    told = {r: total(found, "envmesh_tool_calls_total", result=r, **own) for r in ("ok", "failed", "refused")}
    assert told == {"ok": 3, "failed": 2, "refused": 1}
