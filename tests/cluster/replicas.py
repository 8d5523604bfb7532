"""When the count of a Deployment changed, as a watch sees it."""

from __future__ import annotations

import threading
import time

from tests.cluster.api import Api, ApiError

_WATCH_SECONDS = 880


class Replicas:
    """Follows a Deployment until it is deleted. ``now`` is the count that is known already; None: none is."""

    def __init__(self, api: Api, path: str, now: int | None = None) -> None:
        self.changes: list[tuple[float, int]] = []
        """When, by the wall clock, and to how many; without ``now`` the first is what was found."""
        self._api, self._path, self._last = api, path, now
        threading.Thread(target=self._watch, name="replicas", daemon=True).start()

    def _watch(self) -> None:
        collection, _, name = self._path.rpartition("/")
        try:
            events = self._api.watch(
                collection, seconds=_WATCH_SECONDS, fieldSelector=f"metadata.name={name}"
            )
            for kind, item in events:
                if kind == "DELETED":
                    return
                count = item["spec"]["replicas"]
                if count != self._last:
                    self._last = count
                    self.changes.append((time.time(), count))
        except (ApiError, OSError):
            return  # the cluster has ended
