"""A trainer that a test drives: one command a line on standard input, one JSON answer a line on standard output.

``open N``, ``step N`` (every open episode N times), ``close N``, ``reserve N SECONDS``, ``end``.
"""

import asyncio
import json
import sys
import time
from typing import Any

import envmesh


async def main(address: str, environment: str) -> None:
    loop = asyncio.get_running_loop()
    episodes: list[Any] = []
    async with envmesh.connect(address, plaintext=True) as mesh:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            word, *numbers = line.split()
            started = time.time()
            said: dict[str, Any] = {"word": word, "started": started}
            if word == "open":
                made = [mesh.episode(environment, seed=n) for n in range(int(numbers[0]))]
                await asyncio.gather(*(episode.__aenter__() for episode in made))
                episodes += made
            elif word == "step":
                for _ in range(int(numbers[0])):
                    await asyncio.gather(*(e.step(0) for e in episodes if not e.done))
                    for number, episode in enumerate(episodes):
                        if episode.done:
                            await episode.close()
                            episodes[number] = mesh.episode(environment, seed=number)
                            await episodes[number].__aenter__()
            elif word == "close":
                for _ in range(int(numbers[0])):
                    await episodes.pop(0).close()
            elif word == "reserve":
                await mesh.reserve(environment, int(numbers[0]), float(numbers[1]))
            else:
                break
            said["failed"] = [str(e.failure) for e in episodes if e.failure]
            said["seconds"] = time.time() - started
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
