"""What a failed command tells: one clear sentence, and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from envmesh_service.error_groups import leaf

__all__ = ["FAILED", "INTERRUPTED", "OK", "USAGE", "CommandFailed", "debugging", "status_of", "tell"]

OK = 0
FAILED = 1
"""Something failed: an episode, a check, a host, a port."""
USAGE = 2
"""The command line, a target, a name or a setting is wrong."""
INTERRUPTED = 130

_MESH_EXTRA = frozenset(
    {
        "cryptography",
        "fsspec",
        "grpc_health",
        "grpc_reflection",
        "gymnasium",
        "jsonschema",
        "prometheus_client",
        "rich",
        "uvloop",
    }
)


class CommandFailed(Exception):
    """A command cannot go on; the message is for people."""

    def __init__(self, message: str, status: int = FAILED):
        super().__init__(message)
        self.status = status


def debugging() -> bool:
    """Whether tracebacks are wanted (``ENVMESH_DEBUG``)."""
    return os.environ.get("ENVMESH_DEBUG", "") not in ("", "0")


def tell(error: BaseException, command: str, *, verbose: bool = False) -> int:
    """Say on standard error what went wrong. Returns the exit status."""
    error = leaf(error)
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            sys.stderr.write(f"envmesh {command}: {error.code}\n")
        return error.code if isinstance(error.code, int) else FAILED
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted\n")
        return INTERRUPTED
    if verbose or debugging():
        traceback.print_exception(error, file=sys.stderr)
    status, sentence = status_of(error)
    sys.stderr.write(f"envmesh {command}: {sentence}\n")
    return status


def status_of(error: BaseException) -> tuple[int, str]:
    """The exit status and the sentence for an error."""
    if isinstance(error, CommandFailed):
        return error.status, str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _MESH_EXTRA:
        return (
            USAGE,
            f"this needs the package {error.name!r}, which is not installed: pip install 'envmesh[mesh]'",
        )
    from envmesh import errors
    from envmesh.target import TargetError

    if isinstance(error, TargetError):
        return USAGE, str(error)
    if isinstance(error, errors.EnvmeshError):
        usage = (errors.NotFound, errors.InvalidRequest, errors.MissingExtra)
        return USAGE if isinstance(error, usage) else FAILED, str(error)
    try:
        from envmesh_service.settings import SettingsError
    except ImportError:
        pass
    else:
        if isinstance(error, SettingsError):
            return USAGE, str(error)
    if isinstance(error, OSError):
        return FAILED, str(error)
    return FAILED, f"{type(error).__name__}: {error}{_place(error)} (--verbose shows the traceback)"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
