# mypy: disable-error-code="import-not-found, misc, untyped-decorator"
"""A line of reference: JSON over HTTP, with FastAPI on the one side and aiohttp on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.job import EchoText, Play, playing_text

app = FastAPI()
environments: dict[int, EchoText] = {}


class ResetRequest(BaseModel):
    """Whose episode begins."""

    session: int


class StepRequest(BaseModel):
    """Who acts, and how."""

    session: int
    action: str


class Outcome(BaseModel):
    """What came of it."""

    observation: str
    reward: float = 0.0
    terminated: bool = False


@app.post("/reset")
async def reset(request: ResetRequest) -> Outcome:
    """Begin an episode."""
    environment = environments[request.session] = EchoText()
    return Outcome(observation=environment.reset()[0])


@app.post("/step")
async def step(request: StepRequest) -> Outcome:
    """Act once."""
    observation, reward, terminated, _, _ = environments[request.session].step(request.action)
    return Outcome(observation=observation, reward=reward, terminated=terminated)


def serve(port: int) -> None:
    """Serve until the process ends."""
    uvicorn.run(
        app, host="127.0.0.1", port=port, access_log=False, log_level="warning", timeout_keep_alive=60
    )


class Session:
    """One environment of the server."""

    def __init__(self, client: aiohttp.ClientSession, number: int):
        self.client = client
        self.number = number

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async with self.client.post(path, json=body) as response:
            response.raise_for_status()
            return await response.json()

    async def reset(self) -> str:
        """Begin an episode."""
        return (await self._post("/reset", {"session": self.number}))["observation"]

    async def step(self, action: str) -> tuple[str, bool]:
        """Act once."""
        outcome = await self._post("/step", {"session": self.number, "action": action})
        return outcome["observation"], outcome["terminated"]


@asynccontextmanager
async def connect(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A connection an episode."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, timeout=timeout) as client,
        playing_text([Session(client, number) for number in range(concurrency)]) as play,
    ):
        yield play
