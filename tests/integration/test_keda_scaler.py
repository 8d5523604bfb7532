"""KEDA's calls over a real port: what the leader answers, what others repeat, and when nobody says anything."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from envmesh_autoscaler.keda import MESSAGES, SERVICE, KedaScaler, add_to_server
from envmesh_service.rpc import Endpoint, make_server


class Answers:
    """The plan's answers, a Lease's words and a clock, as a test sets them."""

    def __init__(self):
        self.now, self.leading = 100.0, True
        self.channel: Any = None
        self.autoscaler: Any = SimpleNamespace(answers={"games": 3}, answered_at=99.0, answered=None)
        self.leadership: Any = SimpleNamespace(heard=("", float("-inf")))
        self.scaler = KedaScaler(
            cast(Any, self.autoscaler), cast(Any, self.leadership), lambda: self.leading, lambda: self.now
        )


@pytest.fixture
async def answers():
    made = Answers()
    made.autoscaler.answered = asyncio.Event()
    server = make_server(Endpoint(listen="127.0.0.1:0"))
    server.add(add_to_server, made.scaler, SERVICE)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        made.channel = channel
        yield made
    await server.stop(0)


def call(answers, name, request, response, pool="games", **fields):
    reference = MESSAGES["ScaledObjectRef"](
        name="games", namespace="rl", scalerMetadata={"pool": pool} if pool else {}
    )
    message = (
        reference if request == "ScaledObjectRef" else MESSAGES[request](scaledObjectRef=reference, **fields)
    )
    kind = answers.channel.unary_stream if name.startswith("Stream") else answers.channel.unary_unary
    method = kind(
        f"/{SERVICE}/{name}",
        request_serializer=MESSAGES[request].SerializeToString,
        response_deserializer=MESSAGES[response].FromString,
    )
    return method(message, timeout=10)


async def metric(answers, pool="games"):
    got = await call(
        answers, "GetMetrics", "GetMetricsRequest", "GetMetricsResponse", pool, metricName="s0-hosts"
    )
    return [(value.metricName, value.metricValue, value.metricValueFloat) for value in got.metricValues]


async def test_the_leader_answers_with_the_hosts_it_wants(answers):
    assert await metric(answers) == [("s0-hosts", 3, 3.0)]
    spec = await call(answers, "GetMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse")
    assert [(s.metricName, s.targetSize) for s in spec.metricSpecs] == [("envmesh_hosts", 1)]
    assert (await call(answers, "IsActive", "ScaledObjectRef", "IsActiveResponse")).result
    answers.autoscaler.answers["games"] = 0
    assert not (await call(answers, "IsActive", "ScaledObjectRef", "IsActiveResponse")).result


async def test_activity_is_told_when_it_changes(answers):
    stream = call(answers, "StreamIsActive", "ScaledObjectRef", "IsActiveResponse")
    assert (await stream.read()).result
    answers.autoscaler.answers["games"] = 0
    told, answers.autoscaler.answered = answers.autoscaler.answered, asyncio.Event()
    told.set()
    assert not (await stream.read()).result
    stream.cancel()


async def test_a_replica_repeats_what_the_leader_wrote_into_its_lease(answers):
    answers.leading = False
    answers.leadership.heard = (json.dumps({"games": 7}), 95.0)
    assert await metric(answers) == [("s0-hosts", 7, 7.0)]
    answers.now = 105.5  # ten seconds and a half later
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await metric(answers)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "no plan of the last 10 s" in str(failed.value.details())


async def test_an_unknown_pool_and_none_at_all_are_told(answers):
    with pytest.raises(grpc.aio.AioRpcError, match="there are games"):
        await metric(answers, "chess")
    with pytest.raises(grpc.aio.AioRpcError, match="must name the 'pool'"):
        await metric(answers, "")


async def test_the_leader_writes_only_fresh_answers_into_its_lease(answers):
    assert json.loads(answers.scaler.said()) == {"games": 3}
    answers.now = 103.0
    assert answers.scaler.said() == "{}"
