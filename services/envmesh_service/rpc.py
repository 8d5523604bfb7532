"""The gRPC server that every service stands on: options, port, TLS, health, reflection, errors and metrics.

A service adds its servicers and writes its calls plainly: it returns replies and raises ``Refusal``. What goes on the
wire for a refusal, for a defect, and for the counters is decided here, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ipaddress
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from envmesh.errors import EnvmeshError, Refusal
from envmesh.v1 import environment_pb2
from envmesh_service.clock import Clock, monotonic
from envmesh_service.metrics import RPC_BUCKETS, Registry
from envmesh_service.tls import Identity, TlsFiles, read_identity, server_credentials
from envmesh_service.watched import Watched

__all__ = [
    "BROKER_CHANNEL_OPTIONS",
    "BindError",
    "Endpoint",
    "Health",
    "RpcMetrics",
    "Server",
    "make_server",
    "status_of",
]

_log = logging.getLogger(__name__)

_STATUS_TRAILER = "grpc-status-details-bin"
_MESSAGE_BYTES = 1_000
_DETAIL_BYTES = 2_500
"""Trailers must stay under the 8 KiB that every gRPC client takes, in base64 and with the message in them twice."""

BROKER_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
"""How hosts and the autoscaler hold their channel to the broker: back soon after it is, for a new one must
have the whole picture within 2 s, and no dead link for long."""

Options = Sequence[tuple[str, Any]]
_Ended = Callable[[Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server listens and how it is secured. The files of TLS may be replaced while it is open."""

    listen: str
    """host:port, [v6]:port or unix:path; port 0 picks one."""
    certificate: Path | None = None
    """PEM chain; with ``private_key`` it makes this a TLS port."""
    private_key: Path | None = None
    client_authority: Path | None = None
    """PEM roots: with them, only clients with a certificate of theirs are heard."""
    plaintext_beyond_loopback: bool = False
    """Listen beyond this machine without TLS: for networks that secure themselves."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.listen.startswith("unix:"):
            return True
        host = self.listen.rpartition(":")[0].strip("[]")
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


class BindError(OSError):
    """The server cannot listen where it should."""


class Health:
    """grpc.health.v1 under the names ``live``, ``ready`` and ``accepting``; the empty name is ``ready``.

    *live*: the process works. *ready*: it has what it needs to serve. *accepting*: it takes new work (a draining host
    is ready and not accepting).
    """

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self.states = {"live": False, "ready": False, "accepting": False}

    async def set(
        self, *, live: bool | None = None, ready: bool | None = None, accepting: bool | None = None
    ) -> None:
        """Change what is given."""
        for name, value in (("live", live), ("ready", ready), ("", ready), ("accepting", accepting)):
            if value is not None:
                if name:
                    self.states[name] = value
                status = health_pb2.HealthCheckResponse
                await self.servicer.set(name, status.SERVING if value else status.NOT_SERVING)


class RpcMetrics:
    """The metrics of go-grpc-prometheus. ``grpc_server_handling_seconds`` is for calls with one request and one
    reply; how long a stream lasts says nothing. Beside them, until when the certificates are valid."""

    def __init__(self, registry: Registry) -> None:
        self.identities: list[Watched[Identity]] = []
        registry.gauge(
            "envmesh_certificate_expiry_timestamp_seconds",
            "When the first certificate of this process's ports expires, in seconds since 1970.",
            (),
            lambda: (
                {(): min(i.value.not_after.timestamp() for i in self.identities)} if self.identities else {}
            ),
        )
        method = ("grpc_type", "grpc_service", "grpc_method")
        self.started = registry.counter("grpc_server_started_total", "Calls begun.", method)
        self.handled = registry.counter("grpc_server_handled_total", "Calls ended.", (*method, "grpc_code"))
        self.seconds = registry.histogram(
            "grpc_server_handling_seconds", "Time of unary calls, in seconds.", method, RPC_BUCKETS
        )


class Server:
    """A gRPC server with a port that is already its own. Add servicers, start, stop."""

    def __init__(self, server: grpc.aio.Server, address: str, port: int, metrics: RpcMetrics | None) -> None:
        self.grpc = server
        self._metrics = metrics
        self.address = address
        """host:port as a client on this machine reaches it."""
        self.port = port
        self.health = Health()
        self.identity: Watched[Identity] | None = None
        """The certificate of this port, where it has one; refresh it from time to time."""
        self._names: list[str] = []

    def add(self, register: Callable[[Any, Any], None], servicer: object, name: str) -> None:
        """Add a servicer: the generated ``add_…_to_server``, and the service's full name for reflection."""
        register(servicer, self.grpc)
        self._names.append(name)
        if self._metrics is not None:
            for method in descriptor_pool.Default().FindServiceByName(name).methods:
                labels = _labels(f"/{name}/{method.name}", method.client_streaming, method.server_streaming)
                self._metrics.started.labels(*labels)
                self._metrics.handled.labels(*labels, "OK")

    async def start(self) -> None:
        """Begin to answer: live, and neither ready nor accepting until somebody says so."""
        self.add(health_pb2_grpc.add_HealthServicer_to_server, self.health.servicer, health.SERVICE_NAME)
        reflection.enable_server_reflection((*self._names, reflection.SERVICE_NAME), self.grpc)
        await self.health.set(live=True, ready=False, accepting=False)
        await self.grpc.start()

    async def stop(self, grace: float | None) -> None:
        """Take no new calls, and end the running ones after ``grace`` seconds."""
        await self.health.set(ready=False, accepting=False)
        await self.grpc.stop(grace)


