"""What an author's objects look like, what their exceptions say, and which refusals they become, even where asking
raises (pure)."""

from __future__ import annotations

import traceback

from envmesh.errors import Refusal

__all__ = ["raised", "said", "shown", "traced"]

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
    except Exception:  # traceback asks the exception itself, its truth and its notes: the author's
        return "".join(traceback.format_tb(trace)) + f"{type(error).__name__}: {said(error)}\n"


def raised(during: str, error: BaseException) -> Refusal:
    """The refusal that an author's exception becomes, with the traceback from their code on."""
    if isinstance(error, Refusal):
        return error
    return Refusal(
        f"{during} raised {type(error).__name__}: {said(error)}"[:2000],
        reason="ENVIRONMENT_RAISED",
        detail=traced(error)[-16_000:],
    )
