"""Autoscaler: why are there as many hosts as there are?"""

from __future__ import annotations

from tools.dashboards.page import Page, Row
from tools.dashboards.panels import FLEET, heat, lines, number, stacked

__all__ = ["PAGE"]

RATE = "$__rate_interval"
POOL = f'{FLEET},pool=~"$pool"'

GLANCE = Row(
    "At a glance",
    [
        number(
            "Leaders", f"sum(envmesh_leader{{{FLEET}}})", "short", "Autoscalers that lead: one, always.",
            steps=((None, "red"), (1, "green"), (2, "red")), graph=False,
        ),
        number(
            "Hosts wanted", f'sum(envmesh_plan_hosts{{{POOL},state="wanted"}})', "short",
            "What the plan wants, before draining and silent hosts are added.",
        ),
        number(
            "Hosts ready", f'sum(envmesh_pool_hosts{{{POOL},state="ready"}})', "short", "What there is to place on.",
            steps=((None, "red"), (1, "green")),
        ),
        number(
            "Nothing lowered", f"sum(envmesh_plan_held{{{POOL}}})", "short",
            "Pools that may not shrink now: the picture is incomplete, or somebody waits.", steps=((None, "green"), (1, "orange")),
        ),
        number(
            "Unschedulable", f'sum(envmesh_plan_hosts{{{POOL},state="unschedulable"}})', "short",
            "Hosts that find no node.", steps=((None, "green"), (1, "red")),
        ),
        number(
            "Paused or in dry run", f"sum(envmesh_pool_paused{{{POOL}}}) + sum(envmesh_pool_dry_run{{{POOL}}})", "short",
            "Pools whose hosts are not scaled.", steps=((None, "green"), (1, "orange")),
        ),
        number(
            "Oldest drain", f"max(envmesh_pool_oldest_drain_seconds{{{POOL}}})", "s", "How long a host has been draining.",
            steps=((None, "green"), (600, "orange"), (1800, "red")),
        ),
        number(
            "Wrong hosts removed", f"sum(increase(envmesh_scale_in_mismatches_total{{{POOL}}}[1h]))", "short",
            "Hosts that went in the place of those that were sealed, in the last hour: must be 0.",
            steps=((None, "green"), (1, "red")),
        ),
    ],
    height=4,
)  # fmt: skip

WHY = Row(
    "Why so many?",
    [
        lines(
            "The plan's terms", [(f"sum by (term) (envmesh_plan_slots{{{POOL}}})", "{{term}}")], "short",
            "leased + queued + reserved = now; the forecast adds the trend; the buffer comes on top; want is the highest in the look-back.",
            width=12,
        ),
        lines(
            "Wanted, asked for, there",
            [
                (f'sum by (state) (envmesh_plan_hosts{{{POOL},state=~"wanted|replicas"}})', "{{state}}"),
                (f'sum(envmesh_pool_hosts{{{POOL},state="ready"}})', "ready"),
                (f"sum(envmesh_pool_max_hosts{{{POOL}}})", "maximum"),
            ],
            "short", "Replicas are the wanted hosts, those that drain and those that are silent; wanted and ready apart for long is a fault.",
            width=12,
        ),
    ],
)  # fmt: skip

DECISIONS = Row(
    "What was decided?",
    [
        stacked(
            "Decisions", [(f"sum by (action) (increase(envmesh_decisions_total{{{POOL}}}[{RATE}]))", "{{action}}")], "short",
            "Hosts by what was decided about them.",
        ),
        lines(
            "From demand to replicas",
            [
                (f"histogram_quantile({q}, sum by (le) (rate(envmesh_decision_duration_seconds_bucket{{{FLEET}}}[5m])))", name)
                for q, name in ((0.5, "median"), (0.99, "99 %"))
            ],
            "s", "From the broker's picture until replicas were written; the aim is a second.",
            steps=((None, "transparent"), (1, "orange")),
        ),
        lines(
            "Refused by the cluster", [(f"sum by (pool) (increase(envmesh_actions_refused_total{{{POOL}}}[{RATE}]))", "{{pool}}")],
            "short", "Actions that quota, rights or a conflict prevented; they are planned anew.",
        ),
    ],
)  # fmt: skip

DRAINS = Row(
    "Do drains go well?",
    [
        heat(
            "Length of a drain", f"sum by (le) (rate(envmesh_drain_duration_seconds_bucket{{{FLEET}}}[{RATE}]))", "s",
            "From a drain's beginning until its host was empty, it was taken back, or its time was over.", width=8, scheme="Blues",
        ),
        stacked(
            "How drains end", [(f"sum by (outcome) (increase(envmesh_drains_total{{{FLEET}}}[{RATE}]))", "{{outcome}}")], "short",
            "Overdue ones reached their deadline with episodes still there.",
        ),
        lines(
            "Oldest drain of each pool", [(f"max by (pool) (envmesh_pool_oldest_drain_seconds{{{POOL}}})", "{{pool}}")], "s",
            "A drain we chose has no deadline; after drain_patience it is taken back.",
            steps=((None, "transparent"), (1800, "red")),
        ),
    ],
)  # fmt: skip

PAGE = Page(
    uid="envmesh-autoscaler",
    title="envmesh / Autoscaler",
    why="Why are there as many hosts as there are, and do they come and go well?",
    rows=[GLANCE, WHY, DECISIONS, DRAINS],
    variables=[("pool", "Pool", f"envmesh_pool_hosts{{{FLEET}}}")],
)
