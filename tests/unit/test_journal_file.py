"""A client's journal on disk stays the file that it is, and loses nothing where it cannot be written anew."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from envmesh.journal_file import JournalFile

ROW = (b"observed", 1.0, 0, 7, b"")


def test_a_journal_whose_rewriting_fails_for_whatever_reason_keeps_what_it_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "journal"
    with closing(JournalFile(path, rewrite_bytes=4_000)) as file:
        episode = file.begin({})
        episode.outcome(ROW)
        before = path.read_bytes()
        episode.act(b"go" * 500)
        os.truncate(path, len(before))  # somebody else does; a map of what was written is a ValueError then
        while file._rewriting is None:
            episode.act(b"go")
        file._rewriting._thread.join()
        assert isinstance(file._rewriting.problem, ValueError)
        episode.act(b"go")
        assert file._rewriting is None
        assert path.read_bytes().startswith(before)
        assert "it cannot be written anew" in caplog.text


def test_a_journal_is_the_same_file_wherever_its_program_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)
    with closing(JournalFile("journal", rewrite_bytes=1_000)) as file:
        monkeypatch.chdir(second)
        for _ in range(100):
            file.begin({}).done()
            if file._rewriting is not None:
                file._rewriting._thread.join()
        assert file._written < 1_500, "it was written anew"
    assert {each.name for each in first.iterdir()} == {"journal", "journal.lock"}
    assert not list(second.iterdir())
