"""What an agent wrote is not to be run: a guard before scorers that evaluate answers as Python.

Nine datasets of reasoning_gym hand an answer to ``eval`` or to SymPy's parser, which evaluates too. The answers that
can score are literals, or arithmetic over numbers, single letters and elementary functions; the guard lets these
through, and whatever cannot be evaluated at all, and swaps anything else for an answer that no scorer can read, so
that it earns what the dataset gives for an unreadable one.
"""

from __future__ import annotations

import ast
import re

__all__ = ["EVALUATED_AS_EXPRESSION", "EVALUATED_AS_LITERAL", "guarded"]

EVALUATED_AS_LITERAL = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Datasets whose scorer calls ``eval`` on an answer, in the hope of a list."""
EVALUATED_AS_EXPRESSION = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Datasets whose scorer has SymPy parse an answer."""

_UNREADABLE = "("
_LONGEST = 4_000
_LITERAL_NODES = (
    ast.Expression,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.List,
    ast.Tuple,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.UAdd,
    ast.USub,
)
_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        "Abs Integral abs acos acosh acot asin asinh atan atanh cos cosh cot csc erf exp ln log pi "
        "sec sin sinh sqrt tan tanh ",
    )
)
_EXPRESSION = re.compile(r"[\w\s+\-*/^(),.=]*")
_WORD = re.compile(r"[^\W\d]\w*")
_POWER = r"(?:\*\*|\^)\s*"
_TOWER = re.compile(rf"{_POWER}(?:[\w.]+\s*{_POWER}|\([^)]*{_POWER}|\(\s*\(|\(?\s*\d{{4}})")
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")


def guarded(dataset: str, answer: str) -> str:
    """The answer, or an unreadable one in its place where scoring it would run what it says."""
    if dataset in EVALUATED_AS_LITERAL:
        return answer if _is_literal(answer) else _UNREADABLE
    if dataset in EVALUATED_AS_EXPRESSION:
        return answer if _is_expression(answer) else _UNREADABLE
    return answer


def _is_literal(answer: str) -> bool:
    """Evaluating it would run nothing: it is no expression at all, or one of literals and bare names."""
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return True
    except (RecursionError, MemoryError):
        return False
    return all(isinstance(node, _LITERAL_NODES) for node in ast.walk(tree))


def _is_expression(answer: str) -> bool:
    """Arithmetic over numbers, names of one or two letters and elementary functions, with no tower of powers."""
    return (
        len(answer) <= _LONGEST
        and _EXPRESSION.fullmatch(answer) is not None
        and not _TOWER.search(answer)
        and not _ATTRIBUTE.search(answer)
        and all(len(word) <= 2 or word in _FUNCTIONS for word in _WORD.findall(answer))
    )
