"""``envmesh_environments.editor:Editor``: a few text files to be put right, for agents that use tools.

Class STATE: a checkpoint is the files as they are, so that an episode of a thousand edits is rebuilt in one go. Files
are kept in memory and bounded; nothing of the machine can be reached.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import envmesh.env
from envmesh.env import RewardResult, Task

MOST_FILES, MOST_CHARACTERS = 64, 100_000
TOO_LONG = f"a file has a path, and at most {MOST_CHARACTERS:,} characters"

NOTES = """\
Monday: buy bread
Tuesday: call the plumber
Wednesday: water the plants
"""
PROGRAM = """\
def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
"""
SPOILT: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "typo": (
        "notes.txt has a typo. Put it right.",
        {"notes.txt": NOTES.replace("plumber", "plumbre")},
        {"notes.txt": NOTES},
    ),
    "rename": (
        "In mean.py, call the parameter `numbers`.",
        {"mean.py": PROGRAM},
        {"mean.py": PROGRAM.replace("values", "numbers")},
    ),
    "tidy": (
        "Delete what is empty, and leave the rest alone.",
        {"notes.txt": NOTES, "empty.txt": "", "mean.py": PROGRAM, "also-empty.txt": ""},
        {"notes.txt": NOTES, "mean.py": PROGRAM},
    ),
}
"""By task: what is to be done, the files at the beginning, and the files as they should be."""


@envmesh.env.environment(
    recovery="state",
    isolation="inline",
    reward_components=("right", "harmed"),
    checkpoint_steps=20,
    observation_space={"type": "string"},
    action_space={
        "type": "object",
        "properties": {
            "tool": {"type": "string", "enum": ["list", "read", "write", "replace", "delete", "done"]},
            "path": {"type": "string", "maxLength": 200},
            "text": {"type": "string", "maxLength": MOST_CHARACTERS},
            "old": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS},
        },
        "required": ["tool"],
        "additionalProperties": False,
    },
)
class Editor:
    """Files, and tools to change them, until the agent says that it is done or has used them fifty times."""

    steps = 50
    example_actions: ClassVar[tuple[dict[str, str], ...]] = (
        {"tool": "list"},
        {"tool": "read", "path": "notes.txt"},
        {"tool": "write", "path": "new.txt", "text": "a line"},
    )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin the task of ``options["task"]``, or one by the seed; the observation says what is to be done."""
        given = (options or {}).get("task")
        self.task = given.id if given is not None else random.Random(seed).choice(sorted(SPOILT))
        said, files, _ = SPOILT[self.task]
        self.files = dict(files)
        self.used = 0
        return f"{said} Files: {', '.join(sorted(self.files))}.", {"task": self.task}

    def step(self, action: Mapping[str, str]) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Use a tool; the observation is what it says. When the agent is done, the reward is its grade."""
        self.used += 1
        if action["tool"] == "done":
            return "done", self.reward().value, True, False, {}
        said = self._use(action["tool"], action.get("path", ""), action.get("text", ""), action.get("old"))
        return said, 0.0, False, self.used >= self.steps, {}

    def reward(self) -> RewardResult:
        """The share of files that are as they should be, less those that were right and are not any more."""
        _, before, goal = SPOILT[self.task]
        names = sorted({*goal, *self.files, *before})
        right = sum(self.files.get(name) == goal.get(name) for name in names) / len(names)
        kept = [name for name in names if before.get(name) == goal.get(name)]
        harmed = sum(self.files.get(name) != goal.get(name) for name in kept) / len(names)
        return RewardResult(value=right - harmed, components={"right": right, "harmed": harmed})

    def checkpoint(self) -> dict[str, Any]:
        """The files as they are."""
        return {"task": self.task, "files": self.files, "used": self.used}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.task, self.used = checkpoint["task"], checkpoint["used"]
        self.files = dict(checkpoint["files"])

    @staticmethod
    def tasks() -> Iterator[Task]:
        """What can be done."""
        for name, (said, _, _) in SPOILT.items():
            yield Task(id=name, prompt=said)

    def _use(self, tool: str, path: str, text: str, old: str | None) -> str:
        if tool == "list":
            return "\n".join(sorted(self.files)) or "there are no files"
        if tool == "write":
            return self._write(path, text)
        if path not in self.files:
            return f"there is no file {path!r}"
        if tool == "read":
            return self.files[path]
        if tool == "delete":
            del self.files[path]
            return f"deleted {path}"
        before = self.files[path]
        if old is None or old not in before:
            return f"`old` is not in {path}"
        if len(before) + before.count(old) * (len(text) - len(old)) > MOST_CHARACTERS:
            return TOO_LONG  # before it is made: one replacement could fill the memory
        return self._write(path, before.replace(old, text))

    def _write(self, path: str, text: str) -> str:
        if not path or len(text) > MOST_CHARACTERS:
            return TOO_LONG
        if path not in self.files and len(self.files) >= MOST_FILES:
            return f"there are at most {MOST_FILES} files"
        self.files[path] = text
        return f"wrote {len(text)} characters to {path}"
