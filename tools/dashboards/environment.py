"""Environment: is it slow, is it broken, or is it the policy?"""

from __future__ import annotations

from tools.dashboards.page import Page, Row
from tools.dashboards.panels import FLEET, HOST, heat, lines, number, stacked

__all__ = ["PAGE"]

RATE = "$__rate_interval"
STEPS = f'{FLEET},kind="step"'
MEAN = (
    "(sum by ({by}) (rate({metric}_gain_total{{{labels}}}[{window}])) - sum by ({by}) (rate({metric}_loss_total{{{labels}}}[{window}])))"
    " / (sum by ({by}) (rate({metric}_count{{{labels}}}[{window}])) > 0)"
)


def mean(metric: str, by: str, labels: str = HOST, window: str = "5m") -> str:
    """The mean of a signed histogram."""
    return MEAN.format(metric=metric, by=by, labels=labels, window=window)


def quantile(q: float, metric: str, labels: str = HOST, by: str = "") -> str:
    """A quantile out of buckets."""
    group = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket{{{labels}}}[5m])))"


def average(metric: str, labels: str = HOST) -> str:
    """The mean of an unsigned histogram."""
    return f"sum(rate({metric}_sum{{{labels}}}[5m])) / (sum(rate({metric}_count{{{labels}}}[5m])) > 0)"


GLANCE = Row(
    "At a glance",
    [
        number(
            "Steps per second", f"sum(rate(envmesh_step_duration_seconds_count{{{HOST}}}[{RATE}]))", "short",
            "Steps of the chosen environments.",
        ),
        number(
            "Step, median", quantile(0.5, "envmesh_step_duration_seconds"), "s",
            "The environment's own time in half of the steps is less.",
        ),
        number(
            "Step, 99 %", quantile(0.99, "envmesh_step_duration_seconds"), "s",
            "The environment's own time in 99 % of the steps is less.", steps=((None, "green"), (1, "orange"), (10, "red")),
        ),
        number(
            "Our part, 99 %", quantile(0.99, "envmesh_step_overhead_seconds", FLEET), "s",
            "Time on the host beyond the environment's own, of all environments together; the objective is 50 ms.",
            steps=((None, "green"), (0.05, "orange"), (0.25, "red")), to="envmesh-runtime",
        ),
        number(
            "Failed episodes",
            f'sum(rate(envmesh_episodes_total{{{HOST},outcome="failed"}}[5m])) / (sum(rate(envmesh_episodes_total{{{HOST}}}[5m])) > 0)',
            "percentunit", "Episodes that end without an outcome.", steps=((None, "green"), (0.01, "orange"), (0.1, "red")),
        ),
        number(
            "Mean return",
            f"(sum(rate(envmesh_episode_reward_gain_total{{{HOST}}}[5m])) - sum(rate(envmesh_episode_reward_loss_total{{{HOST}}}[5m])))"
            f" / (sum(rate(envmesh_episode_reward_count{{{HOST}}}[5m])) > 0)",
            "short", "Of the episodes that ended by themselves in the last five minutes.", decimals=3,
        ),
        number(
            "Mean length", average("envmesh_episode_length_steps"), "short", "Steps of an episode.", decimals=1,
        ),
        number(
            "Invalid rewards",
            f'sum(rate(envmesh_grades_total{{{HOST},valid="false"}}[5m])) / (sum(rate(envmesh_grades_total{{{HOST}}}[5m])) > 0)',
            "percentunit", "Replies to reward() that the environment itself calls invalid.",
            steps=((None, "green"), (0.01, "orange"), (0.05, "red")),
        ),
    ],
    height=4,
)  # fmt: skip

SLOW = Row(
    "Is it slow?",
    [
        stacked(
            "Where a step's time goes",
            [
                (average("envmesh_step_duration_seconds"), "the environment"),
                (average("envmesh_step_overhead_seconds", FLEET), "envmesh on the host"),
                (
                    f"clamp_min({average('envmesh_client_step_duration_seconds', FLEET)} - {average('envmesh_command_duration_seconds', STEPS)}, 0)",
                    "network and client",
                ),
            ],
            "s", "Mean time of a step, split by whose it is. The last part needs trainers that export their metrics.", width=12,
        ),
        heat(
            "Environment's time in a step", f"sum by (le) (rate(envmesh_step_duration_seconds_bucket{{{HOST}}}[{RATE}]))", "s",
            "The environment's own time, worker processes included.", width=12,
        ),
        heat(
            "Reset", f"sum by (le) (rate(envmesh_reset_duration_seconds_bucket{{{HOST}}}[{RATE}]))", "s",
            "The environment's own time in a reset.", width=8, scheme="Blues",
        ),
        lines(
            "Grading",
            [
                (quantile(0.5, "envmesh_reward_duration_seconds"), "median"),
                (quantile(0.99, "envmesh_reward_duration_seconds"), "99 %"),
            ],
            "s", "The environment's own time in reward().",
        ),
        lines(
            "Bytes a step",
            [
                (f"sum(rate(envmesh_action_bytes_total{{{HOST}}}[5m])) / (sum(rate(envmesh_step_duration_seconds_count{{{HOST}}}[5m])) > 0)", "action"),
                (f"sum(rate(envmesh_observation_bytes_total{{{HOST}}}[5m])) / (sum(rate(envmesh_step_duration_seconds_count{{{HOST}}}[5m])) > 0)", "observation"),
            ],
            "bytes", "Mean size of what a step carries.",
        ),
    ],
)  # fmt: skip

