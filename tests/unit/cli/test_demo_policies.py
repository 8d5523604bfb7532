"""The demo's policies earn what they can."""

import numpy as np
import pytest

from envmesh_cli.demo_policies import answer, balance, careful_player, careless_player

BOARD = """[GAME] As Player 0, you will be '{mark}', while your opponent is the other.
[GAME] Current Board:

 {0} | {1} | {2}
---+---+---
 {3} | {4} | {5}
---+---+---
 {6} | {7} | {8}

Available Moves: …"""


def board(cells: str, mark: str = "O") -> str:
    shown = [cell if cell != "." else str(place) for place, cell in enumerate(cells)]
    return BOARD.format(*shown, mark=mark)


def test_the_cart_goes_where_the_pole_leans():
    assert [balance(np.array([0, 0, angle, 0], np.float32)) for angle in (-0.1, 0.1)] == [0, 1]


@pytest.mark.parametrize(
    ("cells", "mark", "move"),
    [
        ("OO.XX....", "O", "[2]"),
        ("OO.XX....", "X", "[5]"),
        ("XX.O.....", "O", "[2]"),
        (".........", "O", "[4]"),
        ("....X....", "O", "[0]"),
    ],
)
def test_the_careful_player_wins_prevents_or_takes_the_best_cell(cells: str, mark: str, move: str):
    assert careful_player(board(cells, mark)) == move


def test_the_careless_player_takes_a_free_cell():
    assert careless_player(board("XOXOXOXO.")) == "[8]"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("State the final answer to the following arithmetic problem: 7 - 4 - 0 - 0 + 2 - 9 =", "-4"),
        ("Find the Greatest Common Divisor (GCD) of these numbers: 12, 534. Give only the GCD.", "6"),
        ('How many times does the letter "p" appear in the text: "to the poles then the polar"?', "2"),
        (
            "Now, sort these words in descending order (using ASCII/Unicode ordering) and return: b, c, a\n",
            "c, b, a",
        ),
    ],
)
def test_answers_that_can_be_worked_out(question: str, expected: str):
    assert answer(question) == expected


def test_other_questions_get_a_guess():
    assert answer("What is the probability of rain?").isdecimal()
    assert answer("Is it so? (Answer Yes or No)") in ("Yes", "No")
