"""For each alert, series under which it must fire and series under which it must be silent.

A series is written as promtool has it: values a minute apart, ``0+5x60`` beginning at 0 and 5 more each minute. What
fires is one step away from what is silent, so that each case shows where the line is.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CASES", "Case"]

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """``minutes`` is when the alert is looked at."""

    fires: Series
    silent: Series
    minutes: int = 60


def histogram(name: str, labels: str, fast: int, all_: int, edge: str, minutes: int) -> Series:
    """``fast`` of ``all_`` observations a minute are under the edge."""
    return {
        f'{name}_bucket{{{labels}le="{edge}"}}': f"0+{fast}x{minutes}",
        f"{name}_count{{{labels[:-1]}}}": f"0+{all_}x{minutes}",
    }


def lease(fast: int, minutes: int) -> Series:
    return histogram("envmesh_queue_wait_seconds", 'warm="true",', fast, 1000, "0.25", minutes)


def overhead(fast: int, minutes: int) -> Series:
    return histogram("envmesh_step_overhead_seconds", 'pod="a",', fast, 1000, "0.05", minutes)


ECHO = 'environment="echo",version="1"'
POOL = 'pool="p"'
QUEUE = {'envmesh_queue_slots{state="admissible"}': "5x60"}


def hosts(wanted: int, ready: int) -> Series:
    return {
        f'envmesh_plan_hosts{{{POOL},state="wanted"}}': f"{wanted}x60",
        f'envmesh_pool_hosts{{{POOL},state="ready"}}': f"{ready}x60",
    }


def episodes(failed: int, good: int) -> Series:
    return {
        f'envmesh_episodes_total{{{ECHO},outcome="failed"}}': f"0+{failed}x60",
        f'envmesh_episodes_total{{{ECHO},outcome="terminated"}}': f"0+{good}x60",
    }


def rewards(version: str, mean: int, begin: int, minutes: int) -> Series:
    """A version that gives ten episodes a minute this mean return, from minute ``begin`` on."""
    wait = f"_x{begin} " if begin else ""
    one = f'{{environment="echo",version="{version}"}}'
    return {
        f"envmesh_episode_reward_gain_total{one}": f"{wait}0+{10 * mean}x{minutes - begin}",
        f"envmesh_episode_reward_loss_total{one}": f"{wait}0x{minutes - begin}",
        f"envmesh_episode_reward_count{one}": f"{wait}0+10x{minutes - begin}",
    }


def counter(series: str, fires: str = "0x30 1x30", silent: str = "1x60", minutes: int = 32) -> Case:
    """Fires upon any increase, and not for what was counted long ago."""
    return Case({series: fires}, {series: silent}, minutes)


def gauge(series: str, fires: float, silent: float, minutes: int = 60) -> Case:
    """Fires at one value, and not at another."""
    return Case({series: f"{fires}x60"}, {series: f"{silent}x60"}, minutes)


CASES: dict[str, Case] = {
    "EnvmeshLeaseSlowFastBurn": Case(lease(800, 120), lease(995, 120), 120),
    "EnvmeshLeaseSlowSlowBurn": Case(lease(960, 180), lease(995, 180), 180),
    "EnvmeshStepOverheadSlowFastBurn": Case(overhead(800, 120), overhead(995, 120), 120),
    "EnvmeshStepOverheadSlowSlowBurn": Case(overhead(960, 180), overhead(995, 180), 180),
    "EnvmeshEpisodesInterruptedByScaling": counter('envmesh_interrupted_episodes_total{reason="PREEMPTED"}'),
    "EnvmeshEpisodesLost": counter('envmesh_interrupted_episodes_total{reason="HOST_LOST"}'),
    "EnvmeshQueueOld": Case(
        {**QUEUE, "envmesh_oldest_request_seconds": "61x60"},
        {'envmesh_queue_slots{state="admissible"}': "0x60", "envmesh_oldest_request_seconds": "500x60"},
    ),
    "EnvmeshPoolAtMaximum": Case(
        {**QUEUE, **hosts(10, 10), f"envmesh_pool_max_hosts{{{POOL}}}": "10x60"},
        {**QUEUE, **hosts(9, 9), f"envmesh_pool_max_hosts{{{POOL}}}": "10x60"},
    ),
    "EnvmeshHostsUnschedulable": gauge(f'envmesh_plan_hosts{{{POOL},state="unschedulable"}}', 1, 0),
    "EnvmeshHostsNotAsWanted": Case(hosts(5, 4), hosts(5, 5)),
    "EnvmeshDrainOverdue": gauge(f"envmesh_pool_oldest_drain_seconds{{{POOL}}}", 1801, 1700),
    "EnvmeshDrainPastDeadline": counter('envmesh_drains_total{outcome="overdue"}'),
    "EnvmeshNoLeader": Case(
        {'envmesh_leader{pod="a"}': "0x60", 'envmesh_leader{pod="b"}': "0x60"},
        {'envmesh_leader{pod="a"}': "0x60", 'envmesh_leader{pod="b"}': "1x60"},
    ),
    "EnvmeshTwoLeaders": Case(
        {'envmesh_leader{pod="a"}': "1x60", 'envmesh_leader{pod="b"}': "1x60"},
        {'envmesh_leader{pod="a"}': "0x60", 'envmesh_leader{pod="b"}': "1x60"},
    ),
    "EnvmeshPoolPaused": Case(
        {f"envmesh_pool_paused{{{POOL}}}": "1x90"}, {f"envmesh_pool_paused{{{POOL}}}": "1x40 0x50"}, 80
    ),
    "EnvmeshPoolDryRun": Case(
        {f"envmesh_pool_dry_run{{{POOL}}}": "1x90"}, {f"envmesh_pool_dry_run{{{POOL}}}": "1x40 0x50"}, 80
    ),
    "EnvmeshScalingRefused": Case(
        {f"envmesh_actions_refused_total{{{POOL}}}": "0+1x60"},
        {f"envmesh_actions_refused_total{{{POOL}}}": "0x30 1x30"},
    ),
    "EnvmeshScaleInMismatch": counter(f"envmesh_scale_in_mismatches_total{{{POOL}}}"),
    "EnvmeshResetsFailing": Case(
        {
            'envmesh_commands_total{kind="reset",code="Unknown",reason="ENVIRONMENT_RAISED"}': "0+10x60",
            'envmesh_commands_total{kind="reset",code="OK",reason=""}': "0+90x60",
        },
        {
            'envmesh_commands_total{kind="reset",code="Unavailable",reason="DRAINING"}': "0+10x60",
            'envmesh_commands_total{kind="reset",code="OK",reason=""}': "0+90x60",
        },
    ),
    "EnvmeshEnvironmentFailing": Case(episodes(11, 89), episodes(9, 91)),
    "EnvmeshRewardConstant": Case(
        {
            f"envmesh_episode_reward_changes_total{{{ECHO}}}": "7x60",
            f"envmesh_episode_reward_count{{{ECHO}}}": "0+10x60",
        },
        {
            f"envmesh_episode_reward_changes_total{{{ECHO}}}": "0+1x60",
            f"envmesh_episode_reward_count{{{ECHO}}}": "0+10x60",
        },
    ),
    "EnvmeshRewardInvalid": Case(
        {f'envmesh_failures_total{{{ECHO},cause="REWARD_INVALID"}}': "0+2x60", **episodes(2, 98)},
        {
            f'envmesh_grades_total{{{ECHO},valid="false"}}': "0+1x60",
            f'envmesh_grades_total{{{ECHO},valid="true"}}': "0+200x60",
        },
    ),
    "EnvmeshGroupsWithoutVariance": Case(
        {
            f'envmesh_client_groups_total{{{ECHO},variance="zero"}}': "0+95x60",
            f'envmesh_client_groups_total{{{ECHO},variance="some"}}': "0+5x60",
        },
        {
            f'envmesh_client_groups_total{{{ECHO},variance="zero"}}': "0+80x60",
            f'envmesh_client_groups_total{{{ECHO},variance="some"}}': "0+20x60",
        },
    ),
    "EnvmeshRewardJump": Case(
        {**rewards("1", 1, 0, 240), **rewards("2", 3, 180, 240)},
        {**rewards("1", 1, 0, 240), **rewards("2", 1, 180, 240)},
        230,
    ),
    "EnvmeshStepStuck": gauge('envmesh_oldest_step_seconds{instance="a"}', 1801, 1700),
    "EnvmeshReplayDiverged": counter("envmesh_replay_divergences_total"),
    "EnvmeshHostSilent": gauge(f'envmesh_pool_hosts{{{POOL},state="lost"}}', 1, 0),
    "EnvmeshFleetIncomplete": gauge("envmesh_fleet_complete", 0, 1),
    "EnvmeshSlotsLeaked": gauge('envmesh_leaked_slots{instance="a"}', 1, 0),
    "EnvmeshSlotsStuck": gauge('envmesh_slots{state="stuck"}', 1, 0),
    "EnvmeshWorkersCrashing": Case(
        {'envmesh_worker_deaths_total{cause="crashed"}': "0+2x60"},
        {'envmesh_worker_deaths_total{cause="crashed"}': "0x30 3x30"},
    ),
    "EnvmeshEpisodePoisoned": counter("envmesh_poisoned_episodes_total"),
    "EnvmeshEventLoopLate": Case(
        {
            'envmesh_event_loop_lag_seconds_bucket{le="0.25"}': "0+95x60",
            'envmesh_event_loop_lag_seconds_bucket{le="1"}': "0+100x60",
            'envmesh_event_loop_lag_seconds_bucket{le="+Inf"}': "0+100x60",
        },
        {
            'envmesh_event_loop_lag_seconds_bucket{le="0.25"}': "0+100x60",
            'envmesh_event_loop_lag_seconds_bucket{le="+Inf"}': "0+100x60",
        },
    ),
    "EnvmeshScrapeGone": gauge('up{job="mesh/envmesh-hosts"}', 0, 1),
    "EnvmeshBrokerGone": Case({"up": "1x60"}, {"envmesh_fleet_complete": "1x60"}),
    "EnvmeshCertificateExpiring": gauge(
        "envmesh_certificate_expiry_timestamp_seconds", 3600 + 6 * 86400, 3600 + 8 * 86400
    ),
}
