"""What an author's objects look like, and what their exceptions say, even where asking them raises (pure)."""

from __future__ import annotations

import traceback

__all__ = ["said", "shown", "traced"]

LONGEST = 80


def shown(value: object) -> str:
    """The type of a value and, briefly, its representation."""
    kind = type(value).__name__
    try:
        return f"{kind} {value!r:.{LONGEST}}"
    except Exception as error:
        return f"{kind}, whose repr() raised {type(error).__name__}"


def said(error: BaseException) -> str:
    """The text of an exception."""
    try:
        return str(error)
    except Exception as another:
        return f"(its str() raised {type(another).__name__})"


def traced(error: BaseException) -> str:
    """The traceback of an exception, from the code on that the frame which caught it had called."""
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except (
        Exception
    ):  # traceback asks the exception itself (its truth, its notes), and its class is the author's
        return "".join(traceback.format_tb(trace)) + f"{type(error).__name__}: {said(error)}\n"
