"""Reading how often the kernel killed for want of memory."""

import signal
from pathlib import Path

import pytest

from envmesh_host.isolation.death import Death
from envmesh_host.isolation.out_of_memory import OutOfMemory, find_events, kills_in

EVENTS_2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
EVENTS_1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"


@pytest.mark.parametrize(
    ("text", "kills"), [(EVENTS_2, 2), (EVENTS_1, 7), ("", 0), ("oom_kill\n", 0), ("oom_kill many\n", 0)]
)
def test_the_count(text, kills):
    assert kills_in(text) == kills


def test_where_it_is_in_each_version_of_cgroups():
    root = Path("/c")
    assert find_events("0::/pods/one\n", root) == [root / "pods/one/memory.events", root / "memory.events"]
    assert find_events("5:cpu:/a\n4:memory:/pods/one\n", root) == [
        root / "memory/pods/one/memory.oom_control",
        root / "memory/memory.oom_control",
    ]
    assert find_events("4:cpu,cpuacct:/a\n", root) == []


def test_a_kill_is_seen_once(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 1\n")
    seen = OutOfMemory(events)
    assert not seen.look()
    events.write_text("oom_kill 2\n")
    assert seen.look()
    assert not seen.look()
    events.unlink()
    assert not seen.look()


def test_each_kill_counts_for_one_process(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 1\n")
    seen = OutOfMemory(events)
    events.write_text("oom_kill 3\n")
    assert [seen.take() for _ in range(3)] == [True, True, False]


DEATHS = [
    # status, out of memory, its connection, whether it was killed from outside
    (-signal.SIGKILL, False, None, True),
    (-signal.SIGKILL, True, None, False),
    (-signal.SIGTERM, True, None, True),
    (-signal.SIGSEGV, False, None, False),
    (-signal.SIGKILL, False, "sent garbage", False),
    (3, True, None, False),
]


@pytest.mark.parametrize(("status", "starved", "broken", "from_outside"), DEATHS)
def test_whose_doing_the_end_of_a_worker_is(status, starved, broken, from_outside):
    death = Death("e@1", status, "", broken, starved)
    assert death.from_outside is from_outside
    assert death.refusal("step 3").reason == ("WORKER_LOST" if from_outside else "WORKER_CRASHED")
    assert ("want of memory" in death.what) == (starved and status == -signal.SIGKILL)
