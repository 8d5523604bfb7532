"""Episodes between two owners: what ``episode.detach()`` returns and ``mesh.attach`` takes.

JSON, so that nothing that crosses a process can run code.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from envmesh import values
from envmesh.errors import InvalidRequest
from envmesh.journal import Journal
from envmesh.outcome import message_of_outcome
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.session import Episode

__all__ = ["read_detached", "write_detached"]

DETACHED_FORMAT = 1


def write_detached(
    episode: Episode,
    address: str,
    host_id: str,
    token: bytes,
    server_name: str = "",
    metadata: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """The bytes for an episode whose host gave this attach token. ``server_name`` is on the host's certificate;
    ``metadata`` is what a gateway needs to find it. The last outcome goes along: the host need not have it any more.
    So does what was attached to steps, but for what has no form on the wire."""
    last = message_of_outcome(episode.outcome).SerializeToString()
    journal = episode.journal.packed() if episode.journal is not None else b""
    return json.dumps(
        {
            "format": DETACHED_FORMAT,
            "environment": episode.spec.key,
            "episode_id": episode.episode_id.hex(),
            "epoch": episode.epoch,
            "index": episode.index,
            "flags": episode.flags,
            "seed": episode.beginning.seed,
            "task": episode.beginning.task,
            "split": episode.beginning.split,
            "address": address,
            "host_id": host_id,
            "server_name": server_name,
            "metadata": metadata,
            "attach_token": base64.b64encode(token).decode(),
            "last": base64.b64encode(last).decode(),
            "journal": base64.b64encode(journal).decode(),
            "annotations": dict(_written(episode.annotations)),
        }
    ).encode()


def _written(annotations: dict[int, Any]) -> Iterator[tuple[int, str]]:
    for step, annotation in annotations.items():
        try:
            yield step, base64.b64encode(values.encode(annotation)).decode()
        except (TypeError, ValueError):
            continue


def read_detached(data: bytes) -> dict[str, Any]:
    """What the bytes say. Raises: InvalidRequest, when they are not of ``detach``."""
    try:
        state = json.loads(data)
        if state["format"] != DETACHED_FORMAT:
            raise ValueError(f"format {state['format']} is not {DETACHED_FORMAT}")
        state["episode_id"] = bytes.fromhex(state["episode_id"])
        state["attach_token"] = base64.b64decode(state["attach_token"])
        state["last"] = pb.Outcome.FromString(base64.b64decode(state.get("last", "")))
        state["metadata"] = tuple((str(key), str(value)) for key, value in state.get("metadata", ()))
        packed = base64.b64decode(state["journal"])
        state["journal"] = Journal.unpacked(packed) if packed else None
        state["annotations"] = {
            int(step): values.decode(base64.b64decode(written))
            for step, written in state.get("annotations", {}).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
        raise InvalidRequest(
            f"these are not the bytes of episode.detach(): {error}", reason="MALFORMED"
        ) from None
    return state  # type: ignore[no-any-return]
