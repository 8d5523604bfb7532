"""Targets of the forms ``module:Class`` and ``file.py:Class``: import, find, judge, define."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from envmesh.build import build_digest
from envmesh.env import Definition, Task, declaration_of
from envmesh.target_text import TargetError, adapters, last_line, suggestion


def load_file(target: str, file: str, attribute: str, arguments: dict[str, Any]) -> Definition:
    """Load ``file.py`` or ``file.py:Class``; without a class, the only environment that the file defines."""
    path = Path(file)
    if not path.is_file():
        near = [str(other) for other in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise TargetError(f"{target}: there is no file {file!r} in {Path.cwd()}.{suggestion(file, near)}")
    if not path.stem.isidentifier():
        raise TargetError(f"{target}: {path.name!r} cannot be imported: rename it to letters, digits and '_'")
    _put_first_on_path(path.parent.resolve())
    module = import_module(path.stem, target)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != path.resolve():
        raise TargetError(
            f"{target}: another module named {path.stem!r} ({origin}) hides this file: rename it"
        )
    if attribute:
        return define(target, module, find(module, attribute, target), arguments)
    found = _environments_in(module)
    if len(found) != 1:
        has = (
            f"has {len(found)} environments ({', '.join(found)})"
            if found
            else "has no class with reset and step"
        )
        raise TargetError(f"{target}: {path.name} {has}; write {file}:{found[0] if found else 'Class'}")
    return define(target, module, getattr(module, found[0]), arguments)


def import_module(module: str, target: str = "") -> ModuleType:
    """Import a module for a target (named in errors), with the working directory on the path.

    Raises:
        TargetError: there is no such module, or it raised; the message has the last line of its traceback.
    """
    prefix = f"{target}: " if target else ""
    _put_first_on_path(Path.cwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise TargetError(prefix + _no_module(module, error.name)) from error
        raise TargetError(
            f"{prefix}{module} needs the module {error.name!r}, which is not installed; {last_line(error)}"
        ) from error
    except BaseException as error:
        raise TargetError(f"{prefix}{module} could not be imported; {last_line(error)}") from error


def define(target: str, module: ModuleType, subject: Any, arguments: dict[str, Any]) -> Definition:
    """The definition of a class, or of a function that makes environments; checked without calling it."""
    _check_subject(target, subject, arguments)
    try:
        declaration = declaration_of(subject)
    except (TypeError, ValueError) as error:
        raise TargetError(f"{target}: {error}") from error
    spaces = {
        key: getattr(subject, key)
        for key in ("observation_space", "action_space")
        if getattr(declaration, key) is None
        and inspect.isclass(subject)
        and _is_space(getattr(subject, key, None))
    }
    tasks = getattr(subject, "tasks", None)
    factory = functools.partial(subject, **arguments) if arguments else subject
    return Definition(
        target=target,
        name=declaration.name or target,
        declaration=replace(declaration, **spaces) if spaces else declaration,
        factory=factory,
        tasks=_tasks_of(subject, factory) if inspect.isclass(subject) and callable(tasks) else None,
        build=build_digest(module.__name__, parts=(repr(sorted(arguments.items())),) if arguments else ()),
    )


def find(module: ModuleType, path: str, target: str) -> Any:
    """The object that a dotted path names in a module."""
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            where = getattr(found, "__name__", module.__name__)
            close = suggestion(
                part,
                [key for key in vars(found) if not key.startswith("_")] if hasattr(found, "__dict__") else [],
            )
            environments = _environments_in(module)
            hint = close or (f" Its environments: {', '.join(environments)}" if environments else "")
            raise TargetError(f"{target}: {where} has no {part!r}.{hint}") from None
    return found


def _tasks_of(subject: type, factory: Callable[[], Any]) -> Callable[[], Iterable[Task]]:
    """``tasks()`` of a class may be a static or class method, or need an instance, made for it and closed."""
    if not inspect.isfunction(inspect.getattr_static(subject, "tasks")):
        return subject.tasks  # type: ignore[attr-defined, no-any-return]

    def tasks() -> Iterable[Task]:
        instance = factory()
        try:
            return list(instance.tasks())
        finally:
            closing = getattr(instance, "close", None)
            if callable(closing) and not inspect.iscoroutinefunction(closing):
                closing()

    return tasks


def _check_subject(target: str, subject: Any, arguments: dict[str, Any]) -> None:
    if not callable(subject):
        kind = type(subject).__name__
        raise TargetError(
            f"{target} is an object of type {kind}; "
            "a target names a class, or a function that makes environments"
        )
    if inspect.isclass(subject):
        for method in ("reset", "step"):
            if not callable(getattr(subject, method, None)):
                near = suggestion(method, [key for key in vars(subject) if not key.startswith("_")])
                raise TargetError(
                    f"{target} has no method {method}().{near} An environment has reset() and step(action)"
                )
    try:
        signature = inspect.signature(subject)
    except (TypeError, ValueError):
        return
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    named = [
        key
        for key, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    for key in arguments:
        if key not in named and not accepts_any:
            takes = f"it takes {', '.join(named)}" if named else "it takes none"
            raise TargetError(
                f"{target}: {key!r} is no argument of it.{suggestion(key, named)} As written, {takes}"
            )
    needed = [
        key
        for key, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key not in arguments
    ]
    if needed:
        rest = target.partition("?")[0]
        query = "&".join(f"{key}=…" for key in [*arguments, *needed])
        raise TargetError(
            f"{target} needs {', '.join(needed)} to be made: give defaults, or write {rest}?{query}"
        )


def _environments_in(module: ModuleType) -> list[str]:
    return [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
        and callable(getattr(value, "reset", None))
        and callable(getattr(value, "step", None))
    ]


def _no_module(module: str, absent: str) -> str:
    near = [path.stem for path in Path.cwd().glob("*.py")]
    near += [path.parent.name for path in Path.cwd().glob("*/__init__.py")]
    near += list(adapters())
    within = f" (of {module!r})" if absent != module else ""
    where = f"{Path.cwd()} and the installed packages"
    return (
        f"there is no module {absent!r}{within} in {where}, and no adapter of this name."
        f"{suggestion(module, near)}"
    )


def _is_space(value: Any) -> bool:
    """A ``gymnasium.Space`` object or a JSON Schema, and no property or method of the class."""
    return isinstance(value, Mapping) or any(cls.__name__ == "Space" for cls in type(value).__mro__)


def _put_first_on_path(directory: Path) -> None:
    entry = str(directory)
    if entry not in sys.path and not (entry == str(Path.cwd()) and "" in sys.path):
        sys.path.insert(0, entry)
