"""One process of a benchmark: ``python -m benchmarks.peers serve|play NAME --port PORT --core CORE``.

``play`` reads orders from its standard input and answers on its standard output, a JSON object a line, until its input
ends: ``{"connect": concurrency}``, ``{"warm_up": seconds, "seconds": seconds}`` and ``{"disconnect": true}``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import resource
import sys
import traceback
from contextlib import AsyncExitStack
from typing import Any, TextIO

from benchmarks.job import Play, measure
from benchmarks.peers import PEERS, Peer


def main() -> None:
    """Pin this process to its core, then serve or play."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("role", choices=("serve", "play"))
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--core", type=int, required=True)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    peer = PEERS[arguments.name]
    if arguments.role == "serve":
        importlib.import_module(peer.module).serve(arguments.port)
    else:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a peer's library prints is no answer
        run(_obey(peer, arguments.port, answers))


def run(coroutine: Any) -> None:
    """Run on uvloop: every peer has the same event loop."""
    import uvloop  # not in the process of a benchmark, which has no use for it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


async def _obey(peer: Peer, port: int, answers: TextIO) -> None:
    connect = getattr(importlib.import_module(peer.module), peer.client)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    connection = AsyncExitStack()
    play: Play | None = None
    concurrency = 0
    while line := await orders.readline():
        order = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if "connect" in order:
                concurrency = order["connect"]
                play = await connection.enter_async_context(connect(port, concurrency))
                gc.collect()
            elif "disconnect" in order:
                await connection.aclose()
                play = None
            elif play is not None:
                measured = await measure(play, concurrency, order["warm_up"], order["seconds"])
                answer = {
                    "steps": measured.steps,
                    "seconds": measured.seconds,
                    "latencies": sorted(measured.latencies),
                }
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
