"""A mesh on this machine: a broker and its hosts as real processes, which end with it.

``async with LocalMesh(["cartpole=gymnasium:CartPole-v1"], hosts=2) as mesh: envmesh.connect(mesh.address)``. The keys
that broker and hosts share are made anew and kept in files that only this user can read, for as long as it runs.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from envmesh.access import Access
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_autoscaler.demand import PoolPolicy
from envmesh_cli.child import Child, ChildFailed, Line
from envmesh_cli.declaring import declared_environments
from envmesh_cli.failures import USAGE, CommandFailed
from envmesh_cli.local_autoscaler import LocalAutoscaler, write_pools
from envmesh_cli.pools import PoolPlan, plan_pools
from envmesh_service.error_groups import leaf
from envmesh_service.leases import write_lease_key, write_seal_key
from envmesh_service.rpc import Endpoint

__all__ = ["LocalHost", "LocalMesh"]

START_SECONDS = 180.0
REGISTER_SECONDS = 30.0
ASK_SECONDS = 5.0
DRAIN_SECONDS = 40.0
END_SECONDS = 3.0


class _Processes:
    """Children in one task group: all run, or none."""

    def __init__(self, tell: Callable[[Line], None] | None):
        self.tell = tell or (lambda line: None)
        self.children: list[Child] = []
        self._tasks = asyncio.TaskGroup()
        self._supervising: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._start()
        except BaseException as error:
            await self._leave(type(error), error)
            if isinstance(error, TimeoutError):
                late = ", ".join(child.name for child in self.children if not child.ready.is_set())
                raise ChildFailed(f"not ready within {START_SECONDS:g} s: {late}") from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.drain(END_SECONDS)
        await self._leave(kind, error)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """First stage of the end: every process takes nothing new and waits for its episodes, at most ``seconds``."""
        await self._end(self.children, seconds)

    def abandon(self) -> None:
        """End every child and remove what is kept, and wait for nothing: the last thing before this process ends."""
        for child in self.children:
            child.kill()
        self._cleanup()

    async def _start(self) -> None:
        raise NotImplementedError

    async def _leave(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        """End every child, wait for it, and raise what went wrong with one, if anything did."""
        for child in self.children:
            child.kill()
        try:
            await self._tasks.__aexit__(kind, error, error.__traceback__ if error is not None else None)
        except BaseExceptionGroup as group:
            failed = leaf(group)
            if isinstance(failed, ChildFailed) and (
                error is None or isinstance(error, asyncio.CancelledError)
            ):
                raise failed from None
            if failed is not error:
                raise
        finally:
            self._cleanup()

    def _cleanup(self) -> None:
        pass

    def _begin(self, child: Child) -> None:
        self.children.append(child)
        self._keep(child.supervise(), f"child-{child.name}")

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task, and keep it until it has ended."""
        task = self._tasks.create_task(work, name=name)
        self._supervising.add(task)
        task.add_done_callback(self._supervising.discard)

    async def _end(self, children: Sequence[Child], seconds: float) -> None:
        """Ask children to end, and wait until they have; after ``seconds`` they are ended."""
        for child in children:
            child.end()
        named = {f"child-{child.name}" for child in children}
        tasks = [task for task in self._supervising if task.get_name() in named]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for child in children:
            child.kill()


class LocalHost(_Processes):
    """One host alone, as a child process, for the duration of an ``async with``."""

    def __init__(
        self,
        targets: Sequence[str],
        *,
        flags: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        tell: Callable[[Line], None] | None = None,
    ):
        super().__init__(tell)
        self._command = ("serve", *targets, *flags)
        self._settings = {"ENVMESH_HOST_LISTEN": "127.0.0.1:0", **(settings or {})}

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.children[0].address

    @property
    def metrics(self) -> dict[str, str]:
        """Where its metrics are."""
        return {child.name: child.metrics for child in self.children}

    async def _start(self) -> None:
        child = Child("host", self._command, self._settings, self.tell)
        self._begin(child)
        await child.ready.wait()
        child.environ["ENVMESH_HOST_LISTEN"] = child.address  # the same port when it starts again


