"""A host's session with a broker that is in no hurry: a goodbye waits for no interval, and what was heard is known."""

import asyncio
from typing import Any

import grpc

from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_host.registration import Registration
from tests.integration.broker_parts import SimulatedHost

PAUSE = 30
"""Seconds that the broker wants between two reports."""


class UnhurriedBroker(fleet_pb2_grpc.FleetServiceServicer):
    """As the broker of very many hosts."""

    def __init__(self) -> None:
        self.reports: list[fleet_pb2.HostReport] = []

    async def Register(self, requests: Any, context: Any) -> None:  # type: ignore[override]
        greeting = fleet_pb2.RegisterResponse()
        greeting.report_interval.FromSeconds(PAUSE)
        greeting.report_gap.FromSeconds(PAUSE)
        await context.read()
        await context.write(greeting)
        while (request := await context.read()) is not grpc.aio.EOF:
            self.reports.append(request.report)
            await context.write(fleet_pb2.RegisterResponse(acknowledged=request.report.sequence))


async def test_a_goodbye_is_said_at_once_however_seldom_reports_are_wanted():
    broker, server, acknowledged = UnhurriedBroker(), grpc.aio.server(), asyncio.Queue[int]()  # type: ignore[abstract]
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(broker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    host = SimulatedHost("h0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.TaskGroup() as group:
        registration = Registration(
            lambda: channel, host.identity, host.report, host,
            heard=lambda report: acknowledged.put_nowait(report.sequence),
        )  # fmt: skip
        group.create_task(registration.run(), name="registration")
        async with asyncio.timeout(PAUSE / 3):
            assert await acknowledged.get() == 1
            assert not registration.over.is_set()
            registration.leave()
            await registration.over.wait()
    assert [report.sequence for report in broker.reports] == [1, 2]
    assert acknowledged.get_nowait() == 2
    await server.stop(0)
