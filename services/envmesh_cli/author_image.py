"""``envmesh build``: the Dockerfile of an image that serves an author's environments, on top of envmesh's own."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from envmesh.target import adapters, split_arguments, split_target
from envmesh_cli.failures import OK, USAGE, CommandFailed

__all__ = ["build", "dockerfile", "sources"]

MARK = "# Written by `envmesh build`"
REPOSITORY = "envmesh/envmesh"
PLACE = "/opt/author"
"""Where an author's code is in the image; on the path before everything else."""


def build(arguments: argparse.Namespace) -> int:
    """Write it, and say what comes next."""
    here = Path.cwd()
    copied = [_below(here, path) for path in arguments.copy]
    requirements = None if arguments.requirements is None else _below(here, arguments.requirements)
    targets = [(name, placed(target, here)) for name, target in map(split_target, arguments.targets)]
    for _, target in targets:
        copied += sources(target, here, elsewhere=requirements is not None or bool(arguments.copy))
    said: dict[str, Any] = {
        "base": arguments.base or f"{REPOSITORY}:{metadata.version('envmesh')}",
        "copied": list(dict.fromkeys(copied)),
        "requirements": requirements,
    }
    text = dockerfile([target if name is None else f"{name}={target}" for name, target in targets], **said)
    if arguments.output == "-":
        sys.stdout.write(json.dumps({"file": None, **said, "text": text}) + "\n" if arguments.json else text)
        return OK
    place = Path(arguments.output)
    if place.exists() and not (arguments.force or place.read_text().startswith(MARK)):
        raise CommandFailed(
            f"{place} is there, and was not written by envmesh build; --force replaces it", USAGE
        )
    try:
        place.write_text(text)
    except OSError as error:
        raise CommandFailed(f"{place} cannot be written: {error.strerror}", USAGE) from None
    if arguments.json:
        sys.stdout.write(json.dumps({"file": str(place), **said}) + "\n")
    else:
        sys.stdout.write(_next_steps(place, targets))
    return OK


def placed(target: str, here: Path) -> str:
    """The target as it is named from where its code is in the image: a file by its path below ``here``.

    Raises:
        CommandFailed: the file is not there, or not below.
    """
    file = split_arguments(target)[0].partition(":")[0]
    return _below(here, file) + target[len(file) :] if file.endswith(".py") else target


def sources(target: str, here: Path, *, elsewhere: bool) -> list[str]:
    """What of ``here`` an image needs to import a target: a file, a package, or nothing for an adapter's.

    Raises:
        CommandFailed: it is not here, and nothing says that it comes from ``elsewhere``.
    """
    code = split_arguments(target)[0]
    module, colon, _ = code.partition(":")
    if colon and module in adapters():
        return []
    if module.endswith(".py"):
        return [_below(here, module)]
    top = module.partition(".")[0]
    for candidate in (top, f"{top}.py"):
        if (here / candidate).exists():
            return [candidate]
    if elsewhere:
        return []
    raise CommandFailed(
        f"{target}: there is neither {top}.py nor {top}/ in {here}. Run this where it is, or say with --requirements "
        "or --copy what brings it",
        USAGE,
    )


def dockerfile(targets: Sequence[str], *, base: str, copied: Sequence[str], requirements: str | None) -> str:
    """The text. ``copied`` and ``requirements`` are paths below the directory it is built in."""
    lines = [
        f"{MARK} {shlex.join(targets)}; yours to change.",
        f"ARG BASE={base}",
        "FROM ${BASE}",
        "USER 0",
    ]
    if requirements is not None:
        lines += [
            f"COPY {json.dumps([requirements, '/tmp/requirements.txt'])}",
            "# Into envmesh's own environment, so that what both need is there once, in a version that suits both.",
            "RUN pip install --no-cache-dir -r /tmp/requirements.txt && pip check && rm /tmp/requirements.txt",
        ]
    lines += [f"COPY {json.dumps([each, f'{PLACE}/{each}'])}" for each in copied]
    # As on the command line, where a file may stand for its module; in the image it lies below /opt/author.
    lines += [
        f"WORKDIR {PLACE}",
        "# A module that is missing fails here, and not in the cluster.",
        f"RUN {json.dumps(['python', '-c', _LOAD, *targets])}",
        "USER 65532:65532",
        f"CMD {json.dumps(['envmesh', 'serve', *targets])}",
    ]
    return "\n".join(lines) + "\n"


_LOAD = (
    "import sys; from envmesh.target import load, split_target; "
    "[load(target, name=name) for name, target in map(split_target, sys.argv[1:])]"
)


def _below(here: Path, text: str) -> str:
    """A path relative to ``here``, which is all that an image's build can see."""
    path = (here / text).resolve()
    if not path.exists():
        raise CommandFailed(f"{text} is not there", USAGE)
    try:
        return path.relative_to(here.resolve()).as_posix()
    except ValueError:
        raise CommandFailed(f"{text} is not below {here}, and a build sees nothing else", USAGE) from None


def _next_steps(place: Path, targets: Sequence[tuple[str | None, str]]) -> str:
    environments = "".join(f"      - {_environment(*each)}\n" for each in targets)
    return (
        f"{place} is written. Build the image, push it, and name it in a pool of the chart's values:\n\n"
        f"  docker build -f {place} -t REGISTRY/IMAGE:TAG .\n"
        "  docker push REGISTRY/IMAGE:TAG\n\n"
        "pools:\n  mine:\n    image: {repository: REGISTRY/IMAGE, tag: TAG}\n"
        f"    environments:\n{environments}"
    )


def _environment(name: str | None, target: str) -> str:
    """An entry of ``environments`` in the chart's values."""
    bare, _, version = (name or "NAME").partition("@")
    return f"{{name: {bare}, version: {json.dumps(version or '1')}, target: {json.dumps(target)}}}"
