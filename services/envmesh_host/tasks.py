"""The tasks of an environment, in pages."""

from __future__ import annotations

import asyncio

from envmesh import values
from envmesh.env import Task
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.hosted import Hosted
from envmesh_host.shown import said

__all__ = ["list_tasks"]

LISTING_SECONDS = 60.0
PAGE_TOKEN_DIGITS = 18
"""At most; Python itself reads no number of some thousand digits."""


async def list_tasks(environment: Hosted, split: str, page_token: str, size: int) -> pb.ListTasksResponse:
    """A page of tasks; the author's list is made in a thread, for it may take a while.

    Raises:
        Refusal: ARGUMENT_INVALID (the page token), ENVIRONMENT_RAISED, ENVIRONMENT_RETURNED, COMMAND_DEADLINE.
    """
    if page_token and not (page_token.isdecimal() and len(page_token) <= PAGE_TOKEN_DIGITS):
        raise Refusal(f"page_token {page_token[:40]!r} is not one of ours", reason="ARGUMENT_INVALID")
    start = int(page_token or 0)
    try:
        async with asyncio.timeout(LISTING_SECONDS):
            tasks = await asyncio.to_thread(environment.tasks.all)
    except TimeoutError:
        raise Refusal(f"tasks() took longer than {LISTING_SECONDS:g} s", reason="COMMAND_DEADLINE") from None
    wanted = [task for (_, of), task in tasks.items() if split in ("", of)]
    page = wanted[start : start + size]
    end = start + len(page)
    return pb.ListTasksResponse(
        tasks=list(map(task_message, page)), next_page_token=str(end) if end < len(wanted) else ""
    )


def task_message(task: Task) -> pb.Task:
    """The wire form of a task. Raises: Refusal ENVIRONMENT_RETURNED."""
    try:
        message = pb.Task(id=task.id, split=task.split, metadata=values.to_proto(dict(task.metadata)))
        if task.prompt is not None:
            message.prompt.CopyFrom(values.to_proto(task.prompt))
    except Exception as error:  # whatever an author's objects raise when they are looked at
        raise Refusal(
            f"task {task.id!r} has no form on the wire: {said(error)}", reason="ENVIRONMENT_RETURNED"
        ) from None
    return message
