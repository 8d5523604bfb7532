"""What a mesh has to offer: environments, pools and tasks, and slots for later."""

from __future__ import annotations

import datetime as dt
from typing import Any

import grpc

from envmesh import errors, values
from envmesh.client_settings import ClientSettings
from envmesh.env import Task
from envmesh.errors import MeshUnavailable, NotFound
from envmesh.links import Links
from envmesh.outcome import EnvironmentSpec
from envmesh.reservation import Reservation, seconds_until
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import environment_pb2_grpc, placement_pb2
from envmesh.versions import newest, rising

__all__ = ["Catalogue"]


class Catalogue:
    """The part of a client that looks around."""

    settings: ClientSettings
    links: Links
    client_id: bytes

    @property
    def placement(self) -> Any:
        """The stub of PlacementService."""
        raise NotImplementedError

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call to it."""
        raise NotImplementedError

    def check_usable(self, *, entering: bool = False) -> None:
        """Refuse use before entering and after closing."""
        raise NotImplementedError

    async def environments(self) -> list[EnvironmentSpec]:
        """Every environment that the mesh serves, by name and version, the newest last. Raises: MeshUnavailable."""
        found = [EnvironmentSpec(info) for pool in await self.pools() for info in pool.environments]
        specs = {spec.key: spec for spec in found}
        return [specs[key] for key in rising(specs)]

    async def describe(self, environment: str) -> EnvironmentSpec:
        """One environment, by ``name@version``, or by ``name`` or target string, which mean its newest version.

        Raises:
            NotFound: there is none. MeshUnavailable.
        """
        specs = {spec.key: spec for spec in await self.environments()}
        key = newest(key for key, spec in specs.items() if environment in (key, spec.name, spec.target))
        if key is None:
            known = ", ".join(specs) or "none"
            raise NotFound(f"no environment {environment!r} in this mesh (there are: {known})")
        return specs[key]

    async def pools(self) -> list[placement_pb2.Pool]:
        """The pools of the mesh."""
        self.check_usable()
        try:
            reply = await self.placement.ListPools(
                placement_pb2.ListPoolsRequest(),
                metadata=self.metadata,
                timeout=self.settings.connect_timeout,
            )
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None
        for pool in reply.pools:
            self.links.learn(pool.address, pool.server_name, reply.metadata)
        return list(reply.pools)

    async def tasks(self, environment: str, *, split: str = "", limit: int | None = None) -> list[Task]:
        """The tasks of an environment, at most ``limit``. Raises: NotFound, MeshUnavailable."""
        spec = await self.describe(environment)
        pool = next(
            (pool for pool in await self.pools() if pool.address
             for info in pool.environments if f"{info.name}@{info.version}" == spec.key), None,
        )  # fmt: skip
        if pool is None:
            raise MeshUnavailable(f"no host of {spec.key} is ready to list its tasks")
        metadata = tuple((entry.key, entry.value) for entry in pool.metadata)
        stub = environment_pb2_grpc.EnvironmentServiceStub(self.links.channel(pool.address))
        found: list[Task] = []
        token = ""
        while limit is None or len(found) < limit:
            request = pb.ListTasksRequest(environment=spec.key, split=split, page_token=token)
            try:
                page = await stub.ListTasks(request, metadata=(*self.links.passes(), *metadata), timeout=60.0)
            except grpc.aio.AioRpcError as error:
                raise errors.from_rpc_error(error) from None
            found += [_task(message) for message in page.tasks]
            token = page.next_page_token
            if not token:
                break
        return found[:limit]

    async def reserve(
        self,
        environment: str,
        slots: int,
        when: dt.datetime | float | None = None,
        *,
        lasts: float = 300.0,
    ) -> Reservation:
        """Say that this client will hold ``slots`` slots in all, from ``when`` on (a moment, or seconds from now), so
        that there are hosts by then. It counts until the slots are taken, at most ``lasts`` seconds after ``when``.

        Raises:
            NotFound: no such environment. Backpressure: beyond the tenant's quota. MeshUnavailable.
        """
        self.check_usable()
        reservation = Reservation(
            self,  # type: ignore[arg-type]  # a Mesh is one
            environment,
            slots,
            seconds_until(when),
            lasts,
        )
        await reservation.make()
        return reservation


def _task(message: pb.Task) -> Task:
    prompt = values.from_proto(message.prompt) if message.HasField("prompt") else None
    metadata = values.from_proto(message.metadata) if message.HasField("metadata") else {}
    return Task(id=message.id, split=message.split, prompt=prompt, metadata=metadata)
