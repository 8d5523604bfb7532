"""What the first process of a container owes the others: signals are passed on, the dead are buried.

The kernel ends a container with its first process. A host that is that process would take its witness along, and no
end of it could ever be explained; so there the witness is the first process, and the host its child.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

__all__ = ["FirstProcess", "deferred", "is_first"]

PASSED_ON = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def is_first() -> bool:
    """Whether this is the first process of its container."""
    return os.getpid() == 1


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Signals that come meanwhile are taken afterwards: none is lost between a fork and the handlers of both sides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class FirstProcess:
    """The first process of a container, for its one child that matters, the host."""

    def __init__(self, host: int):
        self._host = host
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)

    def _pass_on(self, number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._host, number)

    def reap(self) -> None:
        """Bury whoever was left to this process; the host is not forgotten before its end is told."""
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if dead.si_pid == self._host:
                    return
                os.waitpid(dead.si_pid, 0)

    def exit_code(self) -> int:
        """That of the container: the host's, as a shell would say it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._host, 0)[1])
        return code if code >= 0 else 128 - code
