"""What the broker promises on the wire is what it keeps."""

from types import SimpleNamespace
from typing import Any

import pytest

from envmesh.errors import Refusal
from envmesh.v1 import placement_pb2
from envmesh_broker.authentication import Everybody
from envmesh_broker.desk import Desk
from envmesh_broker.fleet import Sessions
from envmesh_broker.losses import Losses
from envmesh_broker.servicer import MOST_HOST_ID, Placement
from envmesh_service.leases import LeaseSigner
from tests.unit.broker.parts import World

SHIFT = 5000.0
"""How far the wall clock is ahead of the broker's own."""


class Counted:
    """Takes what is counted, and forgets it."""

    def asked(self, *what: object) -> None: ...

    def granted(self, *what: object) -> None: ...


NOBODY = SimpleNamespace(invocation_metadata=lambda: ())


def placement_of(world: World, desk: Desk) -> Placement:
    meters: Any = Counted()
    losses = Losses(lambda: world.now, world.core.ledger.last_heard)
    return Placement(
        desk,
        Sessions(),
        Everybody(),
        LeaseSigner.generate(),
        meters,
        losses,
        wall=lambda: world.now + SHIFT,
    )


async def test_a_lease_that_is_read_late_counts_no_longer_than_the_broker_keeps_its_slots():
    world = World()
    world.host("h", slots=4)
    desk = Desk(world.core, lambda: world.now)
    request = placement_pb2.AcquireRequest(environment="e", count=8)
    answers = placement_of(world, desk).Acquire(request, NOBODY)
    granted = [await anext(answers)]
    world.host("i", slots=4)
    desk._pass()
    decided_at = world.now
    world.now += 7.0  # its client was busy
    granted.append(await anext(answers))
    for answer in granted:
        (lease,) = answer.grant.leases
        signed = placement_pb2.SignedLease.FromString(lease.token)
        claims = placement_pb2.LeaseClaims.FromString(signed.claims)
        assert claims.show_before.ToNanoseconds() / 1e9 == decided_at + SHIFT + 10.0
    with pytest.raises(StopAsyncIteration):
        await anext(answers)
    desk.close()


@pytest.mark.parametrize("length", [0, MOST_HOST_ID + 1])
async def test_what_is_no_hosts_id_is_not_kept_while_its_caller_waits(length: int):
    world = World()
    desk = Desk(world.core, lambda: world.now)
    request = placement_pb2.ExplainLossRequest(host_id="h" * length)
    request.timeout.FromSeconds(5)
    with pytest.raises(Refusal, match=f"1 to {MOST_HOST_ID} characters; got {length}"):
        await placement_of(world, desk).ExplainLoss(request, NOBODY)
    desk.close()
