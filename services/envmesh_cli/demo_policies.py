"""The policies of the demo: simple ones, which earn something."""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["answer", "balance", "careful_player", "careless_player"]

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
_PREFERRED = (4, 0, 2, 6, 8, 1, 3, 5, 7)
_CELL = re.compile(r"[XO\d]")
_chance = random.Random(0)


def balance(observation: Any) -> int:
    """CartPole: push the cart where the pole leans."""
    return int(observation[2] > 0)


def careful_player(observation: str) -> str:
    """TicTacToe, of one player: win where that is possible, else prevent the other's win, else the best free cell."""
    cells, mine = _board(observation)
    theirs = "X" if mine == "O" else "O"
    for mark in (mine, theirs):
        for line in _LINES:
            held = [cells[place] for place in line]
            free = [place for place in line if cells[place] not in "XO"]
            if held.count(mark) == 2 and free:
                return f"[{free[0]}]"
    free = [place for place in _PREFERRED if cells[place] not in "XO"]
    return f"[{free[0]}]"


def careless_player(observation: str) -> str:
    """TicTacToe, of the other player: any free cell."""
    cells, _ = _board(observation)
    return f"[{_chance.choice([place for place in range(9) if cells[place] not in 'XO'])}]"


def _board(observation: str) -> tuple[list[str], str]:
    """The nine cells of the last board that is shown, and the mark of whoever looks at it."""
    board = observation.rpartition("Current Board:")[2].partition("Available")[0]
    return _CELL.findall(board)[:9], "O" if "you will be 'O'" in observation else "X"


def answer(question: str) -> str:
    """reasoning_gym: what can be worked out in a line, and a guess for the rest."""
    for pattern, work_out in _KINDS:
        if (found := pattern.search(question)) is not None:
            return work_out(found)
    return str(_chance.randrange(100))


_OPERATIONS: Mapping[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def _arithmetic(found: re.Match[str]) -> str:
    try:
        value = _value(ast.parse(found[1].strip(), mode="eval").body)
    except (SyntaxError, KeyError, ZeroDivisionError):
        return "0"
    return str(int(value)) if value == int(value) else str(value)


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATIONS[type(node.op)](_value(node.operand))
    raise KeyError(type(node).__name__)


def _divisor(found: re.Match[str]) -> str:
    return str(math.gcd(*map(int, found[1].split(","))))


def _letters(found: re.Match[str]) -> str:
    return str(found[2].count(found[1]))


def _sorted(found: re.Match[str]) -> str:
    return ", ".join(sorted(found[2].strip().split(", "), reverse=found[1] == "descending"))


def _yes_or_no(found: re.Match[str]) -> str:
    return _chance.choice(("Yes", "No"))


_KINDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"([-\d][-+*/(). \d]*) =?\s*\.?$"), _arithmetic),
    (re.compile(r"these numbers: ([\d, ]+\d)"), _divisor),
    (re.compile(r'letter "(.)" appear in the text: "(.*)"'), _letters),
    (re.compile(r"sort these words in (\w+) order .*: (.*)\s*$", re.DOTALL), _sorted),
    (re.compile(r"Yes or No"), _yes_or_no),
)
