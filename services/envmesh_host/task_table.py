"""The tasks of an environment, as its author lists them."""

from __future__ import annotations

from envmesh.env import Definition, Task
from envmesh.errors import Refusal
from envmesh_host.overrun import StepOverrun
from envmesh_host.shown import raised, shown

__all__ = ["TaskTable"]


class TaskTable:
    """The list is made when somebody first asks."""

    __slots__ = ("_definition", "_tasks")

    def __init__(self, definition: Definition):
        self._definition = definition
        self._tasks: dict[tuple[str, str], Task] | None = None

    def all(self) -> dict[tuple[str, str], Task]:
        """All tasks, by id and split.

        Raises:
            Refusal: ENVIRONMENT_RAISED, ENVIRONMENT_RETURNED.
        """
        if self._tasks is None:
            try:
                listed = list(self._definition.tasks()) if self._definition.tasks is not None else []
            except StepOverrun:
                raise
            except BaseException as error:
                raise raised("tasks()", error) from error
            for task in listed:
                if not (isinstance(task, Task) and isinstance(task.id, str) and isinstance(task.split, str)):
                    raise Refusal(
                        f"tasks() must list envmesh.Task, whose id and split are text; it listed {shown(task)}",
                        reason="ENVIRONMENT_RETURNED",
                    )
            self._tasks = {(task.id, task.split): task for task in listed}
        return self._tasks

    def find(self, task_id: str, split: str) -> Task:
        """The task of this id, in this split or the first that has it.

        Raises:
            Refusal: TASK_UNKNOWN, and those of ``all``.
        """
        tasks = self.all()
        found = tasks.get((task_id, split)) or (
            next((task for (known, _), task in tasks.items() if known == task_id), None)
            if not split
            else None
        )
        if found is None:
            where = f" in split {split!r}" if split else ""
            raise Refusal(f"{self._definition.key} has no task {task_id!r}{where}", reason="TASK_UNKNOWN")
        return found
