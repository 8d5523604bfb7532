"""Fleet: do we have enough, are we wasting, what broke?"""

from __future__ import annotations

from tools.dashboards.page import Page, Row
from tools.dashboards.panels import FLEET, heat, lines, number, rows_table, stacked

__all__ = ["PAGE"]

RATE = "$__rate_interval"


def share(metric: str, edge: str, more: str = "") -> str:
    """The share of observations under a bucket's edge."""
    labels = f"{FLEET},{more}" if more else FLEET
    return f'sum(rate({metric}_bucket{{{labels},le="{edge}"}}[1h])) / (sum(rate({metric}_count{{{labels}}}[1h])) > 0)'


GLANCE = Row(
    "At a glance",
    [
        number(
            "Hosts ready", f'sum(envmesh_pool_hosts{{{FLEET},state="ready"}})', "short",
            "Hosts on which new episodes can be placed.", steps=((None, "red"), (1, "green")), to="envmesh-autoscaler",
        ),
        number(
            "Slots in use", f'sum(envmesh_pool_slots{{{FLEET},state="leased"}}) / sum(envmesh_pool_slots{{{FLEET}}})',
            "percentunit", "Share of all slots that are under lease. Low for long is waste; full means waiting.",
            steps=((None, "blue"), (0.2, "green"), (0.9, "orange"), (0.99, "red")), to="envmesh-autoscaler",
        ),
        number(
            "Steps per second", f"sum(rate(envmesh_step_duration_seconds_count{{{FLEET}}}[{RATE}]))", "short",
            "Steps that all environments together take.", to="envmesh-environment",
        ),
        number(
            "Episodes per second", f"sum(rate(envmesh_episodes_total{{{FLEET}}}[{RATE}]))", "short",
            "Episodes that end, in whatever way.", to="envmesh-environment", decimals=1,
        ),
        number(
            "Failed episodes",
            f'sum(rate(envmesh_episodes_total{{{FLEET},outcome="failed"}}[5m])) / (sum(rate(envmesh_episodes_total{{{FLEET}}}[5m])) > 0)',
            "percentunit", "Share of episodes that end without an outcome. An infrastructure failure is never a reward.",
            steps=((None, "green"), (0.01, "orange"), (0.1, "red")), to="envmesh-environment",
        ),
        number(
            "Requests waiting", f"sum(envmesh_queue_requests{{{FLEET}}})", "short",
            "Trainers' requests for slots that wait.", steps=((None, "green"), (1, "blue"), (100, "orange")),
            to="envmesh-trainers",
        ),
        number(
            "Oldest request", f"max(envmesh_oldest_request_seconds{{{FLEET}}})", "s",
            "How long the request that waits longest has waited.", steps=((None, "green"), (5, "orange"), (60, "red")),
            to="envmesh-trainers",
        ),
        number(
            "Alerts", f'count(ALERTS{{{FLEET},alertname=~"Envmesh.*",alertstate="firing"}}) or vector(0)', "short",
            "Alerts of envmesh that fire now; the runbook of each is in docs/runbooks.md.",
            steps=((None, "green"), (1, "red")), graph=False,
        ),
    ],
    height=4,
)  # fmt: skip

LEVELS = Row(
    "Service levels",
    [
        number(
            "Leases within 250 ms", share("envmesh_queue_wait_seconds", "0.25", 'warm="true"'), "percentunit",
            "Of the leases that were asked for while there was room, over the last hour; the objective is 99 %.",
            steps=((None, "red"), (0.98, "orange"), (0.99, "green")), decimals=2, width=4,
        ),
        number(
            "Our part of a step within 50 ms", share("envmesh_step_overhead_seconds", "0.05"), "percentunit",
            "Of all steps, over the last hour: time on the host beyond the environment's own; the objective is 99 %.",
            steps=((None, "red"), (0.98, "orange"), (0.99, "green")), decimals=2, width=4,
        ),
        lines(
            "Error budget's burn rate",
            [
                (f"max(envmesh:lease_slow:ratio_rate1h{{{FLEET}}}) / 0.01", "leases, 1 h"),
                (f"max(envmesh:lease_slow:ratio_rate6h{{{FLEET}}}) / 0.01", "leases, 6 h"),
                (f"max(envmesh:step_overhead_slow:ratio_rate1h{{{FLEET}}}) / 0.01", "steps, 1 h"),
                (f"max(envmesh:step_overhead_slow:ratio_rate6h{{{FLEET}}}) / 0.01", "steps, 6 h"),
            ],
            "short", "1 uses the month's budget up exactly at its end; 14.4 uses a fiftieth of it in an hour, and pages.",
            width=16, steps=((None, "transparent"), (1, "orange"), (14.4, "red")),
        ),
    ],
    height=6,
)  # fmt: skip

CAPACITY = Row(
    "Do we have enough?",
    [
        stacked(
            "Slots", [(f"sum by (state) (envmesh_pool_slots{{{FLEET}}})", "{{state}}")], "short",
            "Slots of the hosts that are heard: under lease, promised and not yet shown, free.", width=12,
        ),
        stacked(
            "Hosts", [(f"sum by (state) (envmesh_pool_hosts{{{FLEET}}})", "{{state}}")], "short",
            "Hosts as the broker sees them; lost ones are silent, draining ones send their episodes away.", width=12,
        ),
    ],
)  # fmt: skip

WAITING = Row(
    "Who waits, and for how long?",
    [
        heat(
            "Wait for a slot", f"sum by (le) (rate(envmesh_queue_wait_seconds_bucket{{{FLEET}}}[{RATE}]))", "s",
            "From a trainer's Acquire until each of its grants.", width=12,
        ),
        lines(
            "Slots that are waited for", [(f"sum by (state) (envmesh_queue_slots{{{FLEET}}})", "{{state}}")], "short",
            "Admissible ones wait for hosts; held ones wait for their tenant's quota.", width=6,
        ),
        stacked(
            "Requests refused", [(f"sum by (reason) (rate(envmesh_refused_requests_total{{{FLEET}}}[{RATE}]))", "{{reason}}")],
            "reqps", "Requests for slots that were refused or sent away, by why.", width=6,
        ),
    ],
)  # fmt: skip

BROKEN = Row(
    "What broke?",
    [
        stacked(
            "Failures by cause", [(f"sum by (cause) (rate(envmesh_failures_total{{{FLEET}}}[{RATE}]))", "{{cause}}")],
            "short", "Episodes a second that end without an outcome. ENVIRONMENT_… is the environment's doing.",
        ),
        stacked(
            "Interrupted for good",
            [(f"sum by (reason) (increase(envmesh_interrupted_episodes_total{{{FLEET}}}[{RATE}]))", "{{reason}}")],
            "short", "Episodes that nobody can go on with. PREEMPTED is our own doing and must not happen.",
        ),
        rows_table(
            "Firing alerts", f'ALERTS{{{FLEET},alertname=~"Envmesh.*",alertstate="firing"}}', "short",
            "What docs/runbooks.md has a section for.", hide=("alertstate", "Value"),
        ),
    ],
)  # fmt: skip

PAGE = Page(
    uid="envmesh-fleet",
    title="envmesh / Fleet",
    why="Do we have enough hosts, are we wasting them, and what broke?",
    rows=[GLANCE, LEVELS, CAPACITY, WAITING, BROKEN],
)
