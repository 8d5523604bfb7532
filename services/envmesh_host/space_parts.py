"""A declared space taken apart: the space of each agent, and the codecs of their actions (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envmesh import spaces
from envmesh.v1 import space_pb2

__all__ = ["action_codecs", "space_as_found", "space_by_agent"]


def action_codecs(agents: Sequence[str], space: Any) -> tuple[spaces.Codec, dict[str, spaces.Codec]]:
    """Of the only agent's actions, and of each agent's where there are several."""
    by_agent = space_by_agent(agents, space).items()
    return (
        spaces.codec(None if agents else space, action=True),
        {agent: spaces.codec(each, action=True) for agent, each in by_agent},
    )


def space_by_agent(agents: Sequence[str], space: Any) -> dict[str, Any]:
    """The space of each agent: its own, where ``space`` is a map of them."""
    by_agent = space if isinstance(space, Mapping) else None
    return {agent: by_agent[agent] if by_agent else space for agent in agents}


def space_as_found(declared: Any, found: space_pb2.Space | None) -> Any:
    """The space that an instance had in another process: the declared one where it was that, for it may say more."""
    if found is None:
        return None
    said_so = declared is not None and spaces.to_proto(declared) == found
    return declared if said_so else spaces.from_proto(found)
