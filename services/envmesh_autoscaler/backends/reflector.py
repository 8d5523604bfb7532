"""A collection of the API server kept in memory: listed, watched, and listed again now and then.

Each collection has a thread, for the client's calls block; what it sees is handed to the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from envmesh_service.clock import Clock
from envmesh_service.kubernetes_api import ApiRefused, ClusterApi

__all__ = ["Collection", "older"]

log = logging.getLogger("envmesh.autoscaler")

WATCH_SECONDS = 30
RESYNC_SECONDS = 300.0
LEAST_BACK_OFF, MOST_BACK_OFF = 0.2, 5.0


class Collection:
    """The objects at ``path``, by name. ``follow`` ends when it is cancelled; its thread within the watch's time."""

    def __init__(
        self, api: ClusterApi, path: str, changed: Callable[[], None], clock: Clock, *, optional: bool = False
    ) -> None:
        self.path = path
        self.objects: dict[str, Mapping[str, Any]] = {}
        self.synced = False
        self.heard_at = float("-inf")
        self.refused = False
        """Whether we may not see it; only an ``optional`` one is done without."""
        self._api, self._changed, self._clock, self._optional = api, changed, clock, optional
        self._stop = threading.Event()
        self._response: Any = None

    def age(self, now: float) -> float:
        """Seconds since the API server last answered here."""
        return 0.0 if self.refused else now - self.heard_at

    async def follow(self) -> None:
        """Keep it, until cancelled."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._keep, args=(loop,), name=f"watch {self.path}", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._stop.set()
            response = self._response
            if response is not None:
                response.shutdown()

    def replaced(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """We changed an object ourselves: see it so at once."""
        known = self.objects.get(name)
        if known is not None:
            copy = json.loads(json.dumps(known))
            change(copy)
            self.objects[name] = copy

    def answered(self, name: str, item: Mapping[str, Any]) -> None:
        """This was the answer to a write of ours: see it so at once, unless the watch was faster. What it has told of
        since may be newer, or that the object is gone."""
        known = self.objects.get(name)
        if known is None or known["metadata"]["uid"] != item["metadata"]["uid"]:
            return
        if not older(item["metadata"], known["metadata"]):
            self.objects[name] = item

    def _keep(self, loop: asyncio.AbstractEventLoop) -> None:
        back_off = LEAST_BACK_OFF
        version, listed_at = "", 0.0
        while not self._stop.is_set():
            try:
                if not version or self._clock() - listed_at > RESYNC_SECONDS:
                    answer = self._api.raw("GET", self.path)
                    version, listed_at = answer["metadata"]["resourceVersion"], self._clock()
                    self._tell(loop, self._take_list, answer["items"])
                version = self._watch(loop, version)
                back_off = LEAST_BACK_OFF
            except ApiRefused as error:
                version = ""
                if error.status == 403 and self._optional:
                    self._tell(loop, self._do_without)
                    return
                if not self._stop.is_set():
                    log.warning("cannot watch", extra={"path": self.path, "why": str(error)})
                    self._stop.wait(max(error.retry_after, back_off * random.uniform(0.5, 1.0)))
                    back_off = min(2 * back_off, MOST_BACK_OFF)

    def _watch(self, loop: asyncio.AbstractEventLoop, version: str) -> str:
        """One watch to its end. Returns where to go on; empty: from a new list."""
        query = {
            "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }  # fmt: skip
        with self._api.stream(self.path, query, WATCH_SECONDS + 5.0) as response:
            self._response = response
            for line in response.lines():
                if self._stop.is_set():
                    return version
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = event["object"]["metadata"]["resourceVersion"]
                self._tell(loop, self._take, event["type"], event["object"])
        self._response = None
        self._tell(loop, self._take, "BOOKMARK", {})
        return version

    def _tell(self, loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: Any) -> None:
        try:
            loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed: the process ends
            self._stop.set()

    # ---- in the loop

    def _take_list(self, items: list[dict[str, Any]]) -> None:
        self.objects = {item["metadata"]["name"]: item for item in items}
        self.synced, self.heard_at = True, self._clock()
        self._changed()

    def _take(self, kind: str, item: dict[str, Any]) -> None:
        self.heard_at = self._clock()
        if kind == "BOOKMARK":
            return
        name = item["metadata"]["name"]
        if kind == "DELETED":
            self.objects.pop(name, None)
        else:
            known = self.objects.get(name)
            if known is not None and older(item["metadata"], known["metadata"]):
                return
            self.objects[name] = item
        self._changed()

    def _do_without(self) -> None:
        self.refused = self.synced = True
        log.warning("may not be seen, and is done without", extra={"path": self.path})
        self._changed()


def older(metadata: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether an object is told of as it was before ``known``: the watch and the answers to our writes overtake one
    another.

    Only one of the same uid can be. Versions grow where they are numbers, as those of every API server are today.
    """
    if metadata["uid"] != known["uid"]:
        return False
    if metadata.get("generation", 0) < known.get("generation", 0):
        return True
    version, newest = metadata.get("resourceVersion", ""), known.get("resourceVersion", "")
    return version.isdecimal() and newest.isdecimal() and int(version) < int(newest)
