# mypy: disable-error-code="import-not-found, misc"
"""OpenEnv: its own server, with the environment's asynchronous methods, and its own asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from openenv.core.generic_client import GenericEnvClient

from benchmarks.job import EchoText, Play, gather, playing_text

SESSIONS = 1 << 16
CONNECTING_AT_ONCE = 128


class EchoAction(Action):
    """50 characters."""

    text: str


class EchoObservation(Observation):
    """100 characters."""

    text: str


class EchoEnvironment(Environment):
    """The echo environment in OpenEnv's terms.

    It does not block, so it takes OpenEnv's asynchronous path, and one thread shared by all sessions makes it: that
    is the faster of the ways OpenEnv offers.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True
    REQUIRES_SINGLE_THREAD_EXECUTOR = True

    def __init__(self) -> None:
        super().__init__()
        self.echo = EchoText()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **options: Any
    ) -> EchoObservation:
        """Begin an episode."""
        return EchoObservation(text=self.echo.reset()[0])

    def step(self, action: EchoAction, timeout_s: float | None = None, **options: Any) -> EchoObservation:
        """Act once."""
        text, reward, terminated, _, _ = self.echo.step(action.text)
        return EchoObservation(text=text, reward=reward, done=terminated)

    async def reset_async(
        self, seed: int | None = None, episode_id: str | None = None, **options: Any
    ) -> Any:
        """Begin an episode, on the event loop."""
        return self.reset()

    async def step_async(self, action: EchoAction, timeout_s: float | None = None, **options: Any) -> Any:
        """Act once, on the event loop."""
        return self.step(action)

    @property
    def state(self) -> State:
        """Required by OpenEnv; not asked for here."""
        return State(step_count=0)


def serve(port: int) -> None:
    """Serve until the process ends."""
    app = create_fastapi_app(EchoEnvironment, EchoAction, EchoObservation, max_concurrent_envs=SESSIONS)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


class Session:
    """A websocket of OpenEnv's client."""

    def __init__(self, client: GenericEnvClient):
        self.client = client

    async def reset(self) -> str:
        """Begin an episode."""
        return (await self.client.reset()).observation["text"]

    async def step(self, action: str) -> tuple[str, bool]:
        """Act once."""
        result = await self.client.step({"text": action})
        return result.observation["text"], result.done


@asynccontextmanager
async def connect(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A websocket an episode, as OpenEnv has it."""
    clients = [GenericEnvClient(base_url=f"ws://127.0.0.1:{port}") for _ in range(concurrency)]
    async with AsyncExitStack() as stack:
        for begin in range(0, concurrency, CONNECTING_AT_ONCE):
            await gather(client.connect() for client in clients[begin : begin + CONNECTING_AT_ONCE])
        stack.push_async_callback(gather, [client.close() for client in clients])
        yield await stack.enter_async_context(playing_text([Session(client) for client in clients]))
