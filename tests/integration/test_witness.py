"""A witness beside each host tells the broker how it ended: real hosts, really killed, stopped and stuck."""

import asyncio
import mmap
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2

import envmesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc, placement_pb2, placement_pb2_grpc
from envmesh_cli.child import Child
from envmesh_cli.local_mesh import LocalMesh
from envmesh_host.settings import HostSettings
from envmesh_host.witness import Witness
from tests.integration.closed_parts import until
from tests.integration.command_line import descendants, eventually, is_alive

pytestmark = pytest.mark.timeout(120)

FATAL = "fatal=tests.environments.fatal:Fatal"
PATIENT = "fatal=tests.environments.fatal:Patient"


def cause(name: str) -> int:
    return placement_pb2.LossCause.Value(f"LOSS_CAUSE_{name}")


def process_of(child: Child) -> int:
    """Its process."""
    assert child.process_id is not None
    return child.process_id


def witnesses(child: Child) -> set[int]:
    """The witness of a host."""
    return {pid for pid in descendants(process_of(child)) if name_of(pid) == "envmesh-witness"}


def private_kib(pid: int) -> int:
    """The memory that a process shares with no other."""
    words = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
    return sum(int(words[words.index(f"Private_{kind}:") + 1]) for kind in ("Clean", "Dirty"))


class Watched:
    """A local mesh, and what its broker says of its hosts."""

    def __init__(self, local: LocalMesh, channel: grpc.aio.Channel):
        self.local = local
        self._placement = placement_pb2_grpc.PlacementServiceStub(channel)
        self._fleet = fleet_pb2_grpc.FleetServiceStub(channel)

    async def host_id(self, child: Child) -> str:
        host_id = await self.found(child.name)
        assert host_id, f"{child.name} has not registered"
        return host_id

    async def found(self, name: str) -> str:
        """The id of the host that has that name, once it has registered."""
        hosts = (await self._fleet.GetFleet(fleet_pb2.GetFleetRequest())).fleet.hosts
        return next((host.identity.host_id for host in hosts if host.identity.name == name), "")

    async def explain(self, host_id: str, seconds: float = 5.0) -> placement_pb2.ExplainLossResponse:
        request = placement_pb2.ExplainLossRequest(
            host_id=host_id, timeout=duration_pb2.Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds))
        )
        return await self._placement.ExplainLoss(request)


def meshed(target: str = FATAL, hosts: int = 1, **settings: str) -> LocalMesh:
    return LocalMesh([target], hosts=hosts, host_settings=settings)


async def act(local: LocalMesh, action: str) -> asyncio.Task[None]:
    """Have an episode do something that it may not survive; the task ends when it is let go."""
    began = asyncio.Event()

    async def episode() -> None:
        async with (
            envmesh.connect(local.address, recovery_timeout=20, liveness_window=2) as mesh,
            mesh.episode("fatal", seed=1) as playing,
        ):
            began.set()
            await playing.step(action)

    task = asyncio.create_task(episode())  # noqa: TID251 - the caller ends it
    await asyncio.wait_for(began.wait(), 20)
    return task


