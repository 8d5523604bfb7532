"""The command line's grammar and its help. Imports nothing that is slow: ``envmesh --help`` answers at once."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import NoReturn

from envmesh_cli.commands import COMMANDS, STATUSES, TARGETS

__all__ = ["build_parser", "unknown_command", "unknown_option"]


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one sentence, and where the help is."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with status 2."""
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` shows how)\n")


class _Group(argparse.ArgumentParser):
    """The parser of ``envmesh`` itself, whose help is a page."""

    def format_help(self) -> str:
        """The page."""
        lines = ["usage: envmesh COMMAND …", "", "Reinforcement-learning environments as a gRPC mesh.", ""]
        for group in dict.fromkeys(command.group for command in COMMANDS.values()):
            lines.append(f"{group}:")
            lines += [
                f"  {name:<10}{command.summary}"
                for name, command in COMMANDS.items()
                if command.group == group
            ]
            lines.append("")
        return "\n".join([*lines, _EXAMPLES, "", TARGETS, "", STATUSES, ""])

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with status 2."""
        self.exit(2, f"envmesh: {message} (`envmesh --help` shows how)\n")


_EXAMPLES = """\
Try it:
  envmesh serve cartpole=gymnasium:CartPole-v1          in one terminal: one host
  envmesh run cartpole --episodes 1000                  in another: play, and see how it went
  envmesh run gymnasium:CartPole-v1                     both in one
  envmesh up cartpole=gymnasium:CartPole-v1 reasoning_gym:chain_sum --hosts 2
                                                        a mesh: a broker, two pools, four hosts

`envmesh COMMAND --help` tells the rest."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything."""
    parser = _Group(prog="envmesh", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"envmesh {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            usage=f"envmesh {name} {command.usage}",
            description=f"{command.summary[:1].upper()}{command.summary[1:]}.\n\n{command.description}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(sub)
        sub.add_argument(
            "-v", "--verbose", action="store_true", help="more log lines, and tracebacks of failures"
        )
    return parser


def unknown_command(word: str) -> str:
    """The sentence for a word that is no command."""
    if ":" in word or word.endswith(".py"):
        return f"there is no command {word!r}. To serve it: envmesh serve {word}"
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    if close:
        return f"there is no command {word!r}. Did you mean {close[0]!r}?"
    return f"there is no command {word!r}; there are {', '.join(COMMANDS)}"


def unknown_option(word: str, arguments: argparse.Namespace) -> str:
    """The sentence for a word that the command does not take."""
    options = [f"--{name.replace('_', '-')}" for name in vars(arguments) if name != "command"]
    close = difflib.get_close_matches(word.partition("=")[0], options, n=1) if word.startswith("-") else []
    hint = (
        f"Did you mean {close[0]}?" if close else f"`envmesh {arguments.command} --help` shows what it takes"
    )
    return f"it takes no {word!r}. {hint}"


def _version() -> str:
    if not {"--version"} & set(sys.argv):
        return ""
    from importlib import metadata

    return metadata.version("envmesh")
