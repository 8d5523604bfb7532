"""What is running: the version of envmesh and what it stands on."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib import metadata

from envmesh import event_loop

__all__ = ["BuildInfo", "build_info"]


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Versions, as ``envmesh_build_info`` and the logs show them."""

    version: str
    python: str
    grpc: str
    protobuf: str
    event_loop: str

    def labels(self) -> dict[str, str]:
        """By name, for a metric or a log record."""
        return asdict(self)


def build_info() -> BuildInfo:
    """The versions of this process."""
    return BuildInfo(
        version=_version("envmesh"),
        python=platform.python_version(),
        grpc=_version("grpcio"),
        protobuf=_version("protobuf"),
        event_loop=event_loop.implementation,
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"
