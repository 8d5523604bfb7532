"""The entry point: reads the command line, and imports only what the command needs."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence

from envmesh_cli.arguments import build_parser, unknown_command, unknown_option
from envmesh_cli.commands import COMMANDS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns the exit status: 0 when all went well, 1 when something failed, 2 when the command line, a target, a name
    or a setting is wrong, 130 when it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no µ shows "?", and not a traceback
    given = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not given:
        parser.print_help()
        return 2
    if not given[0].startswith("-") and given[0] not in COMMANDS:
        sys.stderr.write(f"envmesh: {unknown_command(given[0])}\n")
        return 2
    arguments, unknown = parser.parse_known_args(given)
    if unknown:
        sys.stderr.write(f"envmesh {arguments.command}: {unknown_option(unknown[0], arguments)}\n")
        return 2
    if not arguments.verbose:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is told below, once
    module, _, function = COMMANDS[arguments.command].handler.partition(":")
    try:
        status: int = getattr(importlib.import_module(module), function)(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except BaseException as error:
        from envmesh_cli.failures import tell

        return tell(error, arguments.command, verbose=arguments.verbose)
    return status
