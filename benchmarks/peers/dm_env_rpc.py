# mypy: disable-error-code="import-not-found, import-untyped, misc"
"""dm_env_rpc: its protocol, messages, tensors and asynchronous client, over grpc.aio.

The package holds no server; this one answers the messages of its protocol with its own tensor packing, as its
examples do. An episode has a stream of its own, which is how dm_env_rpc tells agents apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from dm_env_rpc.v1 import dm_env_rpc_pb2 as pb
from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc, tensor_utils
from dm_env_rpc.v1.async_connection import AsyncConnection
from dm_env_rpc.v1.spec_manager import SpecManager

from benchmarks.job import ACTION_SIZE, FIRST_OBSERVATION, Echo, Play, gather, playing
from benchmarks.peers.__main__ import run

ACTION, OBSERVATION, REWARD = 1, 1, 2

SPECS = pb.ActionObservationSpecs(
    actions={ACTION: pb.TensorSpec(name="action", shape=[ACTION_SIZE], dtype=pb.UINT8)},
    observations={
        OBSERVATION: pb.TensorSpec(name="observation", shape=[len(FIRST_OBSERVATION)], dtype=pb.UINT8),
        REWARD: pb.TensorSpec(name="reward", dtype=pb.DOUBLE),
    },
)


class Servicer(dm_env_rpc_pb2_grpc.EnvironmentServicer):
    """One world, in which every stream has an environment."""

    async def Process(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer the requests of one stream in turn."""
        environment = Echo()
        running = False
        async for request in request_iterator:
            kind = request.WhichOneof("payload")
            if kind == "join_world":
                response = pb.EnvironmentResponse(join_world=pb.JoinWorldResponse(specs=SPECS))
            elif kind == "reset":
                running = False
                response = pb.EnvironmentResponse(reset=pb.ResetResponse(specs=SPECS))
            elif kind != "step":
                raise NotImplementedError(kind)
            elif running:
                action = tensor_utils.unpack_tensor(request.step.actions[ACTION])
                observation, reward, terminated, _, _ = environment.step(action.tobytes())
                running = not terminated
                state = pb.RUNNING if running else pb.TERMINATED
                response = _step(observation, reward, state, request.step.requested_observations)
            else:  # the step after the last one begins the next episode, and its action is ignored
                running = True
                response = _step(environment.reset()[0], 0.0, pb.RUNNING, request.step.requested_observations)
            yield response


def _step(observation: bytes, reward: float, state: int, requested: Any) -> Any:
    values = {OBSERVATION: np.frombuffer(observation, np.uint8), REWARD: np.float64(reward)}
    response = pb.EnvironmentResponse(step=pb.StepResponse(state=state))
    for uid in requested:
        response.step.observations[uid].CopyFrom(tensor_utils.pack_tensor(values[uid]))
    return response


def serve(port: int) -> None:
    """Serve until the process ends."""
    run(_serve(port))


async def _serve(port: int) -> None:
    # Thousands of streams begin at once, and the default bounds refuse some of them.
    unbounded = [
        ("grpc.server.max_pending_requests", 1 << 20),
        ("grpc.server.max_pending_requests_hard_limit", 1 << 20),
    ]
    server = grpc.aio.server(options=unbounded)
    dm_env_rpc_pb2_grpc.add_EnvironmentServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class Session:
    """An agent joined to the world, over a stream of its own."""

    def __init__(self, channel: grpc.aio.Channel):
        self.connection = AsyncConnection(channel)
        self.ended = True

    async def join(self) -> None:
        """Join the world and learn its specs."""
        specs = (await self.connection.send(pb.JoinWorldRequest())).specs
        self.actions = SpecManager(specs.actions)
        self.observations = SpecManager(specs.observations)
        self.requested = list(specs.observations)

    async def reset(self) -> bytes:
        """Begin an episode; one left early is reset first, as the protocol wants it."""
        if not self.ended:
            await self.connection.send(pb.ResetRequest())
        self.ended = False
        response = await self.connection.send(pb.StepRequest(requested_observations=self.requested))
        return self.observations.unpack(response.observations)["observation"].tobytes()

    async def step(self, action: bytes) -> tuple[bytes, bool]:
        """Act once."""
        packed = self.actions.pack({"action": np.frombuffer(action, np.uint8)})
        request = pb.StepRequest(actions=packed, requested_observations=self.requested)
        response = await self.connection.send(request)
        self.ended = response.state == pb.TERMINATED
        return self.observations.unpack(response.observations)["observation"].tobytes(), self.ended


@asynccontextmanager
async def connect(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A channel for all episodes, a stream for each."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        sessions = [Session(channel) for _ in range(concurrency)]
        await gather(session.join() for session in sessions)
        async with playing(sessions) as play:
            yield play
