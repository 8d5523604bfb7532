"""Logs: lines for people on a terminal, one JSON object a line everywhere else.

Code logs a short sentence and puts what varies into ``extra``: ``log.info("host lost", extra={"host": host_id})``.

What is the same in every line of a process, such as which host it is, ``identify`` adds to the JSON ones. Lines about
an episode bear its ids, its lease's and its trace's; where they are made says so with ``extra``, so nothing is kept
ready for lines that nobody writes.

The level can be changed while a process runs: SIGUSR1 turns ``debug`` on, another one turns it off again. The record
``ready`` is written at every level: whoever started the process learns from it where it listens.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

__all__ = ["LEVELS", "configure", "identify"]

LEVELS = ("debug", "info", "warning", "error")
READY = "ready"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_IDENTITY: dict[str, str] = {}
_COLOURS = {"DEBUG": "\033[2m", "WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}


def configure(level: str = "info", *, service: str, form: str = "auto", stream: TextIO | None = None) -> None:
    """Send the logs of this process to ``stream`` (standard error), replacing what was configured.

    ``level`` is one of ``LEVELS``; ``form`` is ``text``, ``json`` or ``auto`` (text on a terminal). ``service`` names
    this process in each record.

    Raises:
        ValueError: an unknown level or form.
    """
    if level not in LEVELS:
        raise ValueError(f"the log level must be one of {', '.join(LEVELS)}; got {level!r}")
    if form not in ("auto", "text", "json"):
        raise ValueError(f"the log form must be auto, text or json; got {form!r}")
    stream = stream or sys.stderr
    terminal = stream.isatty()
    handler = logging.StreamHandler(stream)
    if form == "text" or (form == "auto" and terminal):
        handler.setFormatter(TextFormatter(service, colour=terminal))
    else:
        handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    least = logging.getLevelNamesMapping()[level.upper()]
    usual = min(least, logging.INFO)

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= least or record.msg == READY or root.level == logging.DEBUG

    handler.addFilter(wanted)
    root.handlers[:] = [handler]
    root.setLevel(usual)
    logging.captureWarnings(True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, lambda number, frame: _turn(root, usual))


def identify(**fields: str) -> None:
    """From now on each JSON line of this process says this too, unless it says something else under that name."""
    _IDENTITY.update(fields)


def _turn(root: logging.Logger, configured: int) -> None:
    """Log everything, or as much as was configured again. Writes nothing itself: a signal may come amid a write."""
    root.setLevel(configured if root.level == logging.DEBUG else logging.DEBUG)


class TextFormatter(logging.Formatter):
    """``12:00:01.250 info  broker  host lost  host=7f3a``."""

    def __init__(self, service: str, *, colour: bool = False) -> None:
        super().__init__()
        self._service = service
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line, and its traceback below."""
        moment = datetime.fromtimestamp(record.created).astimezone()
        varying = "".join(f"  {name}={value}" for name, value in _extras(record))
        line = (
            f"{moment:%H:%M:%S}.{int(record.msecs):03d} {record.levelname.lower():<7} {self._service}"
            f"  {record.getMessage()}{varying}"
        )
        if self._colour and (colour := _COLOURS.get(record.levelname)):
            line = f"{colour}{line}\033[0m"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, logger, message, and whatever the record adds."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(_IDENTITY)
        entry.update(_extras(record))
        if record.exc_info is not None:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _extras(record: logging.LogRecord) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in vars(record).items() if name not in _STANDARD)
