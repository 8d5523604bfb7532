"""The leases that a client has shown on its connection, by the numbers it gave them."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import duration_pb2

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.engine import Engine
from envmesh_host.slots import Holding

__all__ = ["ShownLeases"]


class ShownLeases:
    """One connection's. ``idle_seconds`` is how long an idle lease is kept."""

    def __init__(self, engine: Engine, tenant: str, client_id: bytes, idle_seconds: float):
        self._engine = engine
        self._tenant = tenant
        self._client_id = client_id
        self._idle_seconds = idle_seconds
        self._holdings: dict[int, Holding] = {}

    def holding(self, number: int) -> Holding:
        """The lease of this number. Raises: Refusal LEASE_INVALID."""
        holding = self._holdings.get(number)
        if holding is None:
            raise Refusal(f"no lease {number} was shown on this connection", reason="LEASE_INVALID")
        return holding

    def show(self, number: int, token: bytes) -> pb.LeaseBound:
        """The client shows a lease, and names it.

        Raises:
            Refusal: LEASE_INVALID, SLOT_TAKEN, DRAINING, ENVIRONMENT_UNKNOWN, or ARGUMENT_INVALID where the number
                names another one.
        """
        engine = self._engine
        claim = engine.rights.claim(token, self._client_id, engine.slots.holding)
        if claim.tenant != self._tenant:
            raise Refusal("the lease is another tenant's", reason="LEASE_INVALID")
        environment = engine.environment(claim.environment)
        if engine.draining and engine.slots.holding(claim.lease_id) is None:
            raise Refusal("this host drains; take a slot elsewhere", reason="DRAINING")
        named = self._holdings.get(number)
        if named is not None and named.lease_id != claim.lease_id:
            raise Refusal(f"{number} names another lease; return that first", reason="ARGUMENT_INVALID")
        holding = self._holdings[number] = engine.slots.show(claim, engine.clock())
        idle = duration_pb2.Duration(seconds=int(self._idle_seconds), nanos=int(self._idle_seconds % 1 * 1e9))
        return pb.LeaseBound(environment=environment.info, count=holding.count, lease_idle=idle)

    def give_back(self, number: int, count: int) -> int:
        """``count`` idle slots of a lease go back, all of them for 0. Returns how many did."""
        holding = self._holdings.get(number)
        back = self._engine.slots.give_back(holding, count) if holding is not None else 0
        if holding is not None and holding.count == 0:
            del self._holdings[number]
        return back

    def shrunk(self, holding: Holding) -> Iterator[int]:
        """A holding has fewer slots than before, perhaps none: the numbers it has here."""
        for number, held in list(self._holdings.items()):
            if held is holding:
                yield number
                if holding.count == 0:
                    del self._holdings[number]

    def clear(self) -> None:
        """The connection is gone."""
        self._holdings.clear()
