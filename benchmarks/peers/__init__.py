"""The peers: who they are, and in which virtual environment each lives.

A peer is a module with a server, ``serve(port)``, which blocks, and one or more clients,
``connect(port, concurrency)``: asynchronous context managers that yield a ``job.Play``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a line in the results stands for."""

    OURS = "envmesh"
    PEER = "peer"
    REFERENCE = "reference"
    LIMIT = "limit"


class Form(StrEnum):
    """How the client's episodes are written; ratios to the limit compare the same form."""

    RESUMED = "resumed"
    """A coroutine an episode, resumed by the reader itself: ``rollouts`` with a synchronous policy."""
    TASKS = "tasks"
    """A coroutine an episode, in an asyncio task of its own: a user's own code."""
    VECTORISED = "vectorised"
    """One loop for all episodes, over whole frames."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of the results.

    ``module`` and ``client`` name its code, ``home`` its virtual environment (empty: that of envmesh), ``at_least`` the
    Python this one needs, ``most`` the concurrency beyond which it is left out.
    """

    name: str
    title: str
    role: Role
    form: Form
    module: str
    client: str = "connect"
    home: str = ""
    at_least: tuple[int, int] = (3, 11)
    most: int = 1 << 20


_MODULES = "benchmarks.peers."

PEERS = {
    peer.name: peer
    for peer in (
        Peer("envmesh-rollouts", "envmesh, rollouts", Role.OURS, Form.RESUMED,
             _MODULES + "envmesh", "connect_rollouts"),
        Peer("envmesh-coroutines", "envmesh, users' coroutines", Role.OURS, Form.TASKS,
             _MODULES + "envmesh", "connect_coroutines"),
        Peer("envmesh-vector", "envmesh, vectorised", Role.OURS, Form.VECTORISED,
             _MODULES + "envmesh", "connect_vector"),
        Peer("openenv", "OpenEnv", Role.PEER, Form.TASKS, _MODULES + "openenv", home="openenv"),
        Peer("dm_env_rpc", "dm_env_rpc", Role.PEER, Form.TASKS, _MODULES + "dm_env_rpc", home="dm_env_rpc"),
        # Its client opens at most 1,024 connections to a server; more episodes only wait inside the client.
        Peer("nemo_gym", "NeMo Gym", Role.PEER, Form.TASKS, _MODULES + "nemo_gym", home="nemo_gym",
             at_least=(3, 12), most=1024),
        Peer("json_http", "FastAPI + aiohttp", Role.REFERENCE, Form.TASKS, _MODULES + "json_http", home="json_http"),
        Peer("unary", "grpc.aio, unary calls", Role.REFERENCE, Form.TASKS, _MODULES + "grpc_plain", "connect_unary"),
        Peer("stream", "grpc.aio, a stream an episode", Role.REFERENCE, Form.TASKS,
             _MODULES + "grpc_plain", "connect_stream"),
        # Not the job, for it has no environment and no episodes; only a lone step is compared with it.
        Peer("echo", "grpc.aio, bare echo of bytes", Role.REFERENCE, Form.TASKS, _MODULES + "echo", most=1),
        Peer("bare-resumed", "bare coalesced stream, resumed", Role.LIMIT, Form.RESUMED,
             _MODULES + "bare", "connect_resumed"),
        Peer("bare-tasks", "bare coalesced stream, tasks", Role.LIMIT, Form.TASKS,
             _MODULES + "bare", "connect_tasks"),
        Peer("bare-vector", "bare coalesced stream, vectorised", Role.LIMIT, Form.VECTORISED,
             _MODULES + "bare", "connect_vector"),
    )
}  # fmt: skip
"""Every line, by name, in the order of the table."""
