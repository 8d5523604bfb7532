"""The metrics that the design names are registered, with the labels and the kinds that it says."""

from __future__ import annotations

import pytest

from tests.monitoring.registered import by_service

HOST, BROKER, AUTOSCALER, CLIENT, EVERY = "host", "broker", "autoscaler", "client", "every service"

LIST: dict[str, tuple[str, str, set[str]]] = {
    "grpc_server_started_total": (EVERY, "counter", {"grpc_service", "grpc_method"}),
    "grpc_server_handled_total": (EVERY, "counter", {"grpc_service", "grpc_method", "grpc_code"}),
    "grpc_server_handling_seconds": (EVERY, "histogram", {"grpc_service", "grpc_method"}),
    "envmesh_build_info": (EVERY, "gauge", {"version"}),
    # what flows inside the stream, and whose time it was
    "envmesh_commands_total": (HOST, "counter", {"kind", "code", "reason"}),
    "envmesh_command_duration_seconds": (HOST, "histogram", {"kind"}),
    "envmesh_step_duration_seconds": (HOST, "histogram", {"environment", "version"}),
    "envmesh_step_overhead_seconds": (HOST, "histogram", set()),
    "envmesh_reset_duration_seconds": (HOST, "histogram", {"environment", "version"}),
    "envmesh_reward_duration_seconds": (HOST, "histogram", {"environment", "version"}),
    "envmesh_queue_wait_seconds": (BROKER, "histogram", set()),
    "envmesh_client_step_duration_seconds": (CLIENT, "histogram", set()),
    "envmesh_client_policy_seconds_total": (CLIENT, "counter", set()),
    # rewards
    "envmesh_episode_reward": (HOST, "histogram", {"environment", "version"}),
    "envmesh_episode_reward_gain_total": (HOST, "counter", {"environment", "version"}),
    "envmesh_episode_reward_loss_total": (HOST, "counter", {"environment", "version"}),
    "envmesh_reward_component": (HOST, "histogram", {"environment", "version", "component"}),
    "envmesh_grades_total": (HOST, "counter", {"environment", "version", "valid"}),
    "envmesh_client_groups_total": (CLIENT, "counter", {"environment", "variance"}),
    "envmesh_client_reward_by_lag": (CLIENT, "histogram", {"lag"}),
    # agents
    "envmesh_episode_length_steps": (HOST, "histogram", {"environment", "version"}),
    "envmesh_tool_calls_total": (HOST, "counter", {"environment", "version", "result"}),
    "envmesh_client_tokens_total": (CLIENT, "counter", {"environment", "version"}),
    "envmesh_action_bytes_total": (HOST, "counter", {"environment", "version"}),
    "envmesh_observation_bytes_total": (HOST, "counter", {"environment", "version"}),
    # episodes, and what becomes of them
    "envmesh_episodes_total": (HOST, "counter", {"environment", "outcome"}),
    "envmesh_failures_total": (HOST, "counter", {"environment", "cause"}),
    "envmesh_live_episodes": (HOST, "gauge", {"state"}),
    "envmesh_slots": (HOST, "gauge", {"state"}),
    "envmesh_leaked_slots": (HOST, "gauge", set()),
    "envmesh_resumes_total": (HOST, "counter", {"kind", "cause"}),
    "envmesh_resume_duration_seconds": (HOST, "histogram", set()),
    "envmesh_replay_divergences_total": (HOST, "counter", set()),
    "envmesh_checkpoints_total": (HOST, "counter", {"store"}),
    "envmesh_interrupted_episodes_total": (BROKER, "counter", {"reason"}),
    # machinery
    "envmesh_pool_hosts": (BROKER, "gauge", {"pool", "state"}),
    "envmesh_plan_hosts": (
        AUTOSCALER,
        "gauge",
        {"pool", "state"},
    ),  # the wanted: its one exporter is the leader
    "envmesh_plan_slots": (AUTOSCALER, "gauge", {"pool", "term"}),
    "envmesh_leader": (AUTOSCALER, "gauge", set()),
    "envmesh_drain_duration_seconds": (BROKER, "histogram", set()),
    "envmesh_event_loop_lag_seconds": (HOST, "histogram", set()),
    "envmesh_frame_events": (HOST, "histogram", set()),
    "envmesh_stream_bytes_total": (HOST, "counter", {"direction"}),
    "envmesh_worker_deaths_total": (HOST, "counter", {"cause"}),
    "envmesh_worker_processes": (HOST, "gauge", set()),
    "envmesh_worker_memory_bytes": (HOST, "gauge", set()),
    # what waits, while it waits
    "envmesh_queue_requests": (BROKER, "gauge", set()),
    "envmesh_oldest_request_seconds": (BROKER, "gauge", set()),
    "envmesh_pool_oldest_drain_seconds": (BROKER, "gauge", {"pool"}),
    "envmesh_oldest_step_seconds": (HOST, "gauge", set()),
    # what is beyond the bounds on labels
    "envmesh_other_label_values": (HOST, "gauge", {"what"}),
}


@pytest.mark.parametrize("name", LIST)
async def test_it_is_registered_by_its_service(name):
    service, kind, labels = LIST[name]
    for instrument in (await by_service())[service]:
        if name in instrument.families:
            assert instrument.families[name] == kind
            assert labels <= set(instrument.label_names)
            return
    pytest.fail(f"no {service} registers {name}")


async def test_only_the_broker_knows_tenants_and_clients_names_begin_with_client():
    for service, instruments in (await by_service()).items():
        for instrument in instruments:
            assert (service == CLIENT) == instrument.name.startswith("envmesh_client_"), instrument.name
            if "tenant" in instrument.label_names:
                assert service == BROKER, instrument.name
