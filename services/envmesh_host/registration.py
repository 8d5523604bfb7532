"""The host's side of FleetService.Register: it tells the broker what it is and does, and hears what it shall do.

The session is kept up for as long as ``run`` runs. A broker that is away is asked again with a bounded, jittered
back-off; a new one has the whole picture with the first report, for a report is always the whole picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from envmesh.v1 import fleet_pb2, fleet_pb2_grpc

__all__ = ["Listener", "Registration"]

_log = logging.getLogger(__name__)

_LEAST_BACK_OFF = 0.1
_MOST_BACK_OFF = 1.0
_CONNECT = 5.0
"""Seconds for which an unreachable broker is waited for before the next attempt."""

_SILENCE = 4.0
"""Report intervals without an answer after which a session is given up."""


class Listener(Protocol):
    """What a host does with what it is told. Nothing here may block or raise."""

    def lease_keys(self, public_keys: Sequence[bytes]) -> None:
        """These keys (32 bytes each), and no others, sign valid leases."""
        ...

    def recalls(self, keep: Mapping[bytes, int]) -> None:
        """By lease, to how many slots it shall shrink. The whole list: what is not in it is not recalled any more. Not
        called while nothing is recalled."""
        ...

    def drain(self, wanted: bool) -> None:
        """Drain, or take the drain back. Told again until a report shows it."""
        ...

    def revoked(self, tenants: frozenset[str], credentials: frozenset[bytes]) -> None:
        """The streams of these tenants, and those begun with these credentials, shall end within 60 s. The whole
        lists."""
        ...

    def watches(self, watches: Sequence[fleet_pb2.Watch]) -> None:
        """These episodes are looked at, and no others. Not called while nobody looks."""
        ...

    def pass_required(self, required: bool) -> None:
        """Whether whoever calls must show a pass."""
        ...

    def connected(self, up: bool) -> None:
        """The broker hears this host, or no longer does."""
        ...


@dataclass(slots=True)
class _Pace:
    """When the next report is due."""

    interval: float
    gap: float
    changed: asyncio.Event
    leaving: asyncio.Event


class Registration:
    """A host's session with its broker.

    ``report`` gives the whole picture; its ``sequence`` is filled in here, and ``heard`` is told which the broker has
    acknowledged. ``changed()`` asks for a report ahead of the interval, but never sooner than the gap that the broker
    asks for (at first 100 ms). ``channel()`` and ``metadata()`` are asked at each session, so that certificates and
    tokens may be renewed.
    """

    def __init__(
        self,
        channel: Callable[[], grpc.aio.Channel],
        identity: fleet_pb2.HostIdentity,
        report: Callable[[], fleet_pb2.HostReport],
        listener: Listener,
        *,
        heard: Callable[[fleet_pb2.HostReport], None] = lambda report: None,
        metadata: Callable[[], Sequence[tuple[str, str]]] = tuple,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._channel, self._identity, self._report, self._listener = channel, identity, report, listener
        self._heard, self._metadata, self._jitter = heard, metadata, jitter
        self._pace = _Pace(1.0, 0.1, asyncio.Event(), asyncio.Event())
        self._sequence = 0
        self._recalled = False
        self._watched = False
        self.over = asyncio.Event()
        """Set when ``run`` has returned: the broker has heard the goodbye, or it could not be said."""

    def changed(self) -> None:
        """Something changed that the broker should know soon: a lease was shown or ended, a state changed."""
        self._pace.changed.set()

    async def run(self) -> None:
        """Keep the session up until cancelled, or until ``leave`` was called and the broker has heard it."""
        try:
            await self._keep_up()
        finally:
            self.over.set()

    async def _keep_up(self) -> None:
        back_off = _LEAST_BACK_OFF
        leaving = self._pace.leaving
        while not leaving.is_set():
            try:
                await self._session()
                back_off = _LEAST_BACK_OFF
            except grpc.aio.AioRpcError as error:
                if error.code() in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.PERMISSION_DENIED,
                ):
                    _log.error("the broker refuses this host", extra={"why": error.details()})
                    back_off = _MOST_BACK_OFF
                elif error.code() is grpc.StatusCode.ABORTED:
                    _log.error("another process registers as this host", extra={"why": error.details()})
                    back_off = _MOST_BACK_OFF
                else:
                    _log.warning("the broker is away", extra={"why": error.details()})
            except TimeoutError:
                _log.warning("the broker does not answer")
            except Exception as defect:  # episodes go on without the broker, and need not end for it
                _log.error("a defect where this host reports to its broker", exc_info=defect)
                back_off = _MOST_BACK_OFF
            if not leaving.is_set():
                await asyncio.sleep(back_off * (0.5 + self._jitter() / 2))
                back_off = min(back_off * 2, _MOST_BACK_OFF)

    def leave(self) -> None:
        """Say goodbye: send a last report, end the session in good order, and let ``run`` return. To be called when
        the host has drained and holds nothing any more, and reports so; the broker forgets it at once."""
        self._pace.leaving.set()
        self._pace.changed.set()

    async def _session(self) -> None:
        channel = self._channel()
        async with asyncio.timeout(_CONNECT):
            await channel.channel_ready()
        stub: Any = fleet_pb2_grpc.FleetServiceStub(channel)
        call = stub.Register(metadata=tuple(self._metadata()))
        try:
            await call.write(fleet_pb2.RegisterRequest(identity=self._identity))
            greeting = await self._hear(call, self._pace.interval * _SILENCE + 1.0)
            self._listener.pass_required(greeting.pass_required)
            self._listener.connected(True)
            while True:
                leaving = self._pace.leaving.is_set()
                await self._tell(call)
                if leaving:
                    await call.done_writing()
                    async with asyncio.timeout(_CONNECT):
                        await call.code()
                    return
                await self._wait()
        finally:
            call.cancel()
            if self._watched:  # nobody looks who is not there
                self._watched = False
                self._listener.watches(())
            self._listener.connected(False)

    async def _tell(self, call: Any) -> None:
        report = self._report()
        self._sequence += 1
        report.sequence = self._sequence
        try:
            await call.write(fleet_pb2.RegisterRequest(report=report))
        except asyncio.InvalidStateError:  # the call is over already
            await _raise_end(call)
        await self._hear(call, self._pace.interval * _SILENCE + 1.0)
        self._heard(report)

    async def _hear(self, call: Any, patience: float) -> fleet_pb2.RegisterResponse:
        async with asyncio.timeout(patience):
            answer = await call.read()
        if answer is grpc.aio.EOF:
            await _raise_end(call)
        if answer.lease_keys:
            self._listener.lease_keys(tuple(answer.lease_keys))
        if answer.HasField("report_interval"):
            self._pace.interval = max(0.05, answer.report_interval.ToNanoseconds() / 1e9)
        if answer.HasField("report_gap"):
            self._pace.gap = answer.report_gap.ToNanoseconds() / 1e9
        if answer.recalls or self._recalled:
            self._recalled = bool(answer.recalls)
            self._listener.recalls({recall.lease_id: recall.keep for recall in answer.recalls})
        if answer.drain_order != fleet_pb2.DRAIN_ORDER_UNSPECIFIED:
            self._listener.drain(answer.drain_order == fleet_pb2.DRAIN_ORDER_DRAIN)
        if answer.watches or self._watched:
            self._watched = bool(answer.watches)
            self._listener.watches(tuple(answer.watches))
        self._listener.revoked(frozenset(answer.revoked_tenants), frozenset(answer.revoked_credentials))
        return answer  # type: ignore[no-any-return]

    async def _wait(self) -> None:
        """Wait for the next interval, or for a change, but at least for the gap; a goodbye waits for neither."""
        pace = self._pace
        await _within(min(pace.gap, pace.interval), pace.leaving)
        await _within(pace.interval - pace.gap, pace.changed)
        pace.changed.clear()


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, at most so long."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


async def _raise_end(call: Any) -> None:
    """The broker ended the call: as the error that it is."""
    code, details = await call.code(), await call.details()
    if code is grpc.StatusCode.OK:
        code, details = grpc.StatusCode.UNAVAILABLE, "the broker ended the session"
    raise grpc.aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), details=details
    )