def make_server(
    endpoint: Endpoint,
    *,
    max_message_bytes: int = 64 * 2**20,
    metrics: RpcMetrics | None = None,
    clock: Clock = monotonic,
    options: Options = (),
) -> Server:
    """A server that has its port, so that nothing else was begun when the port cannot be had.

    Raises:
        BindError: the port is in use, or cannot be listened on.
        ValueError: plain text beyond this machine that nobody asked for in as many words, or half a TLS identity.
    """
    identity, credentials = _credentials(endpoint)
    server = grpc.aio.server(
        interceptors=(_Guard(metrics, clock),), options=(*_options(max_message_bytes), *options)
    )
    try:
        if credentials is None:
            port = server.add_insecure_port(endpoint.listen)
        else:
            port = server.add_secure_port(endpoint.listen, credentials)
    except RuntimeError as error:
        raise BindError(
            f"cannot listen on {endpoint.listen}: the port is in use, or the address is not this machine's; "
            f"choose another, or 0 for any ({error})"
        ) from None
    host = endpoint.listen.rpartition(":")[0]
    address = endpoint.listen if endpoint.listen.startswith("unix:") else f"{host}:{port}"
    made = Server(server, address, port, metrics)
    made.identity = identity
    if metrics is not None and identity is not None:
        metrics.identities.append(identity)
    return made


def status_of(error: BaseException) -> status_pb2.Status:
    """The ``google.rpc.Status`` that an error becomes, cut to what fits into trailers.

    An error that is not ours becomes INTERNAL; it is logged with its traceback under an id that the message names.
    """
    if isinstance(error, Refusal):
        refusal = error
    elif isinstance(error, EnvmeshError):
        refusal = Refusal(
            Exception.__str__(error), reason=error.reason, detail=error.detail, retry_after=error.retry_after
        )
    else:
        incident = secrets.token_hex(4)
        _log.error("a defect", extra={"incident": incident}, exc_info=error)
        refusal = Refusal(
            f"a defect of envmesh ({type(error).__name__}); incident {incident} in the log", reason="INTERNAL"
        )
    status = refusal.to_status()
    status.message = _cut(status.message, _MESSAGE_BYTES)
    for detail in status.details:
        if detail.Is(error_details_pb2.DebugInfo.DESCRIPTOR):
            debug = error_details_pb2.DebugInfo.FromString(detail.value)
            detail.Pack(error_details_pb2.DebugInfo(detail=_cut(debug.detail, _DETAIL_BYTES, keep_end=True)))
        elif detail.Is(environment_pb2.Failure.DESCRIPTOR):
            failure = environment_pb2.Failure.FromString(detail.value)
            failure.message = _cut(failure.message, _MESSAGE_BYTES)
            detail.Pack(failure)
    return status


def _cut(text: str, limit: int, *, keep_end: bool = False) -> str:
    raw = text.encode()
    if len(raw) <= limit:
        return text
    if keep_end:
        return "[…] " + raw[-limit:].decode(errors="ignore")
    return raw[:limit].decode(errors="ignore") + " […]"


_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CODE_NAMES = {code: "".join(part.title() for part in code.name.split("_")) for code in grpc.StatusCode} | {
    grpc.StatusCode.OK: "OK",
    grpc.StatusCode.CANCELLED: "Canceled",
}
"""As Go spells them, and so every dashboard."""


