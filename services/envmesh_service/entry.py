"""What ``python -m`` of a service does: settings from the environment, logs, and one loop until it has ended."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from envmesh import event_loop
from envmesh_service.error_groups import leaf
from envmesh_service.lifecycle import Shutdown
from envmesh_service.logs import configure
from envmesh_service.settings import Settings, SettingsError, load

__all__ = ["run_service"]

_log = logging.getLogger(__name__)


class _Logging(Settings, Protocol):
    @property
    def log_level(self) -> str: ...
    @property
    def log_form(self) -> str: ...


_Form = TypeVar("_Form", bound=_Logging)


def run_service(
    service: str,
    form: type[_Form],
    run: Callable[[_Form], Coroutine[Any, Any, Shutdown]],
    *,
    command: str,
    arguments: Sequence[str] = (),
) -> int:
    """Run a service; what it cannot go on with is told on standard error under the name of its ``command``. It takes no
    ``arguments``: they are refused, for whoever gives some expects them to do something.

    Returns the exit status: 0 after a clean end, 1 when it had to be forced, could not listen or could not reach what
    it needs, 2 when the settings are wrong.
    """
    if arguments:
        prefix = getattr(form, "PREFIX", "ENVMESH_")
        sys.stderr.write(
            f"envmesh {command}: there is no argument {arguments[0]!r}; settings are variables, {prefix}…\n"
        )
        return 2
    try:
        settings = load(form, os.environ)
        configure(settings.log_level, service=service, form=settings.log_form)
        shutdown = event_loop.run(run(settings))
    except Exception as raised:
        error = leaf(raised)
        if not isinstance(error, SettingsError | OSError):
            raise
        _log.debug("the service ends", exc_info=raised)
        sys.stderr.write(f"envmesh {command}: {error}\n")
        return 2 if isinstance(error, SettingsError) else 1
    return 1 if shutdown.forced else 0
