# mypy: disable-error-code="import-not-found, misc"
"""NeMo Gym: its resources server with its session cookies, and its own server client.

Resetting is its ``/seed_session``; a step is a tool call, ``/step``, as its example environments have it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from nemo_gym import server_utils
from nemo_gym.base_resources_server import (
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)
from nemo_gym.config_types import BaseServerConfig
from nemo_gym.server_utils import SESSION_ID_KEY, ServerClient, get_response_json, raise_for_status
from omegaconf import OmegaConf
from pydantic import BaseModel, Field

from benchmarks.job import EchoText, Play, playing_text

NAME = "echo"


class SeedResponse(BaseModel):
    """The first observation."""

    observation: str


class StepRequest(BaseModel):
    """The arguments of the tool."""

    action: str


class StepResponse(BaseModel):
    """What the tool gives back."""

    observation: str
    reward: float
    terminated: bool


class EchoServer(SimpleResourcesServer):
    """The echo environment, one a session."""

    config: BaseResourcesServerConfig
    environments: dict[str, Any] = Field(default_factory=dict)

    def setup_webserver(self) -> FastAPI:
        """The application, with the tool beside what every resources server has."""
        app = super().setup_webserver()
        app.post("/step")(self.step)
        return app

    async def seed_session(self, request: Request) -> SeedResponse:
        """Begin an episode."""
        environment = self.environments[request.session[SESSION_ID_KEY]] = EchoText()
        return SeedResponse(observation=environment.reset()[0])

    async def step(self, request: Request, body: StepRequest) -> StepResponse:
        """Act once."""
        environment = self.environments[request.session[SESSION_ID_KEY]]
        observation, reward, terminated, _, _ = environment.step(body.action)
        return StepResponse(observation=observation, reward=reward, terminated=terminated)

    async def verify(self, body: BaseVerifyRequest) -> BaseVerifyResponse:
        """Required by NeMo Gym; not asked for here."""
        return BaseVerifyResponse(**body.model_dump(), reward=0.0)


def _configuration(port: int) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, "entrypoint": "app.py", "domain": "other"}


def _client(port: int) -> ServerClient:
    return ServerClient(
        head_server_config=BaseServerConfig(host="127.0.0.1", port=port),
        global_config_dict=OmegaConf.create({NAME: {"resources_servers": {NAME: _configuration(port)}}}),
    )


def serve(port: int) -> None:
    """Serve until the process ends, as its ``run_webserver`` does, without the Ray cluster that this would start."""
    config = BaseResourcesServerConfig(name=NAME, **_configuration(port))
    server = EchoServer(config=config, server_client=_client(port))
    app = server.setup_webserver()
    server.set_ulimit()
    server.setup_exception_middleware(app)
    uvicorn.run(
        app, host="127.0.0.1", port=port, timeout_keep_alive=30, access_log=False, log_level="warning"
    )


class Session:
    """An agent's session, known to the server by its cookie."""

    def __init__(self, client: ServerClient):
        self.client = client
        self.cookies: Any = None

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        response = await self.client.post(server_name=NAME, url_path=path, json=body, cookies=self.cookies)
        await raise_for_status(response)
        self.cookies = response.cookies or self.cookies
        return await get_response_json(response)

    async def reset(self) -> str:
        """Begin an episode."""
        return (await self._post("/seed_session", {}))["observation"]

    async def step(self, action: str) -> tuple[str, bool]:
        """Act once."""
        answer = await self._post("/step", {"action": action})
        return answer["observation"], answer["terminated"]


@asynccontextmanager
async def connect(port: int, concurrency: int) -> AsyncIterator[Play]:
    """NeMo Gym's one HTTP client with its bounds as they are."""
    if not server_utils.is_global_aiohttp_client_setup():
        server_utils.set_global_aiohttp_client(server_utils.GlobalAIOHTTPAsyncClientConfig())
    client = _client(port)
    async with playing_text([Session(client) for _ in range(concurrency)]) as play:
        yield play
