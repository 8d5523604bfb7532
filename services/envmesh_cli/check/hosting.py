"""What a host would refuse to serve, found by the host's own code: what passes the check is served."""

from __future__ import annotations

from envmesh.env import Definition, Isolation
from envmesh.errors import Refusal
from envmesh_cli.check.stage import EnvironmentBroke, where_of
from envmesh_host.served import Served

__all__ = ["prepare", "said_by"]


def prepare(definition: Definition) -> Served:
    """The environment as a host has it after its start.

    Raises:
        EnvironmentBroke: a host does not serve it; with what it says.
    """
    try:
        served = Served.prepare(definition)
    except Refusal as refused:
        cause = refused.__cause__
        where = "" if cause is None else where_of(cause)
        raise EnvironmentBroke("a host", "refuses it:", said_by(refused), where) from refused
    declaration = definition.declaration
    apart = declaration.isolation is Isolation.PROCESS
    alternating = declaration.isolation is Isolation.INLINE and not served.asynchronous
    if declaration.global_random and not (apart or alternating):
        raise EnvironmentBroke(
            "a host",
            "refuses it:",
            "it declares global_random, and only worker processes keep the global generators of episodes apart: "
            "serve it with isolation='process'",
        )
    return served


def said_by(refused: Refusal) -> str:
    """What a refusal says, without its reason's name."""
    return Exception.__str__(refused)
