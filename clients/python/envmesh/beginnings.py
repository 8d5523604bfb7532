"""How callers say an episode is to begin, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envmesh import values
from envmesh.env import Task
from envmesh.episode import Beginning
from envmesh.errors import InvalidRequest
from envmesh.outcome import EnvironmentSpec
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import value_pb2

__all__ = ["beginning_of", "make_beginning", "spec_as_written"]


def make_beginning(
    seed: int | None,
    options: Mapping[str, Any] | None,
    task: str | Task,
    split: str,
    group: int | None = None,
) -> Beginning:
    """How an episode is to begin, checked. Raises: InvalidRequest."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64):
        raise InvalidRequest(
            f"a seed is a whole number from 0 to 2**64 - 1; got {seed!r}", reason="SEED_UNSUPPORTED"
        )
    if isinstance(task, Task):
        split = task.split
        task = task.id
    try:
        packed = values.to_proto(dict(options)) if options else None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the reset options have no form on the wire: {error}") from None
    return Beginning(seed, _as_sent(packed), packed, task, split, group)


def _as_sent(packed: value_pb2.Value | None) -> Any:
    """The options that an environment is given, whatever their owner makes of the ones that were handed in."""
    return values.from_proto(packed) if packed is not None else None


def beginning_of(written: Mapping[str, Any]) -> Beginning:
    """How an episode of a journal on disk began (``Beginning.written``)."""
    packed = written["options"]
    value = value_pb2.Value.FromString(bytes.fromhex(packed)) if packed is not None else None
    beginning = Beginning(
        written["seed"], _as_sent(value), value, written["task"], written["split"], written["group"]
    )
    beginning.run, beginning.number = written["run"], written["number"]
    return beginning


def spec_as_written(served: EnvironmentSpec, written: Mapping[str, Any]) -> EnvironmentSpec:
    """The environment of an episode of a journal on disk: as it is served now, and of the build that wrote the
    journal. Only that one is known to repeat it."""
    message = pb.EnvironmentInfo()
    message.CopyFrom(served.message)
    message.build = written["build"]
    return EnvironmentSpec(message)
