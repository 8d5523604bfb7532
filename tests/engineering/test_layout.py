"""The house rules that ruff and import-linter cannot say, held against every file of the product."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("_pb2.py", "_pb2_grpc.py")
LONGEST_MODULE = 440  # "under about 400 lines"
LONGEST_FUNCTION = 80  # "under about 70"
BANNED_WORDS = {"util", "utils", "helper", "helpers", "manager", "common", "misc", "obs"}
PURE = {
    "envmesh.episode",
    "envmesh.journal",
    "envmesh_host.slots",
    "envmesh_broker.hosts",
    "envmesh_broker.ledger",
    "envmesh_broker.queue",
    "envmesh_broker.placement",
    "envmesh_autoscaler.plan",
}


def python_files(*directories: str) -> list[Path]:
    files = (file for directory in directories for file in (ROOT / directory).rglob("*.py"))
    return sorted(
        file for file in files if not file.name.endswith(GENERATED) and "node_modules" not in file.parts
    )


def named(files: list[Path]) -> list:
    return [pytest.param(file, id=file.relative_to(ROOT).as_posix()) for file in files]


PRODUCT = python_files("clients/python", "services")
TESTS = python_files("tests")


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that the file itself chooses, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield name, node.lineno


@pytest.mark.parametrize("file", named(PRODUCT))
def test_modules_and_functions_are_short(file: Path):
    source = file.read_text(encoding="utf-8")
    long = [f"{file.name} has {lines} lines"] if (lines := source.count("\n")) > LONGEST_MODULE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                long.append(f"{file.name}:{node.lineno} {node.name} has {length} lines")
    assert not long


@pytest.mark.parametrize("file", named(PRODUCT + TESTS))
def test_names_say_what_a_thing_is(file: Path):
    assert not words(file.stem) & BANNED_WORDS
    tree = ast.parse(file.read_text(encoding="utf-8"))
    banned = [f"{file.name}:{line} {name}" for name, line in names(tree) if words(name) & BANNED_WORDS]
    assert not banned, "banned as names; an observation is spelled out"


@pytest.mark.parametrize("file", named(PRODUCT))
def test_every_task_has_a_name(file: Path):
    nameless = [
        f"{file.name}:{node.lineno}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "create_task"
        and not any(keyword.arg in ("name", None) for keyword in node.keywords)
    ]
    assert not nameless, "a task without a name is a riddle in a stack dump"


def own_calls(function: ast.AST) -> Iterator[ast.Call]:
    """The calls in the function's own body; an environment written inside a test may do as it likes."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from own_calls(child)


@pytest.mark.parametrize("file", named([file for file in TESTS if file.name.startswith("test_")]))
def test_tests_wait_for_events_and_never_sleep(file: Path):
    sleeps = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for call in own_calls(node):
                yields = (
                    bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
                )
                if ast.unparse(call.func) in ("time.sleep", "asyncio.sleep", "sleep") and not yields:
                    sleeps.append(f"{file.name}:{call.lineno} in {node.name}")
    assert not sleeps, "wait for what should happen, with a timeout"


def test_every_directory_of_tests_is_a_package():
    """So that two tests may have the same file name, and a worker process can import an environment from a test."""
    bare = {file.parent.relative_to(ROOT) for file in TESTS if not (file.parent / "__init__.py").exists()}
    assert not bare


def test_pure_modules_are_under_contract():
    """import-linter refuses to hear of a module that is not there yet, so each joins its contract when it comes."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (pure,) = [
        contract for contract in config["tool"]["importlinter"]["contracts"] if contract["id"] == "pure"
    ]
    roots = [ROOT / "services", ROOT / "clients" / "python"]
    there = {name for name in PURE if any((root / f"{name.replace('.', '/')}.py").exists() for root in roots)}
    assert there <= set(pure["source_modules"]), "add it to the contract 'pure' in pyproject.toml"