async def _abort(context: Any, error: BaseException) -> None:
    if isinstance(error, NotImplementedError) and _code_name(context.code()) == "Unimplemented":
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))  # the generated base class's own words
    status = status_of(error)
    trailers = ((_STATUS_TRAILER, status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, trailers)


class _Guard(grpc.aio.ServerInterceptor):
    """Wraps each method once: refusals become statuses, defects become INTERNAL, calls are counted."""

    def __init__(self, metrics: RpcMetrics | None, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The wrapped handler of a call; None where the method does not exist."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Any, method: str) -> Any:
        request, response = (
            ("unary", "stream")[s] for s in (handler.request_streaming, handler.response_streaming)
        )
        kind = f"{request}_{response}"
        behavior = getattr(handler, kind)
        guarded = (self._guard_generator if inspect.isasyncgenfunction(behavior) else self._guard)(
            behavior, self._observer(method, handler.request_streaming, handler.response_streaming)
        )
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guard(self, behavior: Any, begun: Callable[[], _Ended]) -> Any:
        async def guarded(request: Any, context: Any) -> Any:
            ended = begun()
            try:
                return await behavior(request, context)
            except (asyncio.CancelledError, GeneratorExit):
                context.set_code(grpc.StatusCode.CANCELLED)
                raise
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort(context, error)
            finally:
                ended(context)

        return guarded

    def _guard_generator(self, behavior: Any, begun: Callable[[], _Ended]) -> Any:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            ended = begun()
            try:
                async with contextlib.aclosing(behavior(request, context)) as replies:
                    async for reply in replies:
                        yield reply
            except (asyncio.CancelledError, GeneratorExit):
                context.set_code(grpc.StatusCode.CANCELLED)
                raise
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort(context, error)
            finally:
                ended(context)

        return guarded

    def _observer(
        self, method: str, request_streaming: bool, response_streaming: bool
    ) -> Callable[[], _Ended]:
        metrics, clock = self._metrics, self._clock
        if metrics is None:
            return lambda: _ignore
        labels = _labels(method, request_streaming, response_streaming)
        started = metrics.started.labels(*labels)
        unary = labels[0] == "unary"
        seconds = metrics.seconds.labels(*labels) if unary else None

        def begun() -> _Ended:
            begin = clock()
            started.value += 1

            def ended(context: Any) -> None:
                metrics.handled.add(1, *labels, _code_name(context.code()))
                if seconds is not None:
                    seconds.observe(clock() - begin)

            return ended

        return begun


def _code_name(code: grpc.StatusCode | int | None) -> str:
    """grpc.aio says the code of a call as a number or as an enum member, as it was set."""
    if isinstance(code, grpc.StatusCode):
        return _CODE_NAMES[code]
    return _CODE_NAMES[_CODES.get(code or 0, grpc.StatusCode.UNKNOWN)]


def _ignore(context: Any) -> None:
    pass


def _labels(method: str, request_streaming: bool, response_streaming: bool) -> tuple[str, str, str]:
    kinds = {
        (False, False): "unary",
        (True, False): "client_stream",
        (False, True): "server_stream",
        (True, True): "bidi_stream",
    }
    _, service, name = method.split("/")
    return kinds[request_streaming, response_streaming], service, name


def _credentials(endpoint: Endpoint) -> tuple[Watched[Identity] | None, grpc.ServerCredentials | None]:
    if (endpoint.certificate is None) != (endpoint.private_key is None):
        raise ValueError("TLS needs both: a certificate and its private key")
    if endpoint.certificate is None or endpoint.private_key is None:
        if not endpoint.loopback and not endpoint.plaintext_beyond_loopback:
            raise ValueError(
                f"refusing to listen on {endpoint.listen} in plain text: others could read and forge everything. "
                "Listen on 127.0.0.1, give a certificate, or say that plain text beyond this machine is meant"
            )
        return None, None
    files = TlsFiles(endpoint.certificate, endpoint.private_key, endpoint.client_authority)
    identity = Watched(f"the certificate of {endpoint.listen}", files.paths, lambda: read_identity(files))
    return identity, server_credentials(identity, require_client=files.authority is not None)


def _options(max_message_bytes: int) -> Options:
    return (
        ("grpc.so_reuseport", 0),  # two servers on one port would each get half of the calls
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.server.max_pending_requests", 20_000),  # at the default, a burst of calls is refused
        ("grpc.server.max_pending_requests_hard_limit", 100_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # clients may ask for life this often
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 1),
    )
