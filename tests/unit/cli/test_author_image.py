"""``envmesh build``: what the Dockerfile copies, installs and runs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envmesh_cli.author_image import dockerfile, sources
from envmesh_cli.failures import CommandFailed
from envmesh_cli.main import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a module, a package and a list of requirements."""
    (tmp_path / "walks.py").write_text("class Walk: ...\n")
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "__init__.py").touch()
    (tmp_path / "requirements.txt").write_text("networkx\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("walks:Walk", ["walks.py"]),
        ("walks:Walk?length=3", ["walks.py"]),
        ("walks.py:Walk", ["walks.py"]),
        ("walks.py", ["walks.py"]),
        ("games.chess:Chess", ["games"]),
        ("gymnasium:CartPole-v1", []),
    ],
)
def test_what_a_target_needs_of_this_directory(here: Path, target: str, expected: list[str]) -> None:
    assert sources(target, here, elsewhere=False) == expected


def test_a_module_that_nothing_brings_is_refused(here: Path) -> None:
    with pytest.raises(CommandFailed, match=r"neither mazes\.py nor mazes/") as refused:
        sources("mazes:Maze", here, elsewhere=False)
    assert refused.value.status == 2
    assert sources("mazes:Maze", here, elsewhere=True) == []


def test_it_copies_installs_tries_and_serves(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["build", "walk@2=walks:Walk", "games.chess:Chess", "--requirements", "requirements.txt"]) == 0
    )
    lines = (here / "Dockerfile").read_text().splitlines()
    assert 'COPY ["requirements.txt", "/tmp/requirements.txt"]' in lines
    assert 'COPY ["walks.py", "/opt/author/walks.py"]' in lines
    assert 'COPY ["games", "/opt/author/games"]' in lines
    (tried,) = [json.loads(line[4:]) for line in lines if line.startswith('RUN ["python"')]
    assert tried[3:] == ["walk@2=walks:Walk", "games.chess:Chess"]
    assert lines[-2:] == [
        "USER 65532:65532",
        'CMD ["envmesh", "serve", "walk@2=walks:Walk", "games.chess:Chess"]',
    ]
    said = capsys.readouterr().out
    assert "docker build -f Dockerfile" in said
    assert '- {name: walk, version: "2", target: "walks:Walk"}' in said


def test_a_file_of_another_author_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "Dockerfile").write_text("FROM scratch\n")
    assert main(["build", "walks:Walk"]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert (here / "Dockerfile").read_text() == "FROM scratch\n"
    assert main(["build", "walks:Walk", "--force"]) == 0
    assert main(["build", "walks:Walk"]) == 0, "its own it writes again"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["walks:Walk", "--requirements", "missing.txt"], "missing.txt is not there"),
        (["walks:Walk", "--copy", "/etc/hostname"], "is not below"),
        (["walks:Walk", "--output", "missing/Dockerfile"], "cannot be written"),
        (["=walks:Walk"], "name"),
    ],
)
def test_what_it_refuses(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(["build", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not (here / "Dockerfile").exists()


def test_the_base_may_be_chosen_when_it_is_built() -> None:
    text = dockerfile(["gymnasium:CartPole-v1"], base="envmesh/envmesh:1", copied=[], requirements=None)
    assert "ARG BASE=envmesh/envmesh:1\nFROM ${BASE}\n" in text
    assert "COPY" not in text


def test_a_program_reads_what_was_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "walks:Walk", "--base", "localhost/envmesh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": "Dockerfile", "base": "localhost/envmesh", "copied": ["walks.py"], "requirements": None,
    }  # fmt: skip
    assert main(["build", "walks:Walk", "--output", "-", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] is None
    assert told["text"].splitlines()[3:5] == ["USER 0", 'COPY ["walks.py", "/opt/author/walks.py"]']
