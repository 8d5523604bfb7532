"""Every metric that the code registers, as the services register them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from envmesh.instruments import Instrument
from envmesh.metrics import ClientMetrics
from envmesh_autoscaler.meters import Meters as AutoscalerMeters
from envmesh_broker.core import Core
from envmesh_broker.meters import Meters as BrokerMeters
from envmesh_host.engine import Engine
from envmesh_host.meters import HostMeters
from envmesh_host.slots import SlotTable
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import Registry
from envmesh_service.rpc import RpcMetrics

__all__ = ["PROCESS", "by_service", "names"]

PROCESS = frozenset(
    {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "up",
        "ALERTS",
    }
)
"""What comes from prometheus_client's own collectors and from Prometheus itself, as far as it is used."""


class _NoMesh:
    """A client that has nothing; its metrics are only asked for their names."""

    meters: Any = None


async def by_service() -> dict[str, list[Instrument]]:
    """The instruments of each service, in the order of their registration. Each is under the first that has it."""
    rpc, host, broker, autoscaler = Registry(), Registry(), Registry(), Registry()
    shared = {instrument.name for instrument in rpc.instruments}
    RpcMetrics(rpc)
    HostMeters(host, Engine([], SlotTable(1), cast(Any, None)), LoopLag())
    BrokerMeters(broker, Core(0.0, new_id=lambda: b""), LoopLag(), lambda: 0.0, {})
    AutoscalerMeters(autoscaler, lambda: True)
    client = ClientMetrics(cast(Any, _NoMesh()))

    def own(registry: Registry) -> list[Instrument]:
        return [instrument for instrument in registry.instruments if instrument.name not in shared]

    return {
        "every service": list(rpc.instruments),
        "host": own(host),
        "broker": own(broker),
        "autoscaler": own(autoscaler),
        "client": list(client.instruments),
    }


async def names() -> set[str]:
    """Every name of a series that a scrape can bring."""
    found: set[str] = set(PROCESS)
    for instruments in (await by_service()).values():
        found |= set(_series(instruments))
    return found


def _series(instruments: Iterable[Instrument]) -> Iterable[str]:
    for instrument in instruments:
        for name, kind in instrument.families.items():
            yield name
            if kind == "histogram":
                yield from (f"{name}_bucket", f"{name}_count", f"{name}_sum")
