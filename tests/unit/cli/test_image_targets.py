"""``envmesh build``: what the image names is what was copied into it, and loads there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envmesh_cli.main import main

GREET = """
class Greet:
    def __init__(self, greeting="hello"):
        self.greeting = greeting
    def reset(self, *, seed=None, options=None):
        return self.greeting, {}
    def step(self, action):
        return self.greeting, 0.0, True, False, {}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an author, with a module in it and one below."""
    directory = tmp_path / "here"
    (directory / "inner").mkdir(parents=True)
    for file in ("greet.py", "inner/greetings.py"):
        (directory / file).write_text(GREET)
    monkeypatch.chdir(directory)
    return directory


def lines_of(here: Path, word: str) -> list[list[str]]:
    """What the Dockerfile's lines of one instruction say, of those that are lists."""
    lines = (here / "Dockerfile").read_text().splitlines()
    return [json.loads(line[len(word) :]) for line in lines if line.startswith(f"{word} [")]


@pytest.mark.parametrize(
    ("target", "file", "named"),
    [
        ("greet=greet:Greet?greeting=hello world", "greet.py", "greet=greet:Greet?greeting=hello world"),
        ("greet@2={here}/greet.py:Greet?greeting=hi", "greet.py", "greet@2=greet.py:Greet?greeting=hi"),
        ("{here}/inner/greetings.py", "inner/greetings.py", "inner/greetings.py"),
        ("inner/../greet.py:Greet", "greet.py", "greet.py:Greet"),
    ],
)
def test_the_image_can_be_built(here: Path, target: str, file: str, named: str) -> None:
    assert main(["build", target.format(here=here)]) == 0
    assert lines_of(here, "COPY") == [[file, f"/opt/author/{file}"]]
    assert lines_of(here, "CMD") == [["envmesh", "serve", named]]
    image = here.parent / "image"
    (image / file).parent.mkdir(parents=True)
    shutil.move(here / file, image / file)
    (program,) = lines_of(here, "RUN")
    tried = subprocess.run(
        [sys.executable, *program[1:]], check=False, cwd=image, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr


def test_it_says_what_to_write_into_the_values(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", f"greet={here}/greet.py:Greet"]) == 0
    assert '{name: greet, version: "1", target: "greet.py:Greet"}' in capsys.readouterr().out


def test_a_file_that_is_elsewhere_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here.parent / "other.py").write_text(GREET)
    assert main(["build", f"{here.parent}/other.py:Greet"]) == 2
    assert "is not below" in capsys.readouterr().err
