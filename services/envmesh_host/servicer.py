"""EnvironmentService as gRPC sees it: the unary calls and the Stream, both in front of the same engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.frame_bounds import FRAME_HEAD_BYTES
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import environment_pb2_grpc
from envmesh.versions import rising
from envmesh_host.connection import Connection
from envmesh_host.copy import EpisodeCopy
from envmesh_host.engine import Engine
from envmesh_host.parsing import parse
from envmesh_host.player import outcome_of_row
from envmesh_host.served import Row
from envmesh_host.settings import HostSettings
from envmesh_host.slots import Claim, Holding
from envmesh_host.stream import FrameWriter, StreamSession
from envmesh_host.tasks import list_tasks
from envmesh_host.traced import traceparent_in
from envmesh_service.at_once import AtOnce
from envmesh_service.credentials import ANYBODY, Caller

__all__ = ["EnvironmentServicer", "add_to_server"]

log = logging.getLogger("envmesh.host")

PROTOCOL_VERSION = 1
DEFAULT_PAGE, MAX_PAGE = 1000, 10_000
LAST_EVENTS_SECONDS = 0.1
PATIENCE_BEYOND_LIMIT = 30.0
"""Seconds that a unary caller who names no timeout waits longer than the environment may run."""


class UnaryCall:
    """Where the reply to one unary call goes."""

    def __init__(self, client_id: bytes, tenant: str):
        self.client_id = client_id
        self.tenant = tenant
        self._reply: asyncio.Future[Row] = asyncio.get_running_loop().create_future()

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Deliver the reply; too late is no harm."""
        if self._reply.done():
            return
        if isinstance(result, Refusal):
            self._reply.set_exception(result)
        else:
            self._reply.set_result(result)

    async def wait(self, timeout: float, what: str) -> Row:
        """The reply. Raises: Refusal, its own or COMMAND_DEADLINE."""
        try:
            async with asyncio.timeout(timeout):
                return await self._reply
        except TimeoutError:
            raise Refusal(
                f"{what} took longer than {timeout:g} s; it goes on", reason="COMMAND_DEADLINE"
            ) from None


STORE_SECONDS = 60.0
"""For reading a checkpoint from the store."""


