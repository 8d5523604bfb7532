"""The editor keeps little, whatever its agent does."""

import tracemalloc

from envmesh_environments.editor import MOST_CHARACTERS, Editor


def test_a_replacement_that_would_be_too_long_is_never_made():
    editor = Editor()
    editor.reset(seed=0)
    editor.step({"tool": "write", "path": "a", "text": "a" * 20_000})
    longer = "b" * 2_000
    tracemalloc.start()
    try:
        said = editor.step({"tool": "replace", "path": "a", "old": "a", "text": longer})[0]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"at most {MOST_CHARACTERS:,} characters" in said
    assert peak < 1_000_000
    assert editor.files["a"] == "a" * 20_000


def test_a_replacement_may_fill_a_file_and_no_more():
    editor = Editor()
    editor.reset(seed=0)
    editor.step({"tool": "write", "path": "a", "text": "ab" * 20_000})
    editor.step({"tool": "replace", "path": "a", "old": "b", "text": "cccc"})
    assert len(editor.files["a"]) == MOST_CHARACTERS
    said = editor.step({"tool": "replace", "path": "a", "old": "a", "text": "dd"})[0]
    assert f"at most {MOST_CHARACTERS:,} characters" in said
    assert len(editor.files["a"]) == MOST_CHARACTERS
