"""The progress of rollouts: a bar in a terminal, which ends; whole lines in a pipe; nothing unless it is asked for."""

import os
import pty
import subprocess
import sys

import pytest

CONTROL = ("\r", "\x1b")
SHOW_CURSOR = "\x1b[?25h"

TRAINER = """
import asyncio, sys
import envmesh

async def main(address, progress, leave):
    async with envmesh.connect(address) as mesh:
        policy = lambda observation: int(observation[2] > 0)
        rollouts = mesh.rollouts("cartpole", policy, episodes=400, concurrency=20, progress=progress)
        async with rollouts:
            async for _ in rollouts:
                if leave:
                    break

if "plain" in sys.argv:
    sys.modules["rich"] = sys.modules["rich.console"] = sys.modules["rich.progress"] = None
asyncio.run(main(sys.argv[1], "silent" not in sys.argv, "leave" in sys.argv))
"""


def in_a_terminal(*arguments: str) -> str:
    """What a trainer writes to a real terminal."""
    ours, terminal = pty.openpty()
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, *arguments], stderr=terminal)
    os.close(terminal)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how a terminal says that nobody holds it any more
        pass
    os.close(ours)
    assert trainer.wait(20) == 0, written.decode()
    return written.decode()


def in_a_pipe(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TRAINER, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("how", ["rich", "plain"])
def test_a_terminal_has_a_bar_that_moves_and_ends(host, how):
    seen = in_a_terminal(host.address, how)
    assert "cartpole" in seen
    assert "0/400 episodes" in seen
    assert "live" in seen, "it was drawn while episodes were played"
    assert any(control in seen for control in CONTROL), "it was drawn again in its place"
    last = seen[seen.rindex("400/400 episodes") :]
    assert "live" not in last
    assert "episodes/s" in last
    assert "\n" in last, "what is printed next has a line of its own"
    if how == "rich":
        assert seen.rindex(SHOW_CURSOR) > seen.rindex("\x1b[?25l"), "the cursor is back"


def test_a_loop_that_is_left_leaves_no_bar_behind(host):
    seen = in_a_terminal(host.address, "leave")
    assert seen.rindex(SHOW_CURSOR) > seen.rindex("episodes/s")


def test_a_pipe_gets_whole_lines_and_no_drawing(host):
    seen = in_a_pipe(host.address)
    assert not [control for control in CONTROL if control in seen]
    lines = seen.splitlines()
    assert lines[-1].startswith("cartpole: 400/400 episodes, ")
    assert len(lines) < 10, "a line every five seconds, not one an episode"


def test_nothing_is_written_unasked(host):
    assert in_a_pipe(host.address, "silent") == ""
    assert in_a_terminal(host.address, "silent") == ""
