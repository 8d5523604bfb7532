"""What an agent wrote is not to be run: a guard before scorers that evaluate answers as Python.

Nine datasets of reasoning_gym hand an answer to ``eval`` or to SymPy's parser, which evaluates too. The answers that
can score are literals, or arithmetic over numbers, single letters and elementary functions; the guard lets these
through, and whatever cannot be evaluated at all, and swaps anything else for an answer that no scorer can read, so
that it earns what the dataset gives for an unreadable one. So does arithmetic that would take without end: a power is
let through where its result is bounded.

One more scorer takes an answer that is no number for the right one; its answers are not to be ``nan``.
"""

from __future__ import annotations

import ast
import math
import re

__all__ = ["EVALUATED_AS_EXPRESSION", "EVALUATED_AS_LITERAL", "guarded"]

EVALUATED_AS_LITERAL = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Datasets whose scorer calls ``eval`` on an answer, in the hope of a list."""
EVALUATED_AS_EXPRESSION = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Datasets whose scorer has SymPy parse an answer."""

READ_AS_COMPLEX = "complex_arithmetic"
"""The dataset whose scorer finds ``nan`` to be right."""

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
_LARGEST_LETTERS = {"pi": 4.0, "E": 3.0}
_MOST_DIGITS = 2_000
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")


def guarded(dataset: str, answer: str) -> str:
    """The answer, or an unreadable one in its place where scoring it would run what it says."""
    if dataset in EVALUATED_AS_LITERAL:
        return answer if _is_literal(answer) else _UNREADABLE
    if dataset in EVALUATED_AS_EXPRESSION:
        return answer if _is_expression(answer) else _UNREADABLE
    if dataset == READ_AS_COMPLEX and "nan" in answer.replace(" ", "").lower():
        return _UNREADABLE
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
    """Arithmetic over numbers, names of one or two letters and elementary functions, with no power beyond bounds."""
    return (
        len(answer) <= _LONGEST
        and _EXPRESSION.fullmatch(answer) is not None
        and not _ATTRIBUTE.search(answer)
        and all(len(word) <= 2 or word in _FUNCTIONS for word in _WORD.findall(answer))
        and _is_bounded(answer)
    )


class _Unbounded(Exception):
    """Nobody can tell how long it would take to evaluate."""


def _is_bounded(answer: str) -> bool:
    """No power in it has more than ``_MOST_DIGITS`` digits, and nothing is called but elementary functions."""
    try:
        _measured(ast.parse(answer.strip().replace("^", "**"), mode="eval").body)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError, _Unbounded):
        return False
    return True


def _measured(node: ast.expr) -> tuple[float, float]:
    """How many digits an exact result may have, numerator and denominator together, and how far from 0 it may be (at
    least 1). Letters may cancel out, and count as ones.

    Raises:
        _Unbounded: a power in it may have too many digits, or it is no arithmetic.
    """
    match node:
        case ast.Constant(value=int() | float() as number) if math.isfinite(number):
            digits = len(str(number)) if isinstance(number, int) else 17 + abs(math.log10(number or 1))
            return digits, max(1.0, number)
        case ast.Name(id=name):
            return 1, _LARGEST_LETTERS.get(name, 1.0)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _measured(operand)
        case ast.Tuple(elts=parts):
            measured = [_measured(part) for part in parts]
            return sum(digits for digits, _ in measured), max([1.0, *(size for _, size in measured)])
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]) if name in _FUNCTIONS:
            digits, size = _measured(ast.Tuple(elts=parts))
            return digits, _up_to(digits + size)
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=int() as number)) if number > 0:
            digits, size = _measured(left)
            return digits + len(str(number)), max(1.0, size / number)
        case ast.BinOp(left=left, op=operator, right=right):
            return _combined(operator, *_measured(left), *_measured(right))
    raise _Unbounded


def _combined(
    operator: ast.operator, digits: float, size: float, others: float, other: float
) -> tuple[float, float]:
    match operator:
        case ast.Add() | ast.Sub():
            return digits + others + 1, size + other
        case ast.Mult():
            return digits + others, size * other
        case ast.Div() | ast.FloorDiv():
            return digits + others, size * _up_to(others)  # what it is divided by may be next to nothing
        case ast.Pow() if digits * other <= _MOST_DIGITS:
            return digits * other, 1.0 if digits * size == 1 else _up_to(digits * other)
    raise _Unbounded


def _up_to(digits: float) -> float:
    return math.pow(10.0, min(digits, 300))
