"""For each alert, series under which it must fire and series under which it must be silent.

A series is written as promtool has it: values a minute apart, ``0+5x60`` beginning at 0 and 5 more each minute. What
fires is close to what is silent, so that each case shows where the line is. An alert with several ways to fire has
several cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CASES", "Case"]

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """``minutes`` is when the alert is looked at."""

    fires: Series
    silent: Series
    minutes: int = 60
    more_fires: tuple[Series, ...] = ()
    more_silent: tuple[Series, ...] = ()


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


def over(series: Series, fast: int, minutes: int) -> Series:
    """The same, and from then on so many of a minute's 1,000 observations are under the edge."""
    return {
        name: f"{values} {_last(values)}+{fast if '_bucket' in name else 1000}x{minutes}"
        for name, values in series.items()
    }


def _last(values: str) -> int:
    """What ``0+5x60`` comes to."""
    step, times = values.removeprefix("0+").split("x")
    return int(step) * int(times)


ECHO = 'environment="echo",version="1"'
POOL = 'pool="p"'
BROKER_OF_A = 'envmesh_fleet_complete{namespace="a"}'
BROKER_OF_B = 'envmesh_fleet_complete{namespace="b"}'
LEADER_OF_A = 'envmesh_leader{namespace="a"}'
FIRST_BROKER, SECOND_BROKER = 'envmesh_fleet_complete{pod="1"}', 'envmesh_fleet_complete{pod="2"}'
QUEUE = {'envmesh_queue_slots{state="admissible"}': "5x60"}


def hosts(wanted: int, ready: int) -> Series:
    return {
        f'envmesh_plan_hosts{{{POOL},state="wanted"}}': f"{wanted}x60",
        f'envmesh_pool_hosts{{{POOL},state="ready"}}': f"{ready}x60",
    }


def queued(pool: str) -> Series:
    return {f'envmesh_plan_slots{{pool="{pool}",term="queued"}}': "5x60"}


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


def burn(level: Callable[[int, int], Series], fires: int, silent: int) -> Case:
    """Fires while a service level is missed for three hours, and not when that has been over for seven."""
    missed = over(level(fires, 180), fires, 420)
    return Case(missed, level(silent, 600), 600, more_silent=(over(level(fires, 180), 1000, 420),))


CASES: dict[str, Case] = {
    "EnvmeshLeaseSlowFastBurn": burn(lease, 930, 945),
    "EnvmeshLeaseSlowSlowBurn": burn(lease, 985, 991),
    "EnvmeshStepOverheadSlowFastBurn": burn(overhead, 930, 945),
    "EnvmeshStepOverheadSlowSlowBurn": burn(overhead, 985, 991),
    "EnvmeshEpisodesInterruptedByScaling": counter('envmesh_interrupted_episodes_total{reason="PREEMPTED"}'),
    "EnvmeshEpisodesLost": counter('envmesh_interrupted_episodes_total{reason="HOST_LOST"}'),
    "EnvmeshQueueOld": Case(
        {**QUEUE, "envmesh_oldest_request_seconds": "61x60"},
        {'envmesh_queue_slots{state="admissible"}': "0x60", "envmesh_oldest_request_seconds": "500x60"},
    ),
    "EnvmeshPoolAtMaximum": Case(
        {**queued("p"), **hosts(10, 10), f"envmesh_pool_max_hosts{{{POOL}}}": "10x60"},
        {**queued("p"), **hosts(9, 9), f"envmesh_pool_max_hosts{{{POOL}}}": "10x60"},
        more_silent=({**queued("another"), **hosts(10, 10), f"envmesh_pool_max_hosts{{{POOL}}}": "10x60"},),
    ),
    "EnvmeshHostsUnschedulable": gauge(f'envmesh_plan_hosts{{{POOL},state="unschedulable"}}', 1, 0),
    "EnvmeshHostsRefused": gauge(f"envmesh_pool_hosts_refused{{{POOL}}}", 1, 0),
    "EnvmeshHostsNotAsWanted": Case(
        hosts(5, 4),
        hosts(5, 5),
        more_fires=(hosts(5, 0), hosts(4, 5)),
        more_silent=(
            {**hosts(5, 4), f"envmesh_pool_paused{{{POOL}}}": "1x60"},
            {**hosts(5, 4), f"envmesh_pool_dry_run{{{POOL}}}": "1x60"},
            {**hosts(5, 4), f"envmesh_pool_hpa{{{POOL}}}": "1x60"},
        ),
    ),
    "EnvmeshDrainOverdue": gauge(f"envmesh_pool_oldest_drain_seconds{{{POOL}}}", 1801, 1700),
    "EnvmeshDrainPastDeadline": Case(
        {'envmesh_drains_total{outcome="overdue"}': "0x30 1x30"},
        {
            'envmesh_drains_total{outcome="overdue"}': "1x60",
            'envmesh_drains_total{outcome="emptied"}': "0x30 1x30",
        },
        32,
    ),
    "EnvmeshNoLeader": Case(
        {'envmesh_leader{pod="a"}': "0x60", 'envmesh_leader{pod="b"}': "0x60"},
        {'envmesh_leader{pod="a"}': "0x60", 'envmesh_leader{pod="b"}': "1x60"},
        more_fires=({'envmesh_leader{pod="a"}': "1x30 stale _x30"},),  # it is gone, and no other is there
        more_silent=({'envmesh_leader{pod="a"}': "1x30 stale _x30", 'envmesh_leader{pod="b"}': "1x60"},),
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
        more_fires=(
            {
                f'envmesh_grades_total{{{ECHO},valid="false"}}': "0+3x60",
                f'envmesh_grades_total{{{ECHO},valid="true"}}': "0+197x60",
            },
        ),
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
    "EnvmeshEpisodePoisoned": counter('envmesh_client_interrupted_episodes_total{reason="POISON"}'),
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
    "EnvmeshScrapeGone": Case(
        {'up{job="mesh/envmesh-hosts"}': "0x60"},
        {'up{job="mesh/envmesh-hosts"}': "1x60"},
        more_fires=(
            {'up{job="rl-broker"}': "1x30 0x30", 'envmesh_build_info{job="rl-broker"}': "1x30 stale _x30"},
        ),
        more_silent=({'up{job="somebody-else"}': "0x60"},),
    ),
    "EnvmeshBrokerGone": Case(
        {"up": "1x60"},  # no broker anywhere, nor ever
        {"envmesh_fleet_complete": "1x60"},
        more_fires=(
            {BROKER_OF_A: "1x30 stale _x30", BROKER_OF_B: "1x60"},  # one of two is gone
            {LEADER_OF_A: "1x60", BROKER_OF_B: "1x60"},  # one was never found, and its autoscaler is
        ),
        more_silent=(
            {BROKER_OF_A: "0x60", BROKER_OF_B: "1x60"},  # an incomplete picture is a broker's word too
            {FIRST_BROKER: "1x30 stale _x30", SECOND_BROKER: "_x31 1x28"},  # it was begun anew
        ),
    ),
    "EnvmeshCertificateExpiring": gauge(
        "envmesh_certificate_expiry_timestamp_seconds", 3600 + 6 * 86400, 3600 + 8 * 86400
    ),
}