class EnvironmentServicer(environment_pb2_grpc.EnvironmentServiceServicer):
    """Plays episodes. ``caller_of(context)`` says whose call it is; ``alone`` whether unleased resets are taken."""

    def __init__(
        self,
        engine: Engine,
        settings: HostSettings,
        host_id: str,
        *,
        alone: bool,
        caller_of: Callable[[Any], Caller] = lambda context: ANYBODY,
    ):
        self.engine = engine
        self.settings = settings
        self.host_id = host_id
        self.alone = alone
        self.caller_of = caller_of
        self.connections: dict[bytes, Connection] = {}
        self.writers: dict[bytes, FrameWriter] = {}
        self.last_tick = [time.monotonic()]
        variable = settings.variable_of("tenant_streams")
        advice = f"a client takes two; use fewer clients, or set {variable} of the host"
        self._streams = AtOnce(settings.tenant_streams, "streams to this host", advice)

    # ---- unary calls

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Any
    ) -> pb.ListEnvironmentsResponse:
        """Every environment of this host, sorted."""
        self.caller_of(context)
        hosted = self.engine.hosted
        return pb.ListEnvironmentsResponse(environments=[hosted[key].info for key in rising(hosted)])

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        """A page of an environment's tasks."""
        self.caller_of(context)
        environment = self.engine.environment(request.environment)
        size = request.page_size or DEFAULT_PAGE
        if size > MAX_PAGE:
            raise Refusal(f"page_size is at most {MAX_PAGE}; got {size}", reason="ARGUMENT_INVALID")
        return await list_tasks(environment, request.split, request.page_token, size)

    async def Reset(self, request: pb.ResetRequest, context: Any) -> pb.ResetResponse:
        """Begin an episode outside a stream."""
        call = UnaryCall(request.client_id, self.caller_of(context).tenant)
        environment = self.engine.environment(request.environment)
        patience = _patience(request.timeout, environment.reset_limit)
        request.traceparent = traceparent_in(request, context)
        self.engine.reset(
            request,
            request.SerializeToString(deterministic=True),
            lambda: self._holding(request.lease, environment.key, call),
            call,
            (call, 0, 0),
        )
        row = await call.wait(patience, "reset")
        return pb.ResetResponse(
            outcome=outcome_of_row(0, row), version=environment.info.version, build=environment.info.build
        )

    async def Step(self, request: pb.StepRequest, context: Any) -> pb.StepResponse:
        """Act once."""
        copy = self._episode(request, context)
        if request.index < 1:
            raise Refusal("the first step has index 1; 0 is reset", reason="STEP_INDEX")
        call = UnaryCall(copy.client_id, copy.tenant)
        action = request.action.SerializeToString(deterministic=True)
        waiter = (call, 0, request.index)
        self.engine.step(copy, pb.COMMAND_KIND_STEP, request.index, action, waiter)
        row = await self._wait(
            call, copy, waiter, _patience(request.timeout, copy.environment.step_limit), "the step"
        )
        return pb.StepResponse(outcome=outcome_of_row(request.index, row))

    async def Reward(self, request: pb.RewardRequest, context: Any) -> pb.RewardResponse:
        """Grade the episode as it stands."""
        copy = self._episode(request, context)
        call = UnaryCall(copy.client_id, copy.tenant)
        self.engine.grade(copy, request.again, (call, 0, 0))
        row = await call.wait(_patience(request.timeout, copy.environment.reward_limit), "the reward")
        return pb.RewardResponse.FromString(row[0])

    async def Close(self, request: pb.CloseRequest, context: Any) -> pb.CloseResponse:
        """End a copy; what is not there is closed already."""
        try:
            copy = self._episode(request, context)
            self.engine.forget_checkpoints(copy)
            self.engine.close(copy)
        except Refusal as refusal:
            if refusal.reason != "EPISODE_UNKNOWN":
                raise
        return pb.CloseResponse()

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> pb.CheckpointResponse:
        """Save the episode."""
        copy = self._episode(request, context)
        call = UnaryCall(copy.client_id, copy.tenant)
        self.engine.checkpoint(copy, (call, 0, 0))
        row = await call.wait(_patience(request.timeout, copy.environment.step_limit), "the checkpoint")
        return pb.CheckpointResponse(checkpoint=pb.SealedCheckpoint.FromString(row[0]))

    async def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.ResumeResponse:
        """Rebuild an episode outside a stream."""
        call = UnaryCall(request.client_id, self.caller_of(context).tenant)
        fetched: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        if self.engine.fetch_checkpoints(request.journal, call.tenant, fetched.set_result):
            try:
                async with asyncio.timeout(STORE_SECONDS):
                    refusal = await asyncio.shield(fetched)
            except TimeoutError:
                slow = f"the checkpoint store did not answer within {STORE_SECONDS:g} s"
                raise Refusal(slow, reason="NO_CAPACITY", retry_after=1.0) from None
            if refusal is not None:
                raise refusal
        request.traceparent = traceparent_in(request, context)
        copy = self.engine.resume(
            request,
            lambda named: self._holding(request.lease, self._served_version(named), call),
            call,
            (call, 0, 0),
        )
        row = await call.wait(_patience(request.timeout, copy.environment.reset_limit), "the resumption")
        return pb.ResumeResponse.FromString(row[0])

    # ---- the stream

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        """All episodes of a connection, in frames of raw bytes."""
        caller = self.caller_of(context)
        with self._streams.one(caller.tenant):  # from its beginning: one that never says hello takes room too
            data = await context.read()
            if data is grpc.aio.EOF:
                return
            hello = self._hello(data)
            if hello.role == pb.STREAM_ROLE_LARGE:
                await self._serve_large(hello, caller, context)
            else:
                await self._serve_main(hello, caller, context)

    async def _serve_main(self, hello: pb.Hello, caller: Caller, context: Any) -> None:
        window = _seconds(hello.liveness_window, self.settings.liveness_window)
        if not 1.0 <= window <= 300.0:
            raise Refusal(f"liveness_window is 1 to 300 s; got {window:g} s", reason="ARGUMENT_INVALID")
        if hello.connection_id in self.connections:
            raise Refusal("this connection has its main stream already", reason="ARGUMENT_INVALID")
        connection = Connection(
            self.engine,
            hello,
            caller,
            lease_idle=self.settings.lease_idle,
            liveness_window=window,
            checkpoint_seconds=_seconds(hello.checkpoint_interval, 0.0),
        )
        writer = FrameWriter(context, connection.outbox, connection)
        session = StreamSession(context, connection, self.last_tick, writer=writer, own=writer)
        connection.wake = writer.wake
        self.connections[hello.connection_id] = connection
        self.writers[hello.connection_id] = writer
        reading = asyncio.current_task()
        assert reading is not None
        ending: list[Refusal | None] = []

        def end(why: Refusal | None) -> None:
            ending.append(why)
            asyncio.get_running_loop().call_later(LAST_EVENTS_SECONDS, reading.cancel)

        connection.end = end
        try:
            await context.write(self._welcome(window).SerializeToString())
            if self.engine.draining:
                until = self.engine.drain_until
                connection.notify_draining(True, None if until is None else until - self.engine.clock())
            async with _running(writer.run(), "stream-writer"):
                await session.read()
        except asyncio.CancelledError:
            if not ending:
                raise
            if ending[0] is not None:
                raise ending[0] from None
        finally:
            if self.connections.get(hello.connection_id) is connection:
                del self.connections[hello.connection_id]
                del self.writers[hello.connection_id]
            connection.lost()

    async def _serve_large(self, hello: pb.Hello, caller: Caller, context: Any) -> None:
        connection = self.connections.get(hello.connection_id)
        if (
            connection is None
            or connection.client_id != hello.client_id
            or connection.tenant != caller.tenant
        ):
            raise Refusal("the main stream of a connection comes first", reason="ARGUMENT_INVALID")
        if connection.has_large_stream:
            raise Refusal("this connection has its second stream already", reason="ARGUMENT_INVALID")
        own = FrameWriter(context, connection.large, connection)
        writer = self.writers[hello.connection_id]
        session = StreamSession(context, connection, self.last_tick, writer=writer, own=own)
        reading = asyncio.current_task()
        assert reading is not None
        connection.has_large_stream, connection.end_large = True, reading.cancel
        try:
            await context.write(self._welcome(connection.liveness_window).SerializeToString())
            connection.wake_large, connection.large_room = own.wake, own.room
            async with _running(own.run(), "large-stream-writer"):
                own.wake()
                await session.read()
        except asyncio.CancelledError:
            if self.connections.get(hello.connection_id) is connection:
                raise
        finally:
            connection.has_large_stream, connection.end_large = False, lambda: None
            own.over()

    def _hello(self, data: bytes) -> pb.Hello:
        try:
            frame = pb.StreamRequest.FromString(data)
        except DecodeError:
            raise Refusal("the first frame cannot be decoded", reason="MALFORMED") from None
        hello = frame.hello
        if not frame.HasField("hello") or frame.handles:
            raise Refusal("the first request of a stream carries hello and nothing else", reason="MALFORMED")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise Refusal(
                f"this host speaks protocol version {PROTOCOL_VERSION}, not {hello.protocol_version}",
                reason="ARGUMENT_INVALID",
            )
        if len(hello.client_id) != 16 or len(hello.connection_id) != 16:
            raise Refusal("client_id and connection_id are 16 random bytes each", reason="ARGUMENT_INVALID")
        if 0 < hello.max_frame_bytes < 2 * FRAME_HEAD_BYTES:
            raise Refusal(
                f"max_frame_bytes is at least {2 * FRAME_HEAD_BYTES:,}; got {hello.max_frame_bytes:,}",
                reason="ARGUMENT_INVALID",
            )
        if hello.role not in (pb.STREAM_ROLE_MAIN, pb.STREAM_ROLE_LARGE):
            raise Refusal("role must be MAIN or LARGE", reason="ARGUMENT_INVALID")
        return hello

    def _welcome(self, window: float) -> pb.StreamResponse:
        settings = self.settings
        return pb.StreamResponse(
            welcome=pb.Welcome(
                protocol_version=PROTOCOL_VERSION,
                host_id=self.host_id,
                max_frame_bytes=settings.max_message_bytes,
                max_value_bytes=settings.max_value_bytes,
                reattach_window=_duration(settings.reattach_window),
                liveness_window=_duration(window),
            )
        )

    # ---- what the unary calls share

    def _episode(self, request: Any, context: Any) -> EpisodeCopy:
        copy = self.engine.episode(request.episode_id, request.epoch, b"", self.caller_of(context).tenant)
        copy.idle_since = self.engine.clock()
        return copy

    async def _wait(self, call: UnaryCall, copy: EpisodeCopy, waiter: Any, timeout: float, what: str) -> Row:
        try:
            return await call.wait(timeout, what)
        finally:
            if copy.running is not None and waiter in copy.running.waiters:
                copy.running.waiters.remove(waiter)

    def _served_version(self, named: str) -> str:
        """What a journal is of, where that very version is served here."""
        environment = self.engine.environment(named.partition("@")[0])
        if named not in self.engine.hosted:
            raise Refusal(
                f"the journal is of {named}; this host serves {environment.key}", reason="VERSION_MISMATCH"
            )
        return named

    def _holding(self, lease: bytes, environment: str, call: UnaryCall) -> Holding:
        engine = self.engine
        if lease:
            claim = engine.rights.claim(lease, call.client_id, engine.slots.holding)
            if claim.tenant != call.tenant or claim.environment != environment:
                raise Refusal("the lease is for another tenant or environment", reason="LEASE_INVALID")
            return engine.slots.show(claim, engine.clock())
        if not self.alone:
            raise Refusal("this host is part of a mesh: acquire a lease first", reason="LEASE_INVALID")
        claim = Claim(lease_id=secrets.token_bytes(16), tenant=call.tenant, environment=environment, count=1)
        try:
            holding = engine.slots.show(claim, engine.clock())
        except Refusal as refusal:
            raise Refusal(str(refusal), reason="NO_CAPACITY", retry_after=1.0) from None
        holding.unleased = True
        return holding


