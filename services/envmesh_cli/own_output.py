"""Standard output for what a command itself says, while code of others runs in its process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["own_output"]

_OUTPUT, _ERRORS = 1, 2


@contextmanager
def own_output() -> Iterator[TextIO]:
    """Standard output; what anybody else writes there meanwhile, also code that is not Python, goes to standard error:
    a program reads what the command says."""
    sys.stdout.flush()
    with os.fdopen(os.dup(_OUTPUT), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors) as own:
        os.dup2(_ERRORS, _OUTPUT)
        try:
            yield own
        finally:
            sys.stdout.flush()
            os.dup2(own.fileno(), _OUTPUT)
