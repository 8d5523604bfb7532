"""Between the wire and the broker's mind: identities and reports in, leases and the picture of the fleet out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from envmesh.errors import Refusal
from envmesh.v1 import fleet_pb2, placement_pb2
from envmesh_broker.core import Core
from envmesh_broker.gateways import route
from envmesh_broker.hosts import Grant, Host, HostRecord, HostState, LeaseRow, Report
from envmesh_broker.queue import Lane
from envmesh_service.leases import LeaseSigner

__all__ = ["fleet", "host_of", "lease", "pools", "report_of", "slim"]

_STATES = {
    fleet_pb2.HOST_STATE_STARTING: HostState.STARTING,
    fleet_pb2.HOST_STATE_READY: HostState.READY,
    fleet_pb2.HOST_STATE_DRAINING: HostState.DRAINING,
    fleet_pb2.HOST_STATE_SEALED: HostState.SEALED,
}
_STATE_NUMBERS = {state: number for number, state in _STATES.items()} | {
    HostState.SILENT: fleet_pb2.HOST_STATE_SILENT
}
_MOST_SLOTS = 1_000_000
_MOST_HELD = 2 * _MOST_SLOTS
"""A slot whose thread is stuck is held outside its lease too."""
_MOST_EPISODES = 2**64 - 1


def host_of(identity: fleet_pb2.HostIdentity) -> Host:
    """Who a host says it is.

    Raises:
        Refusal: INVALID_ARGUMENT ARGUMENT_INVALID: an identity with which nothing can be placed.
    """
    keys = tuple(f"{info.name}@{info.version}" for info in identity.environments)
    metadata = [entry.partition("=") for entry in identity.metadata]
    for wrong, what in (
        (not 0 < len(identity.host_id) <= 200, "host_id must have 1 to 200 characters"),
        (not identity.pool, "pool is missing"),
        (not identity.address, "address is missing: clients could not reach it"),
        (not 0 < identity.slots <= _MOST_SLOTS, f"slots must be 1 to {_MOST_SLOTS:,}; got {identity.slots}"),
        (not keys or len(set(keys)) != len(keys), "environments must be there, each once"),
        (
            not all(0 < len(i.name) <= 100 and 0 < len(i.version) <= 100 for i in identity.environments),
            "an environment needs a name and a version, of at most 100 characters each",
        ),
        (not all(key and equals for key, equals, _ in metadata), "metadata entries are written key=value"),
    ):
        if wrong:
            raise Refusal(f"the host's identity is refused: {what}", reason="ARGUMENT_INVALID")
    return Host(
        host_id=identity.host_id,
        pool=identity.pool,
        address=identity.address,
        slots=identity.slots,
        environments=keys,
        name=identity.name,
        environment_slots={bound.environment: bound.slots for bound in identity.environment_slots},
        spread=identity.placement == fleet_pb2.PLACEMENT_POLICY_SPREAD,
        max_hosts=identity.max_hosts,
        metadata=tuple((key, value) for key, _, value in metadata),
        server_name=identity.server_name,
    )


def report_of(report: fleet_pb2.HostReport) -> Report:
    """What a host says it does.

    Raises:
        Refusal: INVALID_ARGUMENT ARGUMENT_INVALID: a state or a lease id that cannot be, or so many slots or episodes
            that their sums would not fit into the picture that everybody is shown.
    """
    state = _STATES.get(report.state)
    rows = tuple(
        LeaseRow(row.lease_id, row.tenant, row.environment, row.in_use, row.idle, row.client_id)
        for row in report.leases
    )
    held = report.unleased + sum(row.in_use + row.idle for row in rows)
    episodes = sum(load.ended + load.failed for load in report.environments)
    for wrong, what in (
        (state is None, "a host cannot say this state of itself"),
        (any(len(row.lease_id) != 16 for row in rows), "lease ids have 16 bytes"),
        (held > _MOST_HELD, f"a host holds {_MOST_HELD:,} slots at most; got {held:,}"),
        (episodes > _MOST_EPISODES, f"at most {_MOST_EPISODES:,} episodes are counted; got {episodes:,}"),
    ):
        if wrong:
            raise Refusal(f"the report is refused: {what}", reason="ARGUMENT_INVALID")
    assert state is not None
    lag = report.event_loop_lag if math.isfinite(report.event_loop_lag) else 0.0
    return Report(state, rows, report.unleased, lag, report.sequence)


def slim(identity: fleet_pb2.HostIdentity) -> fleet_pb2.HostIdentity:
    """The identity without what is long and the same on a whole pool: spaces and documentation."""
    copy = fleet_pb2.HostIdentity()
    copy.CopyFrom(identity)
    for info in copy.environments:
        info.ClearField("observation_space")
        info.ClearField("action_space")
        info.ClearField("summary")
    return copy


def lease(
    grant: Grant,
    host: Host,
    signer: LeaseSigner,
    show_before: float,
    pass_entry: placement_pb2.MetadataEntry,
    gateway: str = "",
) -> placement_pb2.Lease:
    """A grant as its client gets it, with its pass. ``show_before`` is on the wall clock. A client that came through a
    gateway reaches the host there too: the address is ``gateway``, and the metadata say which host is meant."""
    claims = placement_pb2.LeaseClaims(
        lease_id=grant.lease_id,
        tenant=grant.tenant,
        host_id=grant.host_id,
        environment=grant.environment,
        count=grant.count,
        relocation=grant.relocation,
    )
    claims.show_before.FromNanoseconds(int(show_before * 1e9))
    return placement_pb2.Lease(
        lease_id=grant.lease_id,
        token=signer.sign(claims),
        host_id=grant.host_id,
        address=gateway or host.address,
        metadata=[
            pass_entry,
            *([route(host.address)] if gateway else []),
            *(placement_pb2.MetadataEntry(key=key, value=value) for key, value in host.metadata),
        ],
        server_name="" if gateway else host.server_name,
        count=grant.count,
        environment=grant.environment,
    )


Said = Mapping[str, tuple[fleet_pb2.HostIdentity, fleet_pb2.HostReport]]
"""By host: its slim identity and its last report, as they came."""


def fleet(core: Core, said: Said, now: float, *, brief: bool = False) -> fleet_pb2.Fleet:
    """The picture now. ``brief``: without what grows with environments and leases."""
    picture = fleet_pb2.Fleet(complete=core.ledger.complete(now))
    picture.uptime.FromNanoseconds(int((now - core.ledger.started_at) * 1e9))
    records = sorted(core.ledger.hosts.values(), key=lambda r: (r.host.pool, r.host.name, r.host.host_id))
    for record in records:
        status = picture.hosts.add(
            state=_STATE_NUMBERS[core.ledger.state(record, now)],
            provisional=record.load.provisional,
        )
        status.silent.FromNanoseconds(int(max(0.0, now - record.heard_at) * 1e9))
        identity, report = said[record.host.host_id]
        rows = record.report.rows if record.report is not None else ()
        idle = record.load.provisional + sum(row.idle for row in rows)
        status.idle, status.in_use = idle, record.load.used - idle
        status.ended = sum(load.ended + load.failed for load in report.environments)
        if brief:
            own, host = status.identity, record.host
            own.host_id, own.pool, own.name, own.slots = host.host_id, host.pool, host.name, host.slots
            continue
        status.identity.CopyFrom(identity)
        if record.report is not None:
            status.report.CopyFrom(report)
    _add_tenants(picture, core)
    _add_queues(picture, core, now)
    for environment, leased, host_slots in core.ledger.use():
        picture.environments.add(environment=environment, leased=leased, host_slots=host_slots)
    for missing in core.reserved(now):
        row = picture.reservations.add(environment=missing.environment, missing=missing.slots)
        if missing.starts_in:
            row.starts_in.FromNanoseconds(int(missing.starts_in * 1e9))
    return picture


def _add_tenants(picture: fleet_pb2.Fleet, core: Core) -> None:
    held = core.ledger.held
    slots: dict[str, int] = {}
    for waiting in core.queue.all():
        tenant = waiting.request.tenant
        slots[tenant] = slots.get(tenant, 0) + waiting.remaining
    for name in sorted(held.keys() | slots.keys()):
        tenant_ = core.tenant(name)
        picture.tenants.add(
            tenant=name,
            leased=held.get(name, 0),
            queued_requests=core.queue.of_tenant(name),
            queued_slots=slots.get(name, 0),
            weight=tenant_.weight,
            quota=tenant_.quota,
        )


def _add_queues(picture: fleet_pb2.Fleet, core: Core, now: float) -> None:
    lanes: dict[str, list[Lane]] = {}
    for lane in core.queue.lanes():
        lanes.setdefault(lane.environment, []).append(lane)
    admissible: dict[str, int] = {}
    relocating: dict[str, int] = {}
    oldest: dict[str, float] = {}
    for want in core.wants():
        admissible[want.environment] = admissible.get(want.environment, 0) + want.slots
        if want.relocation:
            relocating[want.environment] = relocating.get(want.environment, 0) + want.slots
        oldest[want.environment] = min(oldest.get(want.environment, now), want.since)
    for environment in sorted(lanes):
        depths = [lane.depth() for lane in lanes[environment]]
        wanted = sum(depth.slots for depth in depths)
        row = picture.queues.add(
            environment=environment,
            requests=sum(depth.requests for depth in depths),
            admissible=admissible.get(environment, 0),
            held=wanted - admissible.get(environment, 0),
            relocating=relocating.get(environment, 0),
        )
        row.oldest.FromNanoseconds(int(max(0.0, now - oldest.get(environment, now)) * 1e9))


def pools(
    core: Core, full: Mapping[str, fleet_pb2.HostIdentity], now: float, gateway: str = ""
) -> list[placement_pb2.Pool]:
    """The pools, sorted by name. ``full`` has a whole identity of each pool's hosts; ``gateway`` is as for a lease."""
    by_pool: dict[str, list[HostRecord]] = {name: [] for name in core.catalog.pools}
    for record in core.ledger.hosts.values():
        by_pool.setdefault(record.host.pool, []).append(record)
    queued: dict[str, int] = {}
    for waiting in core.queue.all():
        queued[waiting.environment] = queued.get(waiting.environment, 0) + waiting.remaining
    found = [_pool(core, name, by_pool[name], full, queued, now) for name in sorted(by_pool)]
    for pool in found:
        if gateway and pool.address:
            pool.metadata.append(route(pool.address))
            pool.address, pool.server_name = gateway, ""
    return found


