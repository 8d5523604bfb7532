"""Runtime and recovery: do the processes keep up, and does what is lost come back?"""

from __future__ import annotations

from tools.dashboards.environment import quantile
from tools.dashboards.page import Page, Row
from tools.dashboards.panels import FLEET, heat, lines, number, rows_table, stacked

__all__ = ["PAGE"]

RATE = "$__rate_interval"
NOT_OK = 'grpc_code!~"OK|Canceled"'

GLANCE = Row(
    "At a glance",
    [
        number(
            "Hosts lost", f'sum(envmesh_pool_hosts{{{FLEET},state="lost"}})', "short", "Hosts that are no longer heard.",
            steps=((None, "green"), (1, "red")),
        ),
        number(
            "Fleet complete", f"min(envmesh_fleet_complete{{{FLEET}}})", "bool_yes_no",
            "Whether every host of the last minutes is heard, or known to be gone.", steps=((None, "red"), (1, "green")), graph=False,
        ),
        number(
            "Event loop late, 99 %", quantile(0.99, "envmesh_event_loop_lag_seconds", FLEET), "s",
            "How late the event loops run.", steps=((None, "green"), (0.05, "orange"), (0.25, "red")),
        ),
        number(
            "Resumes in the last hour", f"sum(increase(envmesh_resumes_total{{{FLEET}}}[1h]))", "short",
            "Episodes that were rebuilt or taken over.", decimals=0,
        ),
        number(
            "Resume, 99 %", quantile(0.99, "envmesh_resume_duration_seconds", FLEET), "s", "How long a resume takes on its host.",
            steps=((None, "green"), (1, "orange"), (10, "red")),
        ),
        number(
            "Divergences", f"sum(increase(envmesh_replay_divergences_total{{{FLEET}}}[1h]))", "short",
            "Replays of the last hour that came to another outcome: must be 0.", steps=((None, "green"), (1, "red")),
        ),
        number(
            "Slots leaked", f"sum(envmesh_leaked_slots{{{FLEET}}})", "short", "Slots in use by no episode: must be 0.",
            steps=((None, "green"), (1, "red")),
        ),
        number(
            "Certificates valid for", f"min(envmesh_certificate_expiry_timestamp_seconds{{{FLEET}}}) - time()", "s",
            "Until the first certificate expires.", steps=((None, "red"), (7 * 86400, "orange"), (14 * 86400, "green")), graph=False,
        ),
    ],
    height=4,
)  # fmt: skip

RECOVERY = Row(
    "Does what is lost come back?",
    [
        stacked(
            "Resumes", [(f"sum by (kind, cause) (rate(envmesh_resumes_total{{{FLEET}}}[{RATE}]))", "{{kind}}, {{cause}}")], "short",
            "Episodes a second. Takeover: the live copy was still there. Replay: rebuilt from actions. Checkpoint: from saved state.",
        ),
        heat(
            "Resume", f"sum by (le) (rate(envmesh_resume_duration_seconds_bucket{{{FLEET}}}[{RATE}]))", "s",
            "From a Resume's arrival at its host until the reply.", width=8,
        ),
        lines(
            "Work done twice",
            [
                (f"sum(rate(envmesh_replayed_steps_total{{{FLEET}}}[{RATE}]))", "steps replayed"),
                (f"sum(rate(envmesh_epochs_fenced_total{{{FLEET}}}[{RATE}]))", "older copies dropped"),
            ],
            "short", "Steps and copies a second that recovery cost.",
        ),
        stacked(
            "Workers that died", [(f"sum by (cause) (increase(envmesh_worker_deaths_total{{{FLEET}}}[{RATE}]))", "{{cause}}")], "short",
            "Crashed: their own doing. Killed: from outside or for lack of memory. Overran: ended at a limit.",
        ),
        stacked(
            "Episodes interrupted for good",
            [(f"sum by (reason) (increase(envmesh_interrupted_episodes_total{{{FLEET}}}[{RATE}]))", "{{reason}}")], "short",
            "What nobody could go on with.",
        ),
        lines(
            "Checkpoints",
            [
                (f"sum by (store) (rate(envmesh_checkpoints_total{{{FLEET}}}[{RATE}]))", "taken, {{store}}"),
                (f"sum(rate(envmesh_checkpoint_bytes_total{{{FLEET}}}[{RATE}])) / (sum(rate(envmesh_checkpoints_total{{{FLEET}}}[{RATE}])) > 0)", "mean size"),
            ],
            "short", "Checkpoints a second, and on the right their mean size.", right=("B", "bytes"),
        ),
    ],
    height=7,
)  # fmt: skip

RUNTIME = Row(
    "Do the processes keep up?",
    [
        heat(
            "Event loop lag", f"sum by (le) (rate(envmesh_event_loop_lag_seconds_bucket{{{FLEET}}}[{RATE}]))", "s",
            "How late the event loops of hosts and broker run; late loops make everything late.", width=8,
        ),
        heat(
            "Events in a frame", f"sum by (le) (rate(envmesh_frame_events_bucket{{{FLEET}}}[{RATE}]))", "short",
            "Full frames are what makes many episodes cheap.", width=8, scheme="Blues",
        ),
        lines(
            "Frames and bytes",
            [
                (f"sum by (direction) (rate(envmesh_stream_bytes_total{{{FLEET}}}[{RATE}]))", "{{direction}}"),
            ],
            "Bps", "What hosts and clients send one another over streams.",
        ),
        lines(
            "Memory",
            [
                (f"sum(process_resident_memory_bytes{{{FLEET}}})", "hosts and broker"),
                (f"sum(envmesh_worker_memory_bytes{{{FLEET}}})", "what runs below hosts"),
            ],
            "bytes", "Resident memory; pages that processes share count in each.",
        ),
        lines(
            "CPU",
            [
                (f"sum(rate(process_cpu_seconds_total{{{FLEET}}}[{RATE}]))", "hosts and broker"),
                (f"sum(rate(envmesh_worker_cpu_seconds_total{{{FLEET}}}[{RATE}]))", "what runs below hosts"),
            ],
            "short", "Cores that are in use.",
        ),
        lines(
            "Longest running command", [(f"max by (instance) (envmesh_oldest_step_seconds{{{FLEET}}})", "{{instance}}")], "s",
            "Age of the oldest command that runs on a host.", steps=((None, "transparent"), (1800, "red")),
        ),
    ],
    height=7,
)  # fmt: skip

CALLS = Row(
    "Calls",
    [
        lines(
            "Calls", [(f"sum by (grpc_method) (rate(grpc_server_handled_total{{{FLEET}}}[{RATE}]))", "{{grpc_method}}")], "reqps",
            "gRPC calls that ended, under the names of go-grpc-prometheus.",
        ),
        lines(
            "Calls that failed",
            [(f"sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{{{FLEET},{NOT_OK}}}[{RATE}]))", "{{grpc_method}} {{grpc_code}}")],
            "reqps", "Calls that ended with another code than OK.",
        ),
        rows_table(
            "What runs", f"count by (version, python, grpc, event_loop) (envmesh_build_info{{{FLEET}}})", "short",
            "Processes by the versions of what they are made of; two rows mean a rollout is under way.",
        ),
    ],
    height=7,
)  # fmt: skip

PAGE = Page(
    uid="envmesh-runtime",
    title="envmesh / Runtime and recovery",
    why="Do the processes keep up, and does what is lost come back?",
    rows=[GLANCE, RECOVERY, RUNTIME, CALLS],
)
