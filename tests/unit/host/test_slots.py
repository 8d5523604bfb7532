"""The table of slots: a lease counts from when it is shown until it has ended, and never again."""

import pytest

from envmesh.errors import Refusal
from envmesh.v1.placement_pb2 import LeaseClaims
from envmesh_host.rights import HostRights
from envmesh_host.slots import MOST_REMEMBERED, REMEMBERED_SECONDS, Claim, Holding, SlotTable
from envmesh_service.leases import CLOCK_LEEWAY, LEASE_VALIDITY, LeaseSigner, LeaseVerifier, Sealer


def claim(number: int = 1, count: int = 4) -> Claim:
    return Claim(lease_id=number.to_bytes(16, "big"), tenant="red", environment="walk@1", count=count)


def given_back(table: SlotTable) -> None:
    table.give_back(table.show(claim(), 0.0), 0)


def recalled(table: SlotTable) -> None:
    table.recall({table.show(claim(), 0.0).lease_id: 0})


def idle_for_too_long(table: SlotTable) -> None:
    table.show(claim(), 0.0)
    table.lapse(5.0, idle_after=1.0)


def never_shown(table: SlotTable) -> None:
    table.grant(claim(), 0.0, lapses_at=10.0)
    table.lapse(10.0, idle_after=60.0)


def recalled_while_in_use(table: SlotTable) -> None:
    holding = table.show(claim(count=1), 0.0)
    table.take(holding, b"episode")
    table.recall({holding.lease_id: 0})
    table.leave(holding, b"episode", 1.0)


@pytest.mark.parametrize("end", [given_back, recalled, idle_for_too_long, never_shown, recalled_while_in_use])
def test_a_lease_that_has_ended_cannot_be_shown_again(end):
    table = SlotTable(8)
    end(table)
    assert table.held == 0
    latest = LEASE_VALIDITY + 2 * CLOCK_LEEWAY
    table.lapse(latest, idle_after=60.0)
    with pytest.raises(Refusal, match="given back or taken back") as refused:
        table.show(claim(), latest)
    assert refused.value.reason == "LEASE_INVALID"
    assert table.show(claim(2), latest).count == 4


def test_a_lease_that_is_held_may_be_shown_again_and_again():
    table = SlotTable(8)
    holding = table.show(claim(), 0.0)
    assert table.show(claim(), 1.0) is holding
    table.give_back(holding, 3)
    assert table.show(claim(), 1000.0) is holding
    granted = table.grant(claim(2), 0.0, lapses_at=10.0)
    assert table.show(claim(2), 9.0) is granted


def test_ended_leases_are_forgotten_once_no_token_can_show_them():
    table = SlotTable(8)
    given_back(table)
    table.lapse(REMEMBERED_SECONDS, idle_after=60.0)
    assert table.show(claim(), REMEMBERED_SECONDS).count == 4


def test_an_ended_lease_is_remembered_for_as_long_as_its_token_could_be_shown():
    signer, wall = LeaseSigner.generate(), [1000.0]
    verifier = LeaseVerifier(signer.public_keys)
    rights = HostRights("host", verifier, Sealer.generate(), lambda: wall[0])
    claims = LeaseClaims(lease_id=b"l" * 16, tenant="red", host_id="host", environment="walk@1", count=4)
    claims.show_before.FromSeconds(1000 + 300)
    token = signer.sign(claims)

    def show() -> Holding:
        return table.show(rights.claim(token, b"", table.holding), wall[0])

    table = SlotTable(8)
    table.give_back(show(), 0)
    wall[0] += 300.0 + CLOCK_LEEWAY - 0.1
    table.lapse(wall[0], idle_after=60.0)
    with pytest.raises(Refusal, match="given back or taken back"):
        show()
    wall[0] += 0.2
    table.lapse(wall[0], idle_after=60.0)
    with pytest.raises(Refusal, match="it expired"):
        show()
    assert table.show(claim(1, count=8), wall[0]).count == 8


def test_so_many_ended_leases_are_remembered_and_not_more():
    table = SlotTable(8)
    for number in range(MOST_REMEMBERED + 1):
        table.give_back(table.show(claim(number, count=1), 0.0), 0)
        table.take_ended()
    assert table.show(claim(0, count=1), 1.0).count == 1
    with pytest.raises(Refusal):
        table.show(claim(1, count=1), 1.0)
