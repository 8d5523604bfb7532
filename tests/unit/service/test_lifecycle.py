import asyncio
import os
import signal
import subprocess
import sys

import pytest

from envmesh_service.lifecycle import Shutdown, run_process

PROGRAM = """
import asyncio, sys
from envmesh_service.lifecycle import run_process

async def body(process):
    print("up", flush=True)
    await process.shutdown.wait()
    print("draining", process.shutdown.reason, flush=True)
    {drain}

shutdown = asyncio.run(run_process(body, grace={grace}))
print("ended", shutdown.forced, flush=True)
"""


STUBBORN = """
import asyncio
from envmesh_service.lifecycle import Shutdown, run_process

async def body(process):
    print("up", flush=True)
    await process.shutdown.wait()
    print("draining", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("ending", flush=True)

shutdown = Shutdown(last_words=lambda: print("last words", flush=True), forced_status=130)
asyncio.run(run_process(body, shutdown=shutdown))
"""


def program(drain, grace="30.0", stderr=None):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(drain=drain, grace=grace)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def line(process):
    return process.stdout.readline().strip()


def test_the_first_signal_drains():
    with program("print('drained', flush=True)") as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGTERM)
        assert [line(process) for _ in range(3)] == ["draining SIGTERM", "drained", "ended False"]
    assert process.returncode == 0


def test_the_second_signal_ends_it_now():
    with program("await asyncio.sleep(60)") as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGINT)
        assert line(process) == "draining SIGINT"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "ended True"


def test_a_body_that_does_not_heed_its_end_is_ended_all_the_same():
    stubborn = "[await asyncio.gather(asyncio.sleep(60), return_exceptions=True) for _ in range(9)]"
    with program(f"\n    try: await asyncio.sleep(60)\n    finally: {stubborn}") as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGTERM)
        assert line(process).startswith("draining")
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert process.returncode == 70


def test_who_does_not_heed_its_end_has_last_words_and_a_status_of_its_own():
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGINT)
        assert line(process) == "draining"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "ending"
        process.send_signal(signal.SIGINT)
        assert line(process) == "last words"
    assert process.returncode == 130


def test_a_terminal_that_goes_drains_and_is_no_impatience():
    with program("[print(await asyncio.sleep(0.05, i), flush=True) for i in range(2)]") as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGHUP)
        assert line(process) == "draining SIGHUP"
        process.send_signal(signal.SIGHUP)
        assert [line(process) for _ in range(3)] == ["0", "1", "ended False"]
    assert process.returncode == 0


def test_under_nohup_a_terminal_that_goes_changes_nothing():
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PROGRAM
    command = [sys.executable, "-c", ignoring.format(drain="pass", grace="30.0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert line(process) == "draining SIGTERM"


def test_what_is_said_to_a_terminal_that_went_is_no_error():
    ours, theirs = os.openpty()
    with program("print('drained', file=sys.stderr, flush=True)", stderr=theirs) as process:
        os.close(theirs)
        assert line(process) == "up"
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert [line(process) for _ in range(2)] == ["draining SIGHUP", "ended False"]
    assert process.returncode == 0


async def test_the_grace_period_ends_what_does_not_drain():
    shutdown = Shutdown()

    async def body(process):
        process.shutdown.request("test")
        await asyncio.Event().wait()

    assert (await run_process(body, grace=0.05, signals=False, shutdown=shutdown)).forced


async def test_background_tasks_end_with_the_body_and_their_failure_ends_it():
    ended = []

    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("background")

    async def body(process):
        task = process.spawn(background(), name="background")
        assert task.get_name() == "background"
        await asyncio.sleep(0)

    await run_process(body, signals=False)
    assert ended == ["background"]

    async def fails():
        raise ValueError("broken")

    async def waits(process):
        process.spawn(fails(), name="fails")
        await asyncio.Event().wait()

    with pytest.raises(BaseExceptionGroup) as caught:
        await run_process(waits, signals=False)
    assert caught.group_contains(ValueError, match="broken")


def test_signal_handlers_are_restored():
    async def body(process):
        os.kill(os.getpid(), signal.SIGTERM)
        await process.shutdown.wait()

    asyncio.run(run_process(body))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
