"""Decisions as Events of the Deployment that they are about: what ``kubectl describe`` shows an operator."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

from envmesh_service.clock import Clock
from envmesh_service.kubernetes_api import ApiRefused, ClusterApi

__all__ = ["Events", "event_of"]

log = logging.getLogger("envmesh.autoscaler")

CONTROLLER = "envmesh.dev/autoscaler"
LEAST_SECONDS = 1.0
"""Between two Events of one reason about one Deployment: what is decided meanwhile is in the log and the metrics."""
_LONGEST = 1000
"""Characters of a note; the API server takes 1,024."""


def event_of(
    deployment: Mapping[str, Any], reason: str, action: str, note: str, now: float, instance: str
) -> dict[str, Any]:
    """An Event about a Deployment. ``now`` is on the wall clock; ``instance`` says which autoscaler speaks."""
    meta = deployment["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name'][:50]}-", "namespace": meta["namespace"]},
        "eventTime": dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128],
        "type": "Normal",
        "reason": reason,
        "action": action,
        "note": note[:_LONGEST],
        "regarding": {
            "apiVersion": "apps/v1", "kind": "Deployment", "namespace": meta["namespace"], "name": meta["name"],
            "uid": meta["uid"],
        },
    }  # fmt: skip


class Events:
    """Writes Events, at most one a second and reason about a Deployment: a change of direction is always told. What
    cannot be written is logged and let go."""

    def __init__(self, api: ClusterApi, namespace: str, instance: str, clock: Clock, wall: Clock) -> None:
        self._api, self._instance, self._clock, self._wall = api, instance, clock, wall
        self._path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        self._told: dict[tuple[str, str], float] = {}

    async def tell(self, deployment: Mapping[str, Any], reason: str, action: str, note: str) -> None:
        """Tell of a decision."""
        name, now = deployment["metadata"]["name"], self._clock()
        if now - self._told.get((name, reason), float("-inf")) < LEAST_SECONDS:
            return
        self._told[name, reason] = now
        event = event_of(deployment, reason, action, note, self._wall(), self._instance)
        try:
            await asyncio.to_thread(self._api.raw, "POST", self._path, event)
        except ApiRefused as error:
            log.warning("an Event was not written", extra={"deployment": name, "why": str(error)})
