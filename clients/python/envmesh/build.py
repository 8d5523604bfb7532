"""The build of an environment: one short digest of its code and of the packages it stands on.

Two hosts with the same build run the same code, so a replay that diverges between them is the environment's
own doing. The digest covers the target's source files, the versions of the distributions they import, and
Python's minor version. It is made of relative paths and contents alone: the same on every machine and in every
process.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import xxhash

__all__ = ["build_digest", "source_files"]

_ABSENT = "absent"
_MOST_FILES = 2_000
"""A package with more source files than this is digested by its first ones, in order of path."""


def build_digest(
    module: str | None = None, *, distributions: Iterable[str] = (), parts: Iterable[str] = ()
) -> str:
    """The build as 16 hexadecimal digits.

    ``module`` names the module or package whose source counts, with every distribution its files import;
    ``distributions`` adds more by name (one that is not installed counts as absent); ``parts`` adds plain
    strings, such as the arguments an environment is made with.
    """
    digest = xxhash.xxh3_64()

    def add(*fields: bytes) -> None:
        for field in fields:
            digest.update(len(field).to_bytes(8, "little"))
            digest.update(field)

    add(f"python {sys.version_info.major}.{sys.version_info.minor}".encode())
    names = set(distributions)
    if module is not None:
        root, files = source_files(module)
        names.update(_distributions_of_module(module.partition(".")[0]))
        for file in files:
            source = file.read_bytes()
            add(file.relative_to(root).as_posix().encode(), source)
            names.update(_distributions_imported(source))
    for name in sorted(_normal(name) for name in names):
        add(name.encode(), _version(name).encode())
    for part in sorted(parts):
        add(part.encode())
    return digest.hexdigest()


def source_files(module: str) -> tuple[Path, tuple[Path, ...]]:
    """The source files of a module's top-level module or package, sorted, and the directory they stand in.

    A module without Python source (built in, or an extension) has none.
    """
    top = module.partition(".")[0]
    found = sys.modules.get(top)
    spec = getattr(found, "__spec__", None) or importlib.util.find_spec(top)
    locations = list(getattr(spec, "submodule_search_locations", None) or ())
    if locations:
        root = Path(locations[0])
        files = sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)
        return root.parent, tuple(files[:_MOST_FILES])
    origin = getattr(spec, "origin", None) or getattr(found, "__file__", None)
    if not origin or not str(origin).endswith(".py") or not Path(origin).is_file():
        return Path(), ()
    return Path(origin).parent, (Path(origin),)


def _distributions_imported(source: bytes) -> set[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    names -= sys.stdlib_module_names
    return {distribution for name in names for distribution in _distributions_of_module(name)}


def _distributions_of_module(module: str) -> tuple[str, ...]:
    """The distributions that install a top-level module; none for a loose file.

    One of the module's own name is taken at its word; the table of all of them takes a second to make.
    """
    if _version(module) != _ABSENT:
        return (module,)
    origin = getattr(importlib.util.find_spec(module), "origin", None) if module not in sys.modules else None
    if origin is not None and "site-packages" not in Path(origin).parts:
        return ()
    return tuple(_packages().get(module, ()))


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT
