"""An episode is one trace across client, broker, host and worker, as a collector receives it over the wire."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request

import grpc
import pytest

import envmesh
from envmesh.errors import InvalidRequest
from envmesh.spans import Spans
from envmesh.traces import ClientTraces
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import environment_pb2_grpc
from envmesh_cli.local_mesh import LocalHost, LocalMesh
from tests.monitoring.collector import Collector, Span, collector

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("traces")]

IN_WORKERS = "walk=tests.environments.recoverable:ReplayedInWorker"
INLINE = "walk=tests.environments.recoverable:Replayed"
SLACK = 2_000_000
"""Two processes tell the time of one machine; 2 ms is for who was interrupted between two looks at the clock."""


def mesh_with(kept: Collector, target: str, hosts: int = 1, **host: str) -> LocalMesh:
    return LocalMesh(
        [target],
        hosts=hosts,
        host_settings={"ENVMESH_HOST_TRACES": kept.url, **host},
        broker_settings={"ENVMESH_BROKER_TRACES": kept.url},
    )


def host_with(kept: Collector) -> LocalHost:
    """A host alone that traces two episodes at once."""
    settings = {"ENVMESH_HOST_TRACES": kept.url, "ENVMESH_HOST_TRACED_EPISODES": "2"}
    return LocalHost([INLINE], settings=settings)


def of(spans: list[Span], trace_id: str) -> list[Span]:
    return [span for span in spans if span.trace_id == trace_id]


def one(spans: list[Span], name: str, service: str = "") -> Span:
    (found,) = [span for span in spans if span.name == name and service in span.service]
    return found


async def test_an_episode_is_one_trace_of_client_broker_host_and_worker():
    async with (
        collector() as kept,
        mesh_with(kept, IN_WORKERS) as local,
        envmesh.connect(local.address) as mesh,
    ):
        ClientTraces(mesh, kept.url, share=1.0, service="trainer")
        async with mesh.episode("walk", seed=7) as episode:
            for _ in range(3):
                await episode.step(1)
        trace = episode.episode_id.hex()
        wanted = {"trainer", "envmesh-broker", "envmesh-host", "envmesh-worker"}
        spans = of(
            await kept.until(
                lambda spans: (
                    {s.service for s in of(spans, trace)} >= wanted
                    and {"episode", "copy"} <= {s.name for s in of(spans, trace)}
                )
            ),
            trace,
        )
    root = one(spans, "episode")
    assert root.parent_id == ""
    assert root.attributes["envmesh.episode"] == trace  # whoever has one has the other
    assert (root.attributes["envmesh.steps"], root.attributes["envmesh.outcome"]) == (3, "closed")
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    assert all(span.parent_id in by_id for span in spans if span is not root), "a span without its parent"
    assert {span.name for span in spans if span.service == "trainer"} == {
        "episode", "slot", "reset", "step 1", "step 2", "step 3"
    }  # fmt: skip
    place, copy = one(spans, "place"), one(spans, "copy")
    assert (place.service, place.events) == ("envmesh-broker", ("granted",))
    slot = one(spans, "slot")
    # It ends when the broker has heard that its answer came.
    assert slot.begun - SLACK <= place.begun <= slot.ended
    assert copy.service == "envmesh-host"
    assert copy.attributes["envmesh.environment"] == "walk@1"
    assert len(copy.attributes["envmesh.lease"]) == 32
    for command in ("reset", "step 1", "step 2", "step 3"):
        client, host = one(spans, command, "trainer"), one(spans, command, "host")
        worker = one(spans, f"environment {command}")
        assert (host.parent_id, worker.parent_id) == (copy.span_id, host.span_id)
        assert worker.service == "envmesh-worker"
        host_id, process = worker.instance.split("/")
        assert host_id == copy.attributes["envmesh.host"]
        assert int(process) not in (0, os.getpid())
        assert worker.within(host, SLACK)
        assert host.within(client, SLACK)


async def test_rollouts_are_sampled_by_the_episodes_ids_and_their_request_has_a_trace_of_its_own():
    async with (
        collector() as kept,
        mesh_with(kept, INLINE, ENVMESH_HOST_TRACED_EPISODES="100") as local,
        envmesh.connect(local.address) as mesh,
    ):
        ClientTraces(mesh, kept.url, share=0.25)
        played = [
            trajectory
            async for trajectory in mesh.rollouts("walk", lambda observation: 1, episodes=40, concurrency=20)
        ]
        expected = {t.episode_id.hex() for t in played if int.from_bytes(t.episode_id[9:]) < 2**54}
        spans = await kept.until(
            lambda spans: (
                all({s.trace_id for s in spans if s.name == n} >= expected for n in ("copy", "episode"))
                and {"place", "acquire"} <= {s.name for s in spans}
            )
        )
        text = await scraped(next(url for name, url in local.metrics.items() if name != "broker"))
    assert {span.trace_id for span in spans if span.name == "episode"} == expected
    acquire, place = one(spans, "acquire"), one(spans, "place")
    assert place.parent_id == acquire.span_id
    assert acquire.attributes["envmesh.slots"] == 20
    for trace in expected:
        mine = of(spans, trace)
        root = one(mine, "episode")
        assert root.links == (acquire.trace_id,)
        assert (root.attributes["envmesh.outcome"], root.attributes["envmesh.steps"]) == ("terminated", 60)
        steps = [span for span in mine if span.name.startswith("step ") and span.service == "envmesh-host"]
        assert len(steps) == 60
    assert all(len(t.rewards) == 60 for t in played)
    if expected:
        shown = [line for line in text.splitlines() if "# {trace_id=" in line]
        assert any(line.startswith("envmesh_step_duration_seconds_bucket") for line in shown)
        assert {line.split('trace_id="')[1][:32] for line in shown} <= expected


async def scraped(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text;version=1.0.0"})

    def read() -> str:
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(response.read().decode())

    return await asyncio.to_thread(read)


async def test_a_lost_host_and_the_one_that_goes_on_are_in_one_trace():
    async with (
        collector() as kept,
        mesh_with(kept, INLINE, hosts=2) as local,
        envmesh.connect(local.address) as mesh,
    ):
        ClientTraces(mesh, kept.url, share=1.0)
        async with mesh.episode("walk", seed=1) as episode:
            for _ in range(3):
                await episode.step(1)
            address = episode.place[0].connection.address
            host = next(child for child in local.hosts if child.address == address)
            assert host.process_id is not None
            os.kill(host.process_id, signal.SIGKILL)
            await episode.step(1)
        trace = episode.episode_id.hex()
        spans = of(
            await kept.until(
                lambda spans: {"episode", "rebuild", "resume", "copy"} <= {s.name for s in of(spans, trace)}
            ),
            trace,
        )
    rebuild = one(spans, "rebuild")
    assert rebuild.attributes["envmesh.replayed_steps"] == 3
    assert (
        one(spans, "resume").parent_id == one(spans, "copy").span_id
    )  # of the first, nobody is left to tell


async def test_failures_are_marked_and_what_nobody_traces_is_not():
    async with collector() as kept, mesh_with(kept, INLINE) as local, envmesh.connect(local.address) as mesh:
        async with mesh.episode("walk", seed=1) as untraced:
            await untraced.step(1)
        ClientTraces(mesh, kept.url, share=1.0)
        async with mesh.episode("walk", seed=1) as episode:
            with pytest.raises(InvalidRequest):
                await episode.step(99)
        trace = episode.episode_id.hex()
        spans = await kept.until(lambda spans: {"episode", "copy"} <= {s.name for s in of(spans, trace)})
    assert of(spans, untraced.episode_id.hex()) == []
    refused = [span for span in of(spans, trace) if span.name.endswith("step 1")]
    assert refused
    assert all(span.error for span in refused)
    assert one(of(spans, trace), "episode").error == ""


async def test_a_unary_reset_in_a_trace_is_followed_and_no_more_than_so_many_are():
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with (
        collector() as kept,
        host_with(kept) as host,
        grpc.aio.insecure_channel(host.address) as channel,
    ):
        stub = environment_pb2_grpc.EnvironmentServiceStub(channel)
        for number in range(4):
            reset = pb.ResetRequest(episode_id=os.urandom(16), epoch=1 << 32, environment="walk", seed=1)
            value = parent if number else parent[:-2] + "00"  # the first is not sampled
            await stub.Reset(reset, metadata=(("traceparent", value),))
            await stub.Close(pb.CloseRequest(episode_id=reset.episode_id, epoch=1 << 32))
        open_ones = [
            pb.ResetRequest(episode_id=os.urandom(16), epoch=1 << 32, environment="walk", seed=1, traceparent=parent)
            for _ in range(3)
        ]  # fmt: skip
        for reset in open_ones:
            await stub.Reset(reset)
        for reset in open_ones:
            await stub.Close(pb.CloseRequest(episode_id=reset.episode_id, epoch=1 << 32))
        spans = await kept.until(lambda spans: sum(s.name == "copy" for s in spans) >= 5)
    copies = [span for span in spans if span.name == "copy"]
    assert len(copies) == 3 + 2  # two at once
    assert {(span.trace_id, span.parent_id) for span in copies} == {(parent[3:35], parent[36:52])}


async def test_a_collector_that_is_away_holds_nobody_up():
    async with (
        LocalMesh(
            [INLINE],
            host_settings={"ENVMESH_HOST_TRACES": "http://127.0.0.1:9"},
            broker_settings={"ENVMESH_BROKER_TRACES": "http://127.0.0.1:9"},
        ) as local,
        envmesh.connect(local.address) as mesh,
    ):
        ClientTraces(mesh, "http://127.0.0.1:9", share=1.0)
        async with mesh.episode("walk", seed=1) as episode:
            while not episode.done:
                await episode.step(1)
        assert episode.index == 60


def test_a_wrong_collector_or_share_is_refused():
    with pytest.raises(ValueError, match=r"'localhost' is no collector's address; http://host:port"):
        Spans("localhost", "trainer", "1")
