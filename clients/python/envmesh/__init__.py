"""envmesh: reinforcement-learning environments as a gRPC mesh.

A trainer connects and streams thousands of concurrent episodes::

    async with envmesh.connect("localhost:7070") as mesh:
        async for trajectory in mesh.rollouts("cartpole", policy, episodes=10_000, concurrency=2_000):
            buffer.add(trajectory)

``envmesh.connect_sync`` is the same without ``async``, and ``mesh.vector`` steps many episodes with arrays.

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
    Unsupported,
)
from envmesh.mesh import Mesh, connect
from envmesh.outcome import AgentsOutcome, EnvironmentSpec, Outcome, Trajectory
from envmesh.policies import Act, batched, per_episode, random_policy
from envmesh.recording import Recorder
from envmesh.recording import read as read_recording
from envmesh.replay import Difference, replay
from envmesh.rollouts import Group, Rollouts
from envmesh.session import Episode
from envmesh.sync import SyncEpisode, SyncMesh, SyncRollouts, SyncVector, connect_sync
from envmesh.values import Blob, Json
from envmesh.vector import Batch, Vector

__all__ = [
    "Act",
    "AgentsOutcome",
    "Backpressure",
    "Batch",
    "Blob",
    "DeadlineExceeded",
    "Declaration",
    "Difference",
    "Environment",
    "EnvironmentSpec",
    "EnvmeshError",
    "Episode",
    "EpisodeAborted",
    "EpisodeEnded",
    "EpisodeTakenOver",
    "Failure",
    "ForkedClient",
    "Group",
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
    "Recorder",
    "Recovery",
    "RewardResult",
    "Rollouts",
    "SyncEpisode",
    "SyncMesh",
    "SyncRollouts",
    "SyncVector",
    "Task",
    "Trajectory",
    "Unsupported",
    "Vector",
    "batched",
    "connect",
    "connect_sync",
    "environment",
    "per_episode",
    "random_policy",
    "read_recording",
    "replay",
]