def add_to_server(servicer: EnvironmentServicer, server: grpc.aio.Server) -> None:
    """Register the service. What a hostile caller may fill comes as bytes, and is ours to answer."""
    service = pb.DESCRIPTOR.services_by_name["EnvironmentService"]
    registering: Any = _RawRequests(server, service.full_name, servicer)
    environment_pb2_grpc.add_EnvironmentServiceServicer_to_server(servicer, registering)


class _RawRequests:
    """Registers a generated service, without the deserializers of the Stream and of requests with values in them."""

    def __init__(self, server: grpc.aio.Server, name: str, servicer: EnvironmentServicer):
        self._server = server
        self._name = name
        self._raw: dict[str, Any] = {
            "Stream": grpc.stream_stream_rpc_method_handler(servicer.Stream),
            "Reset": _parsing(pb.ResetRequest, servicer.Reset),
            "Step": _parsing(pb.StepRequest, servicer.Step),
            "Resume": _parsing(pb.ResumeRequest, servicer.Resume),
        }

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Called by the generated code."""
        raw = grpc.method_handlers_generic_handler(self._name, self._raw)
        self._server.add_generic_rpc_handlers((raw, *handlers))

    def add_registered_method_handlers(self, name: str, handlers: dict[str, Any]) -> None:
        """Called by the generated code."""
        self._server.add_registered_method_handlers(name, handlers | self._raw)


def _parsing(kind: Any, carry_out: Callable[[Any, Any], Coroutine[Any, Any, Any]]) -> Any:
    async def parse_first(payload: bytes, context: Any) -> Any:
        return await carry_out(parse(kind, payload), context)

    return grpc.unary_unary_rpc_method_handler(
        parse_first, response_serializer=lambda response: response.SerializeToString()
    )


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Run a task beside the block, and end it with the block. A task group would wrap the block's refusal."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("%s ended: %s", name, error)


def _patience(given: duration_pb2.Duration, limit: float) -> float:
    """How long a caller waits: as it says, or until the environment's own limit has had its say."""
    return _seconds(given, limit + PATIENCE_BEYOND_LIMIT)


def _seconds(duration: duration_pb2.Duration, default: float) -> float:
    given = duration.ToNanoseconds() / 1e9
    if given < 0:
        raise Refusal(f"a duration is not negative; got {given:g} s", reason="ARGUMENT_INVALID")
    return given or default


def _duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
