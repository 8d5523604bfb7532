"""Of several autoscalers one leads: it holds a Lease of 5 s, and gives it back when it ends.

Nobody's wall clock is trusted: a Lease that others hold is over when it has not changed for its whole duration as
measured here, and our own counts from before the call that renewed it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Callable
from typing import Any

from envmesh_service.clock import Clock
from envmesh_service.kubernetes_api import ApiRefused, ClusterApi

__all__ = ["Leadership"]

log = logging.getLogger("envmesh.autoscaler")

ANSWERS = "envmesh.dev/answers"
DURATION = 5.0
RENEW_SECONDS = 1.5
MARGIN = 0.5
"""We stop acting so long before others may begin."""


class Leadership:
    """Whether this process leads."""

    def __init__(
        self,
        api: ClusterApi,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._api, self._identity, self._clock, self._changed = api, identity, clock, changed
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path, self._name = f"{self._collection}/{name}", name
        self._until = float("-inf")
        self._seen: tuple[Any, float] = (None, float("-inf"))
        self.say: Callable[[], str] = str
        """What the leader writes into its Lease for the others to repeat."""
        self.heard: tuple[str, float] = ("", float("-inf"))
        """What the leader has written there, and when it was seen to be new."""

    @property
    def leading(self) -> bool:
        """Whether we may act now."""
        return self._clock() < self._until - MARGIN

    async def run(self) -> None:
        """Hold the Lease, or wait for it, until cancelled; then give it back."""
        try:
            while True:
                led = self.leading
                try:
                    await self._try()
                except ApiRefused as error:
                    log.warning("the Lease cannot be had", extra={"why": str(error)})
                if self.leading != led:
                    log.info("leads" if self.leading else "follows", extra={"identity": self._identity})
                    self._changed()
                await asyncio.sleep(RENEW_SECONDS * random.uniform(0.7, 1.0))
        finally:
            if self.leading:
                self._until = float("-inf")
                await asyncio.shield(self._give_back())

    async def _try(self) -> None:
        begun = self._clock()
        try:
            lease = await self._call("GET", self._path)
        except ApiRefused as error:
            if error.status != 404:
                raise
            body: dict[str, Any] = {
                "metadata": {"name": self._name, "annotations": {ANSWERS: self.say()}},
                "spec": self._spec({}, taken=True),
            }
            await self._call("POST", self._collection, body)
            self._until = begun + DURATION
            return
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        record = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen[0]:
            self._seen = record, begun
            said = lease["metadata"].get("annotations", {}).get(ANSWERS, "")
            self.heard = said, begun
        mine = holder == self._identity
        if not mine and holder and begun - self._seen[1] < (spec.get("leaseDurationSeconds") or DURATION):
            return
        lease["spec"] = self._spec(spec, taken=not mine)
        lease["metadata"].setdefault("annotations", {})[ANSWERS] = self.say()
        try:
            await self._call("PUT", self._path, lease)
        except ApiRefused as error:
            if error.status == 409:
                return  # somebody else was first
            raise
        self._until = begun + DURATION

    async def _give_back(self) -> None:
        try:
            lease = await self._call("GET", self._path)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                lease["spec"]["leaseDurationSeconds"] = 1
                await self._call("PUT", self._path, lease)
        except ApiRefused as error:
            log.warning("the Lease could not be given back; it ends by itself", extra={"why": str(error)})

    def _spec(self, before: dict[str, Any], *, taken: bool) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            **before,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION),
            "renewTime": now,
            "acquireTime": now if taken else before.get("acquireTime", now),
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + int(taken),
        }

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self._api.raw, method, path, body, seconds=2.0)
