"""Trainers and tenants: who holds what, who waits, and what trainers see of it."""

from __future__ import annotations

from tools.dashboards.environment import average, mean, quantile
from tools.dashboards.page import Page, Row
from tools.dashboards.panels import FLEET, bars, heat, lines, number, stacked

__all__ = ["PAGE"]

RATE = "$__rate_interval"
TENANT = f'{FLEET},tenant=~"$tenant"'

GLANCE = Row(
    "At a glance",
    [
        number("Tenants", f"count(envmesh_tenant_slots{{{TENANT}}})", "short", "Tenants that hold slots.", width=4),
        number("Slots held", f"sum(envmesh_tenant_slots{{{TENANT}}})", "short", "Slots under lease.", width=4),
        number(
            "Requests waiting", f"sum(envmesh_queue_requests{{{TENANT}}})", "short", "Requests for slots that wait.",
            steps=((None, "green"), (1, "blue"), (100, "orange")), width=4,
        ),
        number(
            "Held back by quota", f'sum(envmesh_queue_slots{{{FLEET},state="held"}})', "short",
            "Slots that wait and that quota does not let in.", steps=((None, "green"), (1, "orange")), width=4,
        ),
        number(
            "Trainers' episodes per second", f"sum(rate(envmesh_client_episodes_total{{{FLEET}}}[{RATE}]))", "short",
            "As the trainers count them that export their metrics.", decimals=1, width=4,
        ),
        number(
            "Step as a trainer sees it, median", quantile(0.5, "envmesh_client_step_duration_seconds", FLEET), "s",
            "From sending an action until its outcome is there.", width=4,
        ),
    ],
    height=4,
)  # fmt: skip

TENANTS = Row(
    "Who holds what?",
    [
        stacked(
            "Slots by tenant", [(f"sum by (tenant) (envmesh_tenant_slots{{{TENANT}}})", "{{tenant}}")], "short",
            "Slots under lease.", width=12,
        ),
        bars(
            "Share of slot-seconds in the last hour",
            [(f"sum by (tenant) (increase(envmesh_tenant_slot_seconds_total{{{TENANT}}}[1h])) / scalar(sum(increase(envmesh_tenant_slot_seconds_total{{{FLEET}}}[1h])))", "{{tenant}}")],
            "percentunit", "What fairness is measured by: with equal weights and constant demand the shares are equal.", width=6, most=1,
        ),
        bars(
            "Quota used",
            [(f"sum by (tenant) (envmesh_tenant_slots{{{TENANT}}}) / (sum by (tenant) (envmesh_tenant_quota_slots{{{TENANT}}}) > 0)", "{{tenant}}")],
            "percentunit", "Slots held, of those a tenant may hold. Tenants without a quota are not shown.", width=6, most=1,
            steps=((None, "green"), (0.9, "orange"), (1, "red")),
        ),
    ],
)  # fmt: skip

WAITING = Row(
    "Who waits?",
    [
        stacked(
            "Requests waiting by tenant", [(f"sum by (tenant) (envmesh_queue_requests{{{TENANT}}})", "{{tenant}}")], "short",
            "Requests for slots that wait.",
        ),
        stacked(
            "Slots granted by tenant", [(f"sum by (tenant) (rate(envmesh_granted_slots_total{{{TENANT}}}[{RATE}]))", "{{tenant}}")],
            "short", "Slots granted a second.",
        ),
        lines(
            "Granted and never shown", [(f"sum(rate(envmesh_lapsed_slots_total{{{FLEET}}}[{RATE}]))", "lapsed")], "short",
            "Slots a second that were promised to a trainer which did not come for them within 10 s.",
        ),
    ],
)  # fmt: skip

TRAINERS = Row(
    "What do trainers see?",
    [
        heat(
            "Step, as trainers see it", f"sum by (le) (rate(envmesh_client_step_duration_seconds_bucket{{{FLEET}}}[{RATE}]))", "s",
            "From sending an action until its outcome is there, of one step at a time on each connection.", width=8,
        ),
        stacked(
            "What a trainer's second is spent on",
            [
                (f"sum(rate(envmesh_client_policy_seconds_total{{{FLEET}}}[5m])) / count(envmesh_client_live_episodes{{{FLEET}}})", "the policy"),
                (f"sum(rate(process_cpu_seconds_total{{{FLEET}}}[5m]) and on (instance) envmesh_client_live_episodes{{{FLEET}}}) / count(envmesh_client_live_episodes{{{FLEET}}})", "the process's CPU"),
            ],
            "percentunit", "Time in the policy's own calls, for each trainer. Near 1 the policy is what everything waits for.",
            steps=((None, "transparent"), (0.9, "orange")),
        ),
        lines(
            "Wait for a slot and reset, as trainers see them",
            [
                (average("envmesh_client_slot_wait_seconds", FLEET), "slot"),
                (average("envmesh_client_reset_duration_seconds", FLEET), "reset"),
            ],
            "s", "Means over five minutes.",
        ),
        lines(
            "Return by the policy's lag", [(mean("envmesh_client_reward_by_lag", "lag", FLEET), "{{lag}}")], "short",
            "Mean return of episodes by how many policy versions old their first action was.", least=None, width=12,
        ),
        stacked(
            "Groups", [(f"sum by (variance) (rate(envmesh_client_groups_total{{{FLEET}}}[{RATE}]))", "{{variance}}")], "short",
            "Groups a second by whether the returns of their members differ; without variance there is no advantage.", width=12,
        ),
    ],
)  # fmt: skip

PAGE = Page(
    uid="envmesh-trainers",
    title="envmesh / Trainers and tenants",
    why="Who holds what, who waits for what, and what do trainers see of it?",
    rows=[GLANCE, TENANTS, WAITING, TRAINERS],
    variables=[("tenant", "Tenant", f"envmesh_acquire_requests_total{{{FLEET}}}")],
)
