"""What the processes of a mesh log in a cluster: JSON, with ids, without payloads, at a level that can be changed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import pytest

import envmesh
from envmesh.errors import EnvmeshError
from envmesh.traces import ClientTraces
from tests.monitoring.collector import collector

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("traces")]

TARGET = "faulty=tests.environments.faulty:Faulty"
SECRET = "raise"
"""The action that makes Faulty raise; Faulty's other observations and actions are words of their own too."""


class Lines:
    """A host's log, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        self._stream = process.stderr
        self.seen: list[dict[str, Any]] = []
        self.raw: list[str] = []

    async def until(self, message: str) -> dict[str, Any]:
        """The next line whose message has this in it. Raises: TimeoutError."""
        async with asyncio.timeout(30):
            while True:
                text = (await self._stream.readline()).decode()
                assert text, f"the log ended without {message!r}: {self.raw[-5:]}"
                self.raw.append(text)
                line = json.loads(text)
                self.seen.append(line)
                if message in line["message"]:
                    return line


async def test_lines_have_the_ids_and_never_a_payload():
    async with collector() as kept:
        variables = {**os.environ, "ENVMESH_HOST_TRACES": kept.url, "ENVMESH_HOST_HOST_ID": "pod-7"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "envmesh_cli", "serve", TARGET, "--listen", "127.0.0.1:0", "--json"),
            env=variables,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        lines = Lines(process)
        try:
            address = json.loads(await process.stdout.readline())["address"]
            async with envmesh.connect(address) as mesh:
                ClientTraces(mesh, kept.url, share=1.0)
                async with mesh.episode("faulty") as episode:
                    await episode.step("a word that nobody may read")
                    with pytest.raises(EnvmeshError):
                        await episode.step(SECRET)
                failed = await lines.until("failed at step")
                assert "debug" not in {line["level"] for line in lines.seen}
                process.send_signal(signal.SIGUSR1)
                async with mesh.episode("faulty") as another:
                    with pytest.raises(EnvmeshError):
                        await another.step(SECRET)
                await lines.until("failed at step")
        finally:
            process.terminate()
            await process.wait()
    assert failed["level"] == "warning"
    assert failed["host"] == "pod-7"
    assert failed["episode"] == failed["trace"] == episode.episode_id.hex()
    assert len(failed["lease"]) == 32
    assert "no such door" in failed["message"]  # the author's own words
    assert not [line for line in lines.raw if "a word that nobody" in line]
    assert all(line["host"] == "pod-7" for line in lines.seen if line["logger"] == "envmesh.host")