async def let_go(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize(
    ("deed", "expected", "word"),
    [
        ("segfault", "CRASHED", "Segmentation fault"),
        ("abort", "CRASHED", "Aborted"),
        ("exit", "CRASHED", "exit code 3"),
        ("kill -9", "OUTSIDE", "killed from outside"),
    ],
)
async def test_an_end_is_explained(deed, expected, word):
    async with meshed() as local, grpc.aio.insecure_channel(local.address) as channel:
        watched, host = Watched(local, channel), local.hosts[0]
        host_id = await watched.host_id(host)
        explaining = asyncio.ensure_future(watched.explain(host_id))  # noqa: TID251 - awaited below
        task = await act(local, deed)
        answer = await explaining
        if answer.cause == cause("ALIVE"):  # it was heard once more before its end
            answer = await watched.explain(host_id)
        assert (answer.cause, word in answer.message) == (cause(expected), True), answer
        await let_go(task)


async def test_a_kill_from_outside_is_explained_at_once():
    async with meshed() as local, grpc.aio.insecure_channel(local.address) as channel:
        watched, host = Watched(local, channel), local.hosts[0]
        host_id = await watched.host_id(host)
        (witness,) = witnesses(host)
        began = time.monotonic()
        host.crash()
        answer = await watched.explain(host_id)
        took = time.monotonic() - began
        assert answer.cause == cause("OUTSIDE")
        assert took < 1.0, f"clients hold suspects back for 1 s; it took {took:.3f} s"
        assert eventually(lambda: not is_alive(witness), 5.0)


async def test_a_host_that_leaves_in_good_order_is_no_crash():
    async with meshed(hosts=2) as local, grpc.aio.insecure_channel(local.address) as channel:
        watched, host = Watched(local, channel), local.hosts[0]
        host_id = await watched.host_id(host)
        (witness,) = witnesses(host)
        host.end()
        answer = await watched.explain(host_id)
        while answer.cause == cause("ALIVE"):
            answer = await watched.explain(host_id)
        assert (answer.cause, answer.message) == (cause("OUTSIDE"), "it left in good order")
        assert eventually(lambda: not is_alive(witness), 5.0)


@pytest.mark.slow  # wants the machine for itself: beside others the witness is late
async def test_a_host_that_is_stopped_and_goes_on():
    async with meshed() as local, grpc.aio.insecure_channel(local.address) as channel:
        watched, host = Watched(local, channel), local.hosts[0]
        host_id = await watched.host_id(host)
        os.kill(process_of(host), signal.SIGSTOP)
        answer = await watched.explain(host_id)
        if answer.cause == cause("ALIVE"):
            answer = await watched.explain(host_id)
        assert (answer.cause, "stopped" in answer.message) == (cause("OUTSIDE"), True)
        os.kill(process_of(host), signal.SIGCONT)
        async with asyncio.timeout(40):
            while answer.cause != cause("ALIVE"):
                answer = await watched.explain(host_id, 0.1)
        host.crash()
        while answer.cause == cause("ALIVE"):
            answer = await watched.explain(host_id)
        assert "killed from outside" in answer.message


@pytest.mark.slow  # wants the machine for itself: beside others the witness is late
async def test_a_host_whose_loop_is_held_for_a_while():
    async with meshed(PATIENT) as local, grpc.aio.insecure_channel(local.address) as channel:
        watched = Watched(local, channel)
        host_id = await watched.host_id(local.hosts[0])
        task = await act(local, "slow 5")
        answer = await watched.explain(host_id)
        while answer.cause == cause("ALIVE"):
            answer = await watched.explain(host_id)
        assert answer.cause == cause("STUCK")
        async with asyncio.timeout(40):
            while answer.cause != cause("ALIVE"):
                answer = await watched.explain(host_id, 0.1)
        await let_go(task)


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_host_that_not_even_its_watchdog_can_free_is_ended():
    async with meshed() as local, grpc.aio.insecure_channel(local.address) as channel:
        watched, host = Watched(local, channel), local.hosts[0]
        host_id, process = await watched.host_id(host), process_of(host)
        task = await act(local, "hold")
        assert await asyncio.to_thread(eventually, lambda: not is_alive(process), 90.0)
        answer = await watched.explain(host_id)
        async with asyncio.timeout(30):  # until then the broker has what the witness said before
            while "no other thread" not in answer.message:
                answer = await watched.explain(host_id, 0.2)
        assert answer.cause == cause("STUCK")
        await let_go(task)


async def test_a_witness_is_small_and_never_outlives_its_host_for_long():
    async with meshed() as local:
        host = local.hosts[0]
        (witness,) = witnesses(host)
        assert private_kib(witness) < 24 * 1024
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(witness, number)
        local.broker.crash()
        host.crash()
        assert eventually(lambda: not is_alive(witness), 15.0)


async def test_none_where_none_is_wanted():
    async with meshed(ENVMESH_HOST_WITNESS="false") as local:
        assert witnesses(local.hosts[0]) == set()


# ---- in a container


@asynccontextmanager
async def contained(local: LocalMesh) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, int]]:
    """One more host of the mesh, as the first process of a PID namespace: what began it, the first process inside, and
    the host below that."""
    pattern = local.hosts[0]
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        sys.executable,
        "-m",
        "envmesh_cli",
    ]
    outer = await asyncio.create_subprocess_exec(
        *command,
        *pattern.command,
        env={**os.environ, **pattern.environ, "ENVMESH_HOST_NAME": "contained"},
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        inner = await until(
            lambda: [pid for pid in descendants(outer.pid) if name_of(pid) == "envmesh-witness"]
        )
        (host,) = await until(lambda: [pid for pid in descendants(inner[0]) if parent_of(pid) == inner[0]])
        yield outer, inner[0], host
    finally:
        if outer.returncode is None:
            outer.kill()
            await outer.wait()


def name_of(pid: int) -> str:
    """What the process calls itself."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def parent_of(pid: int) -> int:
    """The process that began it, or took it over."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="did not run: PID namespaces need root and unshare",
)
@pytest.mark.parametrize(
    ("number", "expected", "word", "status"),
    [
        (signal.SIGKILL, "OUTSIDE", "killed from outside", 128 + signal.SIGKILL),
        (signal.SIGSEGV, "CRASHED", "Segmentation fault", 128 + signal.SIGSEGV),
        (signal.SIGTERM, "OUTSIDE", "it left in good order", 0),
    ],
)
async def test_the_end_of_a_container_is_explained_too(number, expected, word, status):
    async with meshed() as local, grpc.aio.insecure_channel(local.address) as channel:
        watched = Watched(local, channel)
        async with contained(local) as (outer, first, host):
            host_id = await until(lambda: watched.found("contained"))
            os.kill(first if number == signal.SIGTERM else host, number)
            answer = await watched.explain(host_id)
            while answer.cause == cause("ALIVE"):
                answer = await watched.explain(host_id)
            assert (answer.cause, word in answer.message) == (cause(expected), True), answer
            assert await asyncio.wait_for(outer.wait(), 20) == status


def test_a_host_whose_parent_hears_of_its_end_while_the_witness_asks():
    """Neither a zombie any more, nor reaped yet when it was asked first."""
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as child:
        process = os.pidfd_open(child.pid)
        select.select([process], [], [], 20)

        class Asking(Witness):
            def _stat(self):
                child.wait()
                return []

        reading, writing = os.pipe()
        asking = Asking(HostSettings(), child.pid, process, reading, mmap.mmap(-1, mmap.PAGESIZE))
        status = asking._status()
        for file in (process, reading, writing):
            os.close(file)
    if status is None and tuple(map(int, platform.release().split(".")[:2])) < (6, 15):
        pytest.skip("this kernel tells nobody but its parent how a process ended: Linux 6.15 does")
    assert status == 3
