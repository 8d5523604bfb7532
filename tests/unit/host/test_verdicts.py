"""How a host's end is judged: every kind of evidence, alone and together."""

import signal

import pytest

from envmesh.v1 import placement_pb2
from envmesh_host.verdicts import Evidence, fatal_line, judge_death, judge_silence

OUTSIDE = placement_pb2.LOSS_CAUSE_OUTSIDE
CRASHED = placement_pb2.LOSS_CAUSE_CRASHED
STUCK = placement_pb2.LOSS_CAUSE_STUCK
OUT_OF_MEMORY = placement_pb2.LOSS_CAUSE_OUT_OF_MEMORY

KILLED = -signal.SIGKILL

DEATHS = [
    # evidence, cause, a word of the message
    ({}, OUTSIDE, "from outside"),
    ({"status": KILLED}, OUTSIDE, "SIGKILL"),
    ({"status": -signal.SIGTERM}, OUTSIDE, "SIGTERM"),
    ({"status": -signal.SIGHUP}, OUTSIDE, "SIGHUP"),
    ({"status": KILLED, "out_of_memory": True}, OUT_OF_MEMORY, "memory"),
    ({"out_of_memory": True}, OUT_OF_MEMORY, "memory"),
    ({"status": KILLED, "told": True, "out_of_memory": True}, OUT_OF_MEMORY, "memory"),
    ({"status": -signal.SIGTERM, "out_of_memory": True}, OUTSIDE, "SIGTERM"),
    ({"status": -signal.SIGSEGV}, CRASHED, "SIGSEGV"),
    ({"status": -signal.SIGSEGV, "told": True}, CRASHED, "SIGSEGV"),
    ({"fatal": "Segmentation fault"}, CRASHED, "Segmentation fault"),
    ({"fatal": "Aborted", "status": -signal.SIGABRT, "told": True}, CRASHED, "Aborted"),
    ({"fatal": "Bus error", "left": True}, CRASHED, "Bus error"),
    ({"status": -63}, CRASHED, "signal 63"),
    ({"status": 3}, CRASHED, "exit code 3"),
    ({"status": 0}, CRASHED, "exit code 0"),
    ({"status": 70, "told": True}, OUTSIDE, "told to go"),
    ({"status": KILLED, "told": True}, OUTSIDE, "told to go"),
    ({"told": True}, OUTSIDE, "told to go"),
    ({"status": 0, "told": True, "left": True}, OUTSIDE, "good order"),
    ({"status": 1, "left": True}, OUTSIDE, "good order"),
    ({"status": KILLED, "stuck": "code runs for 9 s"}, STUCK, "9 s"),
    ({"stuck": "code runs for 9 s", "fatal": "Aborted", "told": True}, STUCK, "9 s"),
]


@pytest.mark.parametrize(("evidence", "cause", "word"), DEATHS)
def test_a_death_is_judged(evidence, cause, word):
    verdict = judge_death(Evidence(**evidence))
    assert verdict.cause == cause
    assert word in verdict.message


SILENCES = [
    # state, seconds of silence, seconds in an environment's code, cause
    ("S", 0.0, 0.0, None),
    ("R", 0.9, 0.9, None),
    ("R", 1.0, 1.0, STUCK),
    ("S", 5.0, 5.0, STUCK),
    ("D", 5.0, 5.0, STUCK),
    ("R", 60.0, 0.0, None),  # it runs, but nobody knows what: it convicts nobody and acquits nobody
    ("R", 60.0, 0.5, None),
    ("T", 0.4, 0.0, None),
    ("T", 0.5, 0.0, OUTSIDE),
    ("T", 60.0, 60.0, OUTSIDE),  # its code does not run while it is stopped
    ("t", 1.0, 0.0, OUTSIDE),
    ("", 60.0, 0.0, None),
]


@pytest.mark.parametrize(("state", "silent", "in_code", "cause"), SILENCES)
def test_a_silence_is_judged(state, silent, in_code, cause):
    verdict = judge_silence(state, silent, in_code)
    assert (verdict.cause if verdict is not None else None) == cause


def test_the_first_line_of_what_faulthandler_says():
    words = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
    assert fatal_line(words) == "Segmentation fault"
    assert fatal_line("somebody printed this\n" + words) == "Segmentation fault"
    assert fatal_line("somebody printed this\n") == ""