def _pool(
    core: Core,
    name: str,
    records: Iterable[HostRecord],
    full: Mapping[str, fleet_pb2.HostIdentity],
    queued: Mapping[str, int],
    now: float,
) -> placement_pb2.Pool:
    records = list(records)
    ready = [record for record in records if record.placeable]
    declared = core.catalog.pools.get(name)
    keys = {key for record in records for key in record.host.environments}
    keys |= set(declared.environments if declared is not None else ())
    first = min((record.host for record in ready), key=lambda host: host.address, default=None)
    pool = placement_pb2.Pool(
        name=name,
        ready_hosts=len(ready),
        slots=sum(record.host.slots for record in ready),
        leased=sum(record.load.used for record in records),
        address=first.address if first is not None else "",
        server_name=first.server_name if first is not None else "",
        queued=sum(queued.get(key, 0) for key in keys),
    )
    for key in sorted({key for record in ready for key in record.host.environment_slots}):
        slots = sum(record.host.environment_slots.get(key, record.host.slots) for record in ready)
        pool.environment_slots.add(environment=key, slots=slots)
    if name in full:
        pool.environments.extend(full[name].environments)
    elif declared is not None:
        for key in declared.environments:
            bare, _, version = key.partition("@")
            pool.environments.add(name=bare, version=version)
    return pool
