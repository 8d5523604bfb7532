"""KEDA's external scaler: the plan's answer, for KEDA to write.

Only the leader plans; it writes its answers into its Lease, and the other replicas repeat them, or fail when they are
older than 10 s, so that KEDA keeps what there is. The metric is the number of hosts itself, with a target of one each.

Source: the messages are those of KEDA's ``externalscaler.proto``, written here as descriptors.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from envmesh.errors import Refusal
from envmesh_autoscaler.autoscaler import Autoscaler
from envmesh_autoscaler.backends.leader import Leadership
from envmesh_service.clock import Clock

__all__ = ["MESSAGES", "SERVICE", "KedaScaler", "add_to_server"]

SERVICE = "externalscaler.ExternalScaler"
METRIC = "envmesh_hosts"
OLDEST_ANSWER = 10.0
REPEAT_SECONDS = 5.0

_STRING, _INT64, _BOOL, _DOUBLE = (
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
)
_FIELDS: dict[str, tuple[tuple[str, int, int | str, bool], ...]] = {
    "ScaledObjectRef.ScalerMetadataEntry": (("key", 1, _STRING, False), ("value", 2, _STRING, False)),
    "ScaledObjectRef": (
        ("name", 1, _STRING, False),
        ("namespace", 2, _STRING, False),
        ("scalerMetadata", 3, "ScaledObjectRef.ScalerMetadataEntry", True),
    ),
    "IsActiveResponse": (("result", 1, _BOOL, False),),
    "MetricSpec": (
        ("metricName", 1, _STRING, False),
        ("targetSize", 2, _INT64, False),
        ("targetSizeFloat", 3, _DOUBLE, False),
    ),
    "GetMetricSpecResponse": (("metricSpecs", 1, "MetricSpec", True),),
    "GetMetricsRequest": (
        ("scaledObjectRef", 1, "ScaledObjectRef", False),
        ("metricName", 2, _STRING, False),
    ),
    "MetricValue": (
        ("metricName", 1, _STRING, False),
        ("metricValue", 2, _INT64, False),
        ("metricValueFloat", 3, _DOUBLE, False),
    ),
    "GetMetricsResponse": (("metricValues", 1, "MetricValue", True),),
}
"""By message: name, number, type (or message), whether there are several."""

_CALLS = (
    ("IsActive", "ScaledObjectRef", "IsActiveResponse", False),
    ("StreamIsActive", "ScaledObjectRef", "IsActiveResponse", True),
    ("GetMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse", False),
    ("GetMetrics", "GetMetricsRequest", "GetMetricsResponse", False),
)


def _described() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="externalscaler.proto", package="externalscaler", syntax="proto3"
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name in sorted(_FIELDS):  # a message stands before those inside it
        outer, _, inner = name.partition(".")
        message = made[outer].nested_type.add(name=inner) if inner else file.message_type.add(name=outer)
        message.options.map_entry = bool(inner)
        made[name] = message
        for field, number, kind, several in _FIELDS[name]:
            label = descriptor_pb2.FieldDescriptorProto
            added = message.field.add(
                name=field, number=number, label=label.LABEL_REPEATED if several else label.LABEL_OPTIONAL
            )
            if isinstance(kind, str):
                added.type, added.type_name = label.TYPE_MESSAGE, f".externalscaler.{kind}"
            else:
                added.type = kind  # type: ignore[assignment]
    service = file.service.add(name="ExternalScaler")
    for name, request, response, streams in _CALLS:
        service.method.add(
            name=name,
            input_type=f".externalscaler.{request}",
            output_type=f".externalscaler.{response}",
            server_streaming=streams,
        )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"externalscaler.{name}"))
        for name in _FIELDS
        if "." not in name
    }


MESSAGES: dict[str, Any] = _described()
"""The message classes, by name."""


class KedaScaler:
    """Answers KEDA for every pool in its mode."""

    def __init__(
        self, autoscaler: Autoscaler, leadership: Leadership, leading: Callable[[], bool], clock: Clock
    ) -> None:
        self._autoscaler, self._leadership, self._leading, self._clock = (
            autoscaler,
            leadership,
            leading,
            clock,
        )

    def said(self) -> str:
        """What the leader writes into its Lease."""
        scaler = self._autoscaler
        if self._clock() - scaler.answered_at > OLDEST_ANSWER / 4:
            return "{}"
        return json.dumps(scaler.answers, sort_keys=True)

    def answer(self, pool: str) -> int:
        """How many hosts a pool shall have.

        Raises:
            Refusal: UNAVAILABLE UNREACHABLE: nobody has said within 10 s; NOT_FOUND: there is no such pool.
        """
        now = self._clock()
        if self._leading():
            answers, at = self._autoscaler.answers, self._autoscaler.answered_at
        else:
            text, at = self._leadership.heard
            answers = json.loads(text) if text else {}
        if now - at > OLDEST_ANSWER:
            raise Refusal(f"no plan of the last {OLDEST_ANSWER:g} s is known here", reason="UNREACHABLE")
        if pool not in answers:
            known = ", ".join(sorted(answers)) or "none yet"
            raise Refusal(f"there is no plan for pool {pool!r}; there are {known}", reason="UNREACHABLE")
        return int(answers[pool])

    async def IsActive(self, request: Any, context: Any) -> Any:
        """Whether the pool shall have any host."""
        return MESSAGES["IsActiveResponse"](result=self.answer(_pool(request)) > 0)

    async def StreamIsActive(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The same, at once when it changes, and again every few seconds."""
        pool, told, told_at = _pool(request), None, float("-inf")
        while True:
            try:
                active: bool | None = self.answer(pool) > 0
            except Refusal:
                active = None
            now = self._clock()
            if active is not None and (active != told or now - told_at >= REPEAT_SECONDS):
                told, told_at = active, now
                yield MESSAGES["IsActiveResponse"](result=active)
            answered = self._autoscaler.answered
            try:
                async with asyncio.timeout(1.0):
                    await answered.wait()
            except TimeoutError:
                pass

    async def GetMetricSpec(self, request: Any, context: Any) -> Any:
        """The metric is the number of hosts: one of it is one host."""
        _pool(request)
        spec = MESSAGES["MetricSpec"](metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
        return MESSAGES["GetMetricSpecResponse"](metricSpecs=[spec])

    async def GetMetrics(self, request: Any, context: Any) -> Any:
        """How many hosts there shall be: never fewer than are not sealed."""
        wanted = self.answer(_pool(request.scaledObjectRef))
        value = MESSAGES["MetricValue"](
            metricName=request.metricName or METRIC, metricValue=wanted, metricValueFloat=float(wanted)
        )
        return MESSAGES["GetMetricsResponse"](metricValues=[value])


def add_to_server(servicer: KedaScaler, server: grpc.aio.Server) -> None:
    """Add it to a server, as generated code would."""
    handlers = {}
    for name, request, response, streams in _CALLS:
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        handlers[name] = make(
            getattr(servicer, name),
            request_deserializer=MESSAGES[request].FromString,
            response_serializer=MESSAGES[response].SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _pool(reference: Any) -> str:
    """The pool that a ScaledObject names in its trigger's metadata."""
    pool = reference.scalerMetadata.get("pool", "")
    if not pool:
        raise Refusal("the trigger's metadata must name the 'pool'", reason="ARGUMENT_INVALID")
    return str(pool)
