"""How many leases a broker gives out a second, and how long a trainer waits for them: ``python -m benchmarks.broker``.

Three processes: the broker, as it is run in production; the hosts, simulated as far as the broker can tell (each has
its own connection, the real registration, a lease table and a report every second, and every lease's signature is
checked); and the trainers, in this one. A trainer asks for 100 slots, shows its leases to their hosts, and the hosts
end them after a while. Two runs: one at a fixed rate, in which a wait counts from the moment the request was due, and
one in which each trainer asks again as soon as it was served.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import socket
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from envmesh import event_loop
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc, placement_pb2, placement_pb2_grpc
from envmesh_broker.broker import run
from envmesh_broker.settings import BrokerSettings
from envmesh_host.registration import Registration
from envmesh_service.leases import LeaseVerifier
from envmesh_service.rpc import BROKER_CHANNEL_OPTIONS
from envmesh_service.settings import load

RESULTS = Path(__file__).parent / "results" / "broker.json"
REQUEST = 100
SLOTS = 128
SHOWN = struct.Struct("<I16sI")


@dataclass
class SimulatedHost:
    """One host: its lease table, and what the registration asks of it."""

    number: int
    table: dict[bytes, int] = field(default_factory=dict)
    ended: list[bytes] = field(default_factory=list)
    up: Callable[[bool], None] = lambda up: None

    def identity(self) -> fleet_pb2.HostIdentity:
        identity = fleet_pb2.HostIdentity(
            host_id=f"host-{self.number:05d}",
            pool="bench",
            address=f"10.0.0.1:{10_000 + self.number}",
            slots=SLOTS,
        )
        identity.environments.add(name="echo", version="1")
        return identity

    def report(self) -> fleet_pb2.HostReport:
        report = fleet_pb2.HostReport(state=fleet_pb2.HOST_STATE_READY, event_loop_lag=0.001)
        for lease_id, count in self.table.items():
            report.leases.add(
                lease_id=lease_id, tenant="default", environment="echo@1", in_use=count, client_id=lease_id
            )
        for lease_id in self.ended:
            report.leases.add(lease_id=lease_id)
        self.ended.clear()
        return report

    def lease_keys(self, public_keys): ...

    def recalls(self, keep): ...

    def drain(self, wanted): ...

    def revoked(self, tenants, credentials): ...

    def watches(self, watches): ...

    def pass_required(self, required): ...

    def connected(self, up):
        self.up(up)


def broker_process(address_out: socket.socket, core: int) -> None:
    pin(core)
    settings = load(BrokerSettings, {}, {"listen": "127.0.0.1:0", "log_level": "warning"})
    event_loop.run(run(settings, started=lambda started: address_out.sendall(started.address.encode())))


def hosts_process(
    control: socket.socket, address: str, count: int, held: int, hold: float, eager: bool, core: int
) -> None:
    pin(core)
    event_loop.run(simulate_hosts(control, address, count, held, hold, eager))


async def simulate_hosts(
    control: socket.socket, address: str, count: int, held: int, hold: float, eager: bool
) -> None:
    """Register the hosts, each with ``held`` slots in use throughout, and say so with one byte.

    Then take leases as they are shown, until the trainers hang up.
    """
    loop = asyncio.get_running_loop()
    hosts = [
        SimulatedHost(number, {number.to_bytes(16, "big"): held} if held else {}) for number in range(count)
    ]
    registrations: list[Registration] = []
    waiting, all_up = set(range(count)), asyncio.Event()

    def up(number: int) -> Callable[[bool], None]:
        def note(is_up: bool) -> None:
            waiting.discard(number)
            if not waiting:
                all_up.set()

        return note

    async with asyncio.TaskGroup() as tasks:
        running = []
        for host in hosts:
            host.up = up(host.number)
            channel = grpc.aio.insecure_channel(
                address, [*BROKER_CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            )
            registrations.append(
                Registration(lambda channel=channel: channel, host.identity(), host.report, host)
            )
            running.append(tasks.create_task(registrations[-1].run(), name=f"host-{host.number}"))
            await asyncio.sleep(1.0 / count)
        await all_up.wait()
        reader, writer = await asyncio.open_connection(sock=control)
        writer.write(b"!")

        def end(host: SimulatedHost, lease_id: bytes) -> None:
            del host.table[lease_id]
            host.ended.append(lease_id)
            if eager:
                registrations[host.number].changed()

        try:
            while True:
                number, lease_id, slots = SHOWN.unpack(await reader.readexactly(SHOWN.size))
                host = hosts[number]
                if sum(host.table.values()) + slots > SLOTS:
                    raise AssertionError(f"host {number} was overfilled")
                host.table[lease_id] = slots
                if eager:
                    registrations[number].changed()
                loop.call_later(hold, end, host, lease_id)
        except asyncio.IncompleteReadError:
            pass
        for task in running:
            task.cancel()


class Trainers:
    """Ask for slots, and show what they get."""

    def __init__(self, channel: grpc.aio.Channel, shown: asyncio.StreamWriter, verifier: LeaseVerifier):
        self._stub = placement_pb2_grpc.PlacementServiceStub(channel)
        self._shown = shown
        self._verifier = verifier
        self.waits: list[float] = []
        self.slots = 0
        self.leases = 0
        self.queued = 0

    async def ask(self, client_id: bytes, due: float) -> None:
        request = placement_pb2.AcquireRequest(environment="echo", count=REQUEST, client_id=client_id)
        leases: list[placement_pb2.Lease] = []
        async for response in self._stub.Acquire(request):
            leases.extend(response.grant.leases)
            self.queued += response.HasField("queued")
        self.waits.append(time.perf_counter() - due)
        for lease in leases:
            if self.leases % 100 == 0:
                self._verifier.verify(lease.token, host_id=lease.host_id, now=time.time())
            self.leases += 1
            self.slots += lease.count
            self._shown.write(SHOWN.pack(int(lease.host_id[5:]), lease.lease_id, lease.count))

    async def at_rate(self, rate: float, seconds: float) -> None:
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(int(rate * seconds)):
                due = begin + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                client_id = (number % 32).to_bytes(16, "big")
                tasks.create_task(self.ask(client_id, due), name=f"request-{number}")

    async def at_will(self, clients: int, seconds: float) -> None:
        until = time.perf_counter() + seconds

        async def trainer(number: int) -> None:
            while time.perf_counter() < until:
                await self.ask(number.to_bytes(16, "big"), time.perf_counter())

        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(trainer(number), name=f"trainer-{number}")


async def measure(arguments, address: str, shown: socket.socket) -> dict:
    reader, writer = await asyncio.open_connection(sock=shown)
    await reader.readexactly(1)
    async with grpc.aio.insecure_channel(address) as channel:
        fleet_stub: Any = fleet_pb2_grpc.FleetServiceStub(channel)
        registration = fleet_stub.Register()
        await registration.write(fleet_pb2.RegisterRequest(identity=SimulatedHost(99_999).identity()))
        verifier = LeaseVerifier((await registration.read()).lease_keys)
        registration.cancel()
        began = time.perf_counter()
        fleet = (await fleet_stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet
        ready = sum(host.state == fleet_pb2.HOST_STATE_READY for host in fleet.hosts)
        result: dict[str, Any] = {"hosts": ready, "get_fleet_seconds": time.perf_counter() - began}
        for name, load_ in (
            ("warm-up", lambda t: t.at_rate(arguments.rate, 3.0)),
            ("at_rate", lambda t: t.at_rate(arguments.rate, arguments.seconds)),
            ("at_will", lambda t: t.at_will(arguments.clients, arguments.seconds)),
        ):
            trainers = Trainers(channel, writer, verifier)
            began = time.perf_counter()
            await load_(trainers)
            elapsed = time.perf_counter() - began
            waits = sorted(trainers.waits)
            result[name] = {
                "slots_per_second": round(trainers.slots / elapsed),
                "leases_per_second": round(trainers.leases / elapsed),
                "requests": len(waits),
                "wait_seconds": {
                    "p50": statistics.median(waits),
                    "p90": waits[int(len(waits) * 0.9)],
                    "p99": waits[int(len(waits) * 0.99)],
                    "max": waits[-1],
                },
                "requests_that_queued": trainers.queued,
            }
            await asyncio.sleep(2 * arguments.hold + 1.5)
        del result["warm-up"]
    writer.close()
    return result


def pin(core: int) -> None:
    if core >= 0:
        os.sched_setaffinity(0, {core})


def benchmark(arguments) -> dict:
    context = multiprocessing.get_context("spawn")
    here, there = socket.socketpair()
    cores = sorted(os.sched_getaffinity(0))
    own, other = (cores[0], cores[1]) if len(cores) > 1 else (-1, -1)
    broker = context.Process(target=broker_process, args=(there, own), daemon=True)
    broker.start()
    address = here.recv(100).decode()
    shown, taken = socket.socketpair()
    hosts = context.Process(
        target=hosts_process,
        args=(taken, address, arguments.hosts, arguments.held, arguments.hold, arguments.eager, other),
        daemon=True,
    )
    hosts.start()
    taken.close()
    pin(other)
    try:
        result = event_loop.run(measure(arguments, address, shown))
        hosts.join(10)
        cpu = Path(f"/proc/{broker.pid}/stat").read_text().rpartition(")")[2].split()
        said = Path(f"/proc/{broker.pid}/status").read_text()
        result["broker_resident_bytes"] = int(said.partition("VmHWM:")[2].split()[0]) << 10
        result["broker_cpu_seconds"] = (int(cpu[11]) + int(cpu[12])) / os.sysconf("SC_CLK_TCK")
        return result
    finally:
        broker.terminate()
        broker.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--held", type=int, default=0, help="slots of each host that are in use throughout")
    parser.add_argument("--rate", type=float, default=120.0, help="requests a second in the first run")
    parser.add_argument("--clients", type=int, default=8, help="trainers in the second run")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--hold", type=float, default=0.5, help="seconds for which a host keeps a lease")
    parser.add_argument("--eager", action="store_true", help="hosts report at every change too")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result = benchmark(arguments)
    result = {
        "what": f"{arguments.hosts} simulated hosts of {SLOTS} slots, requests of {REQUEST} slots",
        "reports": "every second" + (" and at every change" if arguments.eager else ""),
        "python": platform.python_version(),
        "grpc": grpc.__version__,
        "cpus": os.cpu_count(),
        **result,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name in ("at_rate", "at_will"):
        run_ = result[name]
        wait = run_["wait_seconds"]
        print(
            f"{name}: {run_['slots_per_second']:,} slots/s in {run_['leases_per_second']:,} leases/s, wait p50 "
            f"{wait['p50'] * 1e3:.1f} ms, p99 {wait['p99'] * 1e3:.1f} ms, max {wait['max'] * 1e3:.0f} ms"
            f" ({run_['requests_that_queued']} statuses of waiting)"
        )
    print(
        f"GetFleet of {result['hosts']} hosts: {result['get_fleet_seconds'] * 1e3:.0f} ms; the broker had at most "
        f"{result['broker_resident_bytes'] / 2**20:.0f} MiB resident; {arguments.output}"
    )


if __name__ == "__main__":
    main()
