"""envmesh: reinforcement-learning environments as a gRPC mesh.

A trainer connects and streams thousands of concurrent episodes::

    async with envmesh.connect("localhost:7070") as mesh:
        async for trajectory in mesh.rollouts("cartpole", policy, episodes=10_000, concurrency=2_000):
            buffer.add(trajectory)

An environment is a Gymnasium-style class; ``envmesh.environment`` declares what it can promise.
"""

from envmesh.env import Declaration, Environment, Isolation, Limits, Recovery, RewardResult, Task, environment
from envmesh.errors import (
    Backpressure,
    DeadlineExceeded,
    EnvmeshError,
    EpisodeAborted,
    EpisodeEnded,
    EpisodeTakenOver,
    Failure,
    ForkedClient,
    InvalidRequest,
    MeshUnavailable,
    MissingExtra,
    NotFound,
    PermissionDenied,
)
from envmesh.mesh import Mesh, connect
from envmesh.outcome import AgentsOutcome, EnvironmentSpec, Outcome, Trajectory
from envmesh.session import Episode
from envmesh.values import Blob, Json

__all__ = [
    "AgentsOutcome",
    "Backpressure",
    "Blob",
    "DeadlineExceeded",
    "Declaration",
    "Environment",
    "EnvironmentSpec",
    "EnvmeshError",
    "Episode",
    "EpisodeAborted",
    "EpisodeEnded",
    "EpisodeTakenOver",
    "Failure",
    "ForkedClient",
    "InvalidRequest",
    "Isolation",
    "Json",
    "Limits",
    "Mesh",
    "MeshUnavailable",
    "MissingExtra",
    "NotFound",
    "Outcome",
    "PermissionDenied",
    "Recovery",
    "RewardResult",
    "Task",
    "Trajectory",
    "connect",
    "environment",
]