class LocalMesh(_Processes):
    """A broker, and pools of hosts. ``pools`` are plans, or targets that each become a pool with ``hosts`` hosts.

    With ``keys``, a directory that `envmesh keys` made, every port is TLS, trainers need a token, and the mesh may
    listen beyond this machine; ``access`` is what ``connect`` takes then. ``tell`` hears every line that a process
    says. ``host_settings`` and ``broker_settings`` are variables by name. With ``autoscale`` a pool has as many hosts
    as that policy and demand say, at first those of its minimum.
    """

    def __init__(
        self,
        pools: Sequence[PoolPlan | str],
        *,
        hosts: int = 1,
        listen: str = "127.0.0.1:0",
        host_settings: Mapping[str, str] | None = None,
        broker_settings: Mapping[str, str] | None = None,
        tell: Callable[[Line], None] | None = None,
        verbose: bool = False,
        keys: Path | None = None,
        autoscale: PoolPolicy | None = None,
    ):
        super().__init__(tell)
        self.policy = autoscale
        """How pools are scaled; None: their hosts are as many as was said."""
        self.autoscaler: LocalAutoscaler | None = None
        texts = [pool for pool in pools if isinstance(pool, str)]
        self.pools = [pool for pool in pools if isinstance(pool, PoolPlan)]
        if texts:
            self.pools += plan_pools(texts, hosts=hosts)
        self._keys = keys
        self._listen = checked_listen(listen, closed=keys is not None)
        self._host_settings = dict(host_settings or {})
        self._broker_settings = dict(broker_settings or {})
        self._directory = tempfile.TemporaryDirectory(prefix="envmesh-")
        self._verbose = ("--verbose",) if verbose else ()
        self.broker: Child
        self._scaling: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where trainers connect: the broker's address."""
        return self.broker.address

    @property
    def hosts(self) -> list[Child]:
        """The hosts, by pool."""
        return [child for child in self.children if child is not self.broker]

    @property
    def metrics(self) -> dict[str, str]:
        """Where the metrics of each process are."""
        found = {child.name: child.metrics for child in self.children}
        return found if self.autoscaler is None else {**found, "autoscaler": self.autoscaler.metrics}

    @property
    def page(self) -> str:
        """Where the live page is; empty where there is none."""
        if not self.broker.page_port:
            return ""
        where = self.broker.environ["ENVMESH_BROKER_PAGE_LISTEN"].rpartition(":")[0]
        return f"http://{where or '127.0.0.1'}:{self.broker.page_port}/"

    @property
    def access(self) -> dict[str, Any]:
        """How ``connect`` gets in, with the token that `envmesh keys` made."""
        if self._keys is None:
            return {"plaintext": True}
        token = self._keys / "trainer-token"
        return {"ca": token / "ca.crt", "token_file": token / "token"}

    def _secured(self, service: str) -> dict[str, str]:
        """The variables of a process that is closed to strangers."""
        if self._keys is None:
            return {}
        directory = self._keys / f"{service.lower()}-tls"
        variables: dict[str, object] = {
            "TLS_CERTIFICATE": directory / "tls.crt",
            "TLS_PRIVATE_KEY": directory / "tls.key",
            "TLS_AUTHORITY": directory / "ca.crt",
            "METRICS_PLAINTEXT": "true",  # on loopback
        }
        if service == "BROKER":
            variables["CREDENTIALS_FILE"] = self._keys / "credentials" / "credentials.json"
            variables["FLEET_LISTEN"] = "127.0.0.1:0"
        return {f"ENVMESH_{service}_{name}": str(value) for name, value in variables.items()}

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """First stage of the end: hosts take nothing new and wait for their episodes; then the broker goes."""
        if self._scaling is not None:
            self._scaling.cancel()
            await asyncio.wait([self._scaling])
        await self._end(self.hosts, seconds)
        await self._end([self.broker], END_SECONDS)

    async def _start(self) -> None:
        directory = Path(self._directory.name)
        lease_key, seal_key = directory / "lease-key.pem", directory / "seal-key"
        if self._keys is not None:
            lease_key = self._keys / "lease-keys" / "lease-keys.pem"
            seal_key = self._keys / "seal-keys" / "seal-keys"
        else:
            write_lease_key(lease_key)
            write_seal_key(seal_key)
        settings = {
            "ENVMESH_BROKER_LISTEN": self._listen,
            "ENVMESH_BROKER_LEASE_KEYS_FILE": str(lease_key),
            "ENVMESH_BROKER_LOG_FORM": "json",
            "ENVMESH_BROKER_PAGE_LISTEN": "127.0.0.1:0",
            "ENVMESH_BROKER_PAGE_VALUES": "true" if self._keys is None else "false",
            **self._secured("BROKER"),
            **self._broker_settings,
        }
        environments: dict[str, tuple[str, ...]] = {}
        if self.policy is not None:
            for pool in self.pools:
                environments[pool.name] = await declared_environments(pool.targets, pool.flags)
            write_pools(directory / "pools.json", environments, self.policy)
            settings["ENVMESH_BROKER_POOLS_FILE"] = str(directory / "pools.json")
        self.broker = Child("broker", ["broker"], settings, self.tell)
        self._begin(self.broker)
        await self.broker.ready.wait()
        self.broker.environ["ENVMESH_BROKER_LISTEN"] = (
            self.broker.address
        )  # the same port when it starts again
        if self.broker.page_port:
            where = self.broker.environ["ENVMESH_BROKER_PAGE_LISTEN"].rpartition(":")[0]
            self.broker.environ["ENVMESH_BROKER_PAGE_LISTEN"] = f"{where}:{self.broker.page_port}"
        if self.broker.fleet_address:
            self.broker.environ["ENVMESH_BROKER_FLEET_LISTEN"] = self.broker.fleet_address
        if self.policy is not None:
            await self._scale(environments, self.policy, str(seal_key))
            return
        for pool in self.pools:
            for number in range(1, pool.hosts + 1):
                self._begin(self._host(pool, f"{pool.name}-{number}", str(seal_key)))
        for child in self.children:
            await child.ready.wait()
        await self._registered()

    async def _scale(
        self, environments: dict[str, tuple[str, ...]], policy: PoolPolicy, seal_key: str
    ) -> None:
        def make(pool: PoolPlan, name: str, host_id: str) -> Child:
            child = self._host(pool, name, seal_key)
            child.environ["ENVMESH_HOST_HOST_ID"] = host_id
            return child

        self.autoscaler = LocalAutoscaler(
            environments,
            policy,
            self.pools,
            make=make,
            spawn=self._keep,
            children=self.children,
            tell=self.tell,
        )
        address = self.broker.fleet_address or self.broker.address
        work = self.autoscaler.run(address, self._steering(address))
        self._scaling = self._tasks.create_task(work, name="autoscaler")
        await self.autoscaler.running.wait()

    def _steering(self, address: str) -> Access:
        """The credentials with which the autoscaler speaks to the broker."""
        if self._keys is None:
            return Access(address, plaintext=True, environ={})
        own = self._keys / "autoscaler-tls"
        return Access(
            address,
            ca=own / "ca.crt",
            certificate=own / "tls.crt",
            private_key=own / "tls.key",
            environ={},
        )

    def _host(self, pool: PoolPlan, name: str, seal_key: str) -> Child:
        settings = {
            **self._host_settings,
            "ENVMESH_HOST_LISTEN": f"{self._listen.rpartition(':')[0]}:0",
            "ENVMESH_HOST_METRICS_LISTEN": "127.0.0.1:0",
            "ENVMESH_HOST_BROKER": self.broker.fleet_address or self.broker.address,
            "ENVMESH_HOST_POOL": pool.name,
            "ENVMESH_HOST_NAME": name,
            "ENVMESH_HOST_SEAL_KEYS_FILE": seal_key,
            **self._secured("HOST"),
            **pool.settings,
        }
        command = ["serve", *pool.targets, *pool.flags, *self._verbose]
        return Child(name, command, settings, self.tell)

    async def _registered(self) -> None:
        """Wait until the broker can place on every host."""
        wanted = {pool.name: pool.hosts for pool in self.pools}
        ready: Counter[str] = Counter()
        try:
            address = self.broker.fleet_address or self.broker.address
            channel = self._steering(address).channel(address, ())
            async with asyncio.timeout(REGISTER_SECONDS), channel:
                stub = fleet_pb2_grpc.FleetServiceStub(channel)
                while any(ready[name] < hosts for name, hosts in wanted.items()):
                    picture = (await stub.GetFleet(fleet_pb2.GetFleetRequest(), timeout=ASK_SECONDS)).fleet
                    ready = Counter(
                        host.identity.pool
                        for host in picture.hosts
                        if host.state == fleet_pb2.HOST_STATE_READY
                    )
                    await asyncio.sleep(0.02)
        except TimeoutError:
            missing = ", ".join(f"{n} has {ready[n]} of {h}" for n, h in wanted.items() if ready[n] < h)
            raise ChildFailed(f"hosts did not register within {REGISTER_SECONDS:g} s: {missing}") from None
        except grpc.aio.AioRpcError as error:
            raise ChildFailed(f"the broker cannot be asked: {error.details()}") from error

    def _cleanup(self) -> None:
        self._directory.cleanup()


def checked_listen(listen: str, *, closed: bool = False) -> str:
    """Where a local mesh may listen; ``closed``: it has TLS and credentials.

    Raises:
        CommandFailed: not host:port, or an address beyond this machine, which needs TLS and credentials.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise CommandFailed(f"--listen {listen}: host:port is right, such as 127.0.0.1:7070", USAGE)
    if closed and host.strip("[]") in ("0.0.0.0", "::"):
        raise CommandFailed(
            f"--listen {listen}: give the address by which other machines reach this one; hosts listen there too, and "
            "trainers are told so",
            USAGE,
        )
    if not closed and not Endpoint(listen=listen).loopback:
        raise CommandFailed(
            f"--listen {listen}: without TLS and credentials a local mesh stays on this machine; listen on 127.0.0.1, "
            "or make some (envmesh keys DIRECTORY) and give --keys DIRECTORY",
            USAGE,
        )
    return listen
