"""The autoscaler as a process: its parts put together, and their life."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envmesh_autoscaler.autoscaler import Autoscaler, Fleet
from envmesh_autoscaler.backends.kubernetes import KubernetesBackend
from envmesh_autoscaler.backends.leader import Leadership
from envmesh_autoscaler.keda import SERVICE, KedaScaler, add_to_server
from envmesh_autoscaler.meters import Meters
from envmesh_autoscaler.pools import Scaling, read_scaling
from envmesh_autoscaler.settings import AutoscalerSettings
from envmesh_service.clock import monotonic, wall
from envmesh_service.kubernetes_api import ClusterApi
from envmesh_service.lifecycle import Process, Shutdown, run_process
from envmesh_service.metrics import Exporter, Registry
from envmesh_service.probes import ProbePort
from envmesh_service.rpc import BROKER_CHANNEL_OPTIONS, RpcMetrics, Server, make_server
from envmesh_service.settings import Mistake, SettingsError
from envmesh_service.watched import Watched

__all__ = ["run"]

log = logging.getLogger("envmesh.autoscaler")

CHANNEL_OPTIONS = (
    *BROKER_CHANNEL_OPTIONS,
    ("grpc.max_receive_message_length", 64 << 20),
)
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Ports:
    server: Server
    exporter: Exporter
    probes: ProbePort


async def run(
    settings: AutoscalerSettings, ready: Callable[[str, int], None] = lambda address, metrics: None
) -> Shutdown:
    """Run an autoscaler until it is asked to end. ``ready`` is called with its address and the port of its metrics.

    Raises:
        SettingsError: the pools file is wrong. ApiRefused: nothing says where the API server is. BindError: a port
            cannot be had.
    """
    pools = _pools(settings)
    api = ClusterApi.connect(settings.kubeconfig)
    return await run_process(lambda process: _body(process, settings, pools, api, ready), grace=10.0)


async def _body(
    process: Process,
    settings: AutoscalerSettings,
    pools: Watched[Scaling],
    api: ClusterApi,
    ready: Callable[[str, int], None],
) -> None:
    registry = Registry()
    server = make_server(settings.endpoint, metrics=RpcMetrics(registry))
    ports = _Ports(server, Exporter(registry), ProbePort(server.health))
    identity = settings.name or f"autoscaler-{secrets.token_hex(4)}"
    namespace = settings.namespace or _own_namespace()
    leadership: list[Leadership] = []

    def lead(changed: Callable[[], None]) -> Leadership:
        leadership.append(Leadership(api, namespace, settings.lease, identity, monotonic, changed))
        return leadership[0]

    backend = KubernetesBackend(
        api,
        namespace,
        lead,
        monotonic,
        wall,
        instance=identity,
        mismatched=lambda pool, count: meters.mismatches.add(count, pool),
    )
    meters = Meters(registry, lambda: backend.leading, calls=api.calls, refusals=api.refusals)
    access = settings.access_to(settings.broker, settings.broker_token_file)
    channel = access.channel(settings.broker, CHANNEL_OPTIONS)
    fleet = Fleet(lambda: channel, lambda: access.metadata, monotonic)
    scaling = pools.value
    autoscaler = Autoscaler(
        scaling.pools, fleet, backend, meters, monotonic, cap=scaling.max_hosts, dry_run=settings.dry_run
    )
    keda = KedaScaler(autoscaler, leadership[0], lambda: backend.leading, monotonic)
    leadership[0].say = keda.said
    server.add(add_to_server, keda, SERVICE)
    try:
        if settings.metrics_listen:
            where, _, port = settings.metrics_listen.rpartition(":")
            tls = None if settings.metrics_plaintext else settings.tls_files
            ports.exporter.start(where.strip("[]") or "127.0.0.1", int(port), tls)
        await server.start()
        if settings.health_listen:
            await ports.probes.start(settings.health_listen)
        work = process.spawn(autoscaler.run(), name="autoscaler")
        process.spawn(_tick(registry, ports, pools, autoscaler), name="tick")
        await server.health.set(ready=True, accepting=True)
        log.info(
            "ready",
            extra={"address": server.address, "metrics": ports.exporter.port, "probes": ports.probes.port},
        )
        ready(server.address, ports.exporter.port)
        await process.shutdown.wait()
        work.cancel()  # gives the Lease back
        await asyncio.wait([work], timeout=5.0)
    finally:
        await server.stop(0.5)
        await ports.probes.stop()
        await ports.exporter.stop()
        await channel.close()


async def _tick(registry: Registry, ports: _Ports, pools: Watched[Scaling], autoscaler: Autoscaler) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        if pools.refresh():
            log.info("the pools file has changed")
            autoscaler.replace(pools.value.pools, pools.value.max_hosts)
        registry.flush()
        ports.exporter.refresh()
        if ports.server.identity is not None:
            ports.server.identity.refresh()


def _pools(settings: AutoscalerSettings) -> Watched[Scaling]:
    path = settings.pools_file
    assert path is not None  # the settings have seen to it
    try:
        return Watched("the pools file", (path,), lambda: read_scaling(path.read_text()))
    except (ValueError, OSError) as error:
        mistake = Mistake(
            settings.variable_of("pools_file"), f"{path}: {error}", "a file that can be used is right"
        )
        raise SettingsError((mistake,)) from None


def _own_namespace() -> str:
    try:
        return OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"
