"""The build of an environment: one short digest of its code and of the packages it stands on.

Two hosts with the same build run the same code, so a replay that diverges between them is the environment's
own doing. The digest covers the target's source files, those that they import from beside them, the versions of the
distributions they import, the target's arguments, and Python's minor version. It is made of relative paths and
contents alone: the same on every machine and in every process.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import xxhash

__all__ = ["build_digest", "source_files"]

_ABSENT = "absent"
_IMPORT = re.compile(rb"^[ \t]*(?:import[ \t]+([\w., \t]+)|from[ \t]+(\w[\w.]*)[ \t]+import\b)", re.MULTILINE)
_TOP_LEVEL = re.compile(r"^([^/,.\s][^/,.]*)(?:/|\.(?:py|pyd|so|abi3\.so|cpython[^/,]*),)", re.MULTILINE)
_MOST_FILES = 2_000
"""A package with more source files than this is digested by its first ones, in order of path."""
_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Where distributions are installed: all stand beside one another there, and their versions say what they are."""


def build_digest(
    module: str | None = None, *, distributions: Iterable[str] = (), parts: Iterable[str] = ()
) -> str:
    """The build as 16 hexadecimal digits.

    ``module`` names the module or package whose source counts, with every distribution its files import, and with the
    source of what they import from the directory in which it stands, as a file imports the one next to it;
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
        names.update(_distributions_of_module(module.partition(".")[0]))
        for path, content, imported in _read_with_siblings(module):
            add(path.encode(), content)
            names.update(distribution for name in imported for distribution in _distributions_of_module(name))
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
    return _files(spec, getattr(found, "__file__", None))


def _files(
    spec: importlib.machinery.ModuleSpec | None, loaded_from: str | None
) -> tuple[Path, tuple[Path, ...]]:
    locations = list(getattr(spec, "submodule_search_locations", None) or ())
    if locations:
        root = Path(locations[0])
        return root.parent, tuple(sorted(_below(root))[:_MOST_FILES])
    origin = getattr(spec, "origin", None) or loaded_from
    if not origin or not str(origin).endswith(".py") or not Path(origin).is_file():
        return Path(), ()
    return Path(origin).parent, (Path(origin),)


def _below(root: Path) -> Iterator[Path]:
    """The source files of a package, without those of environments and caches that happen to lie in it."""
    for directory, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".") and name != "__pycache__"]
        for path in (Path(directory, name) for name in names if name.endswith(".py")):
            if path.is_file():  # an editor's lock, a link to nothing, is named like source as well
                yield path


def _read_with_siblings(module: str) -> Iterator[tuple[str, bytes, frozenset[str]]]:
    """Every source file that counts, as it is now: its path, its digest, and the top-level modules that it imports.

    The module's own come first, then those of the modules that they import from the same directory, and so on.
    """
    root, files = source_files(module)
    alone = not _INSTALLED.isdisjoint(root.parts)
    met = {module.partition(".")[0]}
    waiting = deque(files)
    for _ in range(_MOST_FILES):
        if not waiting:
            return
        file = waiting.popleft()
        status = file.stat()
        content, imported = _read(file, status.st_mtime_ns, status.st_size)
        yield file.relative_to(root).as_posix(), content, imported
        for name in () if alone else sorted(imported - met):
            waiting += _files(importlib.machinery.PathFinder.find_spec(name, [str(root)]), None)[1]
        met |= imported


@functools.lru_cache(maxsize=4 * _MOST_FILES)
def _read(file: Path, changed: int, size: int) -> tuple[bytes, frozenset[str]]:
    """The digest of a file as it was at that moment, and the top-level modules that it seems to import.

    Statements are found by their look, which is much faster than to parse them: a line of a docstring may be taken for
    one, and then names a module that counts for nothing, or one more package.
    """
    source = file.read_bytes()
    names: set[str] = set()
    for modules, module in _IMPORT.findall(source):
        for name in (module or modules).split(b","):
            names.add(name.split()[0].partition(b".")[0].decode() if name.split() else "")
    return xxhash.xxh3_128_digest(source), frozenset(
        filter(str.isidentifier, names)
    ) - sys.stdlib_module_names


@functools.cache
def _distributions_of_module(module: str) -> tuple[str, ...]:
    """The distributions that install a top-level module; none for a loose file.

    One of the module's own name is taken at its word; the table of all of them takes a moment to make.
    """
    if _version(module) != _ABSENT:
        return (module,)
    origin = getattr(importlib.util.find_spec(module), "origin", None) if module not in sys.modules else None
    if origin is not None and _INSTALLED.isdisjoint(Path(origin).parts):
        return ()
    return tuple(_packages().get(module, ()))


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    """The distributions that install each top-level module: as `importlib.metadata.packages_distributions`, which takes
    a second for a hundred of them, where this takes a few hundredths."""
    found: dict[str, list[str]] = {}
    for distribution in importlib.metadata.distributions():
        listed = distribution.read_text("top_level.txt")
        tops = (
            set(listed.split()) if listed else set(_TOP_LEVEL.findall(distribution.read_text("RECORD") or ""))
        )
        for top in tops:
            found.setdefault(top, []).append(distribution.name)
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT
