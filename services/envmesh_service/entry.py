"""What ``python -m`` of a service does: settings from the environment, logs, and one loop until it has ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from envmesh import event_loop
from envmesh_service.lifecycle import Shutdown
from envmesh_service.logs import configure
from envmesh_service.settings import Settings, SettingsError, load

__all__ = ["run_service"]


class _Logging(Settings, Protocol):
    @property
    def log_level(self) -> str: ...
    @property
    def log_form(self) -> str: ...


_Form = TypeVar("_Form", bound=_Logging)


def run_service(
    service: str, form: type[_Form], run: Callable[[_Form], Coroutine[Any, Any, Shutdown]], *, command: str
) -> int:
    """Run a service; what goes wrong before it runs is told on standard error under the name of its ``command``.

    Returns the exit status: 0 after a clean end, 1 when it had to be forced, could not listen or could not reach what
    it needs, 2 when the settings are wrong.
    """
    try:
        settings = load(form, os.environ)
        configure(settings.log_level, service=service, form=settings.log_form)
        shutdown = event_loop.run(run(settings))
    except SettingsError as error:
        sys.stderr.write(f"envmesh {command}: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"envmesh {command}: {error}\n")
        return 1
    return 1 if shutdown.forced else 0