BROKEN = Row(
    "Is it broken?",
    [
        stacked(
            "How episodes end", [(f"sum by (outcome) (rate(envmesh_episodes_total{{{HOST}}}[{RATE}]))", "{{outcome}}")],
            "short", "Episodes a second. Closed ones were left before their end; failed ones have no outcome.",
        ),
        stacked(
            "Failures by cause", [(f"sum by (cause) (rate(envmesh_failures_total{{{HOST}}}[{RATE}]))", "{{cause}}")],
            "short", "ENVIRONMENT_RAISED: its code raised. LIMIT_EXCEEDED: too slow. WORKER_…: its process died. Others are ours.",
        ),
        stacked(
            "Commands refused",
            [(f'sum by (kind, reason) (rate(envmesh_commands_total{{{FLEET},code!="OK"}}[{RATE}]))', "{{kind}} {{reason}}")],
            "short", "Commands a second that were refused, of all environments: ACTION_INVALID is the policy's doing.",
        ),
    ],
)  # fmt: skip

POLICY = Row(
    "Is it the policy?",
    [
        heat(
            "Return", f"sum by (le) (rate(envmesh_episode_reward_bucket{{{HOST}}}[{RATE}]))", "short",
            "Return of the episodes that ended by themselves.", width=12, scheme="Greens",
        ),
        lines(
            "Mean return by version", [(mean("envmesh_episode_reward", "environment, version"), "{{environment}}@{{version}}")],
            "short", "A step at a rollout of a new version is the environment's doing, a slope the policy's.", width=12,
            least=None,
        ),
        heat(
            "Episode length", f"sum by (le) (rate(envmesh_episode_length_steps_bucket{{{HOST}}}[{RATE}]))", "short",
            "Steps of an episode.", width=8, scheme="Purples",
        ),
        lines(
            "Mean of each reward component", [(mean("envmesh_reward_component", "component"), "{{component}}")],
            "short", "Which part of the reward the policy earns.", least=None,
        ),
        lines(
            "Does the return vary?",
            [
                (f"sum by (environment, version) (rate(envmesh_episode_reward_changes_total{{{HOST}}}[5m])) / (sum by (environment, version) (rate(envmesh_episode_reward_count{{{HOST}}}[5m])) > 0)", "{{environment}}@{{version}}"),
                (f'1 - sum(rate(envmesh_client_groups_total{{{HOST},variance="zero"}}[5m])) / (sum(rate(envmesh_client_groups_total{{{HOST}}}[5m])) > 0)', "groups with variance"),
            ],
            "percentunit", "Share of returns that differ from the one before, and of groups whose members differ. At 0 nothing can be learned; under the line an alert says so.",
            most=1, steps=((None, "transparent"), (0.1, "red")),
        ),
    ],
)  # fmt: skip

AGENTS = Row(
    "What do the agents do?",
    [
        stacked(
            "Calls of tools", [(f"sum by (result) (rate(envmesh_tool_calls_total{{{HOST}}}[{RATE}]))", "{{result}}")],
            "short", "Calls a second, where the action space lists tools. Failed: the environment says so in the info. Refused: no such tool, or not its arguments.",
        ),
        lines(
            "Calls that come to nothing",
            [(f'sum by (environment) (rate(envmesh_tool_calls_total{{{HOST},result!="ok"}}[5m])) / (sum by (environment) (rate(envmesh_tool_calls_total{{{HOST}}}[5m])) > 0)', "{{environment}}")],
            "percentunit", "Share of calls that failed or were refused: high and level, the tool is broken; falling, the policy learns it.",
            most=1, steps=((None, "green"), (0.5, "orange")),
        ),
        lines(
            "Tokens an episode",
            [(f"sum by (environment) (rate(envmesh_client_tokens_total{{{HOST}}}[5m])) / (sum by (environment) (rate(envmesh_client_episodes_total{{{HOST}}}[5m])) > 0)", "{{environment}}")],
            "short", "Where a trainer annotates its actions with tokens or token_ids.",
        ),
    ],
)  # fmt: skip

PAGE = Page(
    uid="envmesh-environment",
    title="envmesh / Environment",
    why="Is the environment slow, is it broken, or is it the policy?",
    rows=[GLANCE, SLOW, BROKEN, POLICY, AGENTS],
    variables=[
        ("environment", "Environment", f"envmesh_episodes_total{{{FLEET}}}"),
        ("version", "Version", f'envmesh_episodes_total{{{FLEET},environment=~"$environment"}}'),
    ],
)
