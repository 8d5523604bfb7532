"""What a host lets its witness know: words in a pipe, and three numbers in memory that both see."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import MutableSequence
from typing import TypeAlias

__all__ = ["BEGAN", "LIMIT", "SEEN", "TURNED", "WORD", "Testimony", "Watch"]

BEGAN, TURNED, LIMIT, SEEN = range(4)
"""What the numbers are, in seconds: when the reset or batch of steps that runs in the loop's thread began (0: none
runs), when the event loop turned last (0: it does not yet), how long what runs may run (0: not said), and when the one
step began that the watchdog saw running last. Points in time are ``time.perf_counter``'s."""

Watch: TypeAlias = "MutableSequence[float] | memoryview[float]"

WORD = b"\0"
"""How a word of the host's own begins; anything else in the pipe is faulthandler's."""


class Testimony:
    """The host's end. ``watch`` holds the numbers."""

    def __init__(self, words: int, memory: mmap.mmap):
        self._words = words
        self._memory = memory
        self.watch = memoryview(memory).cast("d")

    def introduce(self, host_id: str) -> None:
        """As whom the broker knows this host: from now on its end is reported, and its silence."""
        self.watch[TURNED] = time.perf_counter()
        self._say(f"host {host_id}")

    def told(self) -> None:
        """The host was asked to go."""
        self._say("told")

    def left(self) -> None:
        """The host has left in good order."""
        self._say("left")

    def stuck(self, why: str) -> None:
        """The host ends itself, for its loop cannot be freed."""
        self._say(f"stuck {why}")

    def _say(self, word: str) -> None:
        with contextlib.suppress(OSError):  # the witness was killed: then nobody testifies
            os.write(self._words, WORD + word.encode()[:500] + b"\n")
