"""What a service cannot go on with is told in a sentence, and its exit status says whose fault it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from envmesh_service.entry import run_service
from envmesh_service.lifecycle import Shutdown, run_process
from envmesh_service.rpc import BindError
from envmesh_service.settings import Mistake, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    PREFIX: ClassVar[str] = "EXAMPLE_"

    log_level: str = "error"
    log_form: str = "json"


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def failing(error: Exception) -> Callable[[Example], Coroutine[Any, Any, Shutdown]]:
    """A service whose body cannot go on."""

    async def run(settings: Example) -> Shutdown:
        async def body(process: object) -> None:
            raise error

        return await run_process(body, signals=False)

    return run


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (BindError("cannot listen on 127.0.0.1:1"), 1, "envmesh broker: cannot listen on 127.0.0.1:1\n"),
        (
            SettingsError((Mistake("EXAMPLE_POOLS", "it is empty", "a pool is right"),)),
            2,
            "envmesh broker: a mistake in the settings:\n  EXAMPLE_POOLS: it is empty; a pool is right\n",
        ),
    ],
)
def test_what_fails_in_a_task_is_told_as_what_fails_before_there_is_one(
    error: Exception, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_service("broker", Example, failing(error), command="broker") == status
    assert capsys.readouterr().err == told


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        run_service("broker", Example, failing(LookupError("nobody thought of it")), command="broker")
    assert raised.group_contains(LookupError)


def test_an_argument_is_refused_and_never_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    service = failing(AssertionError("it was run"))
    given = ["--lease-idle=5s"]
    assert run_service("broker", Example, service, command="broker", arguments=given) == 2
    told = capsys.readouterr().err
    assert "there is no argument '--lease-idle=5s'" in told
    assert "EXAMPLE_" in told
