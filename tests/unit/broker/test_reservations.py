"""Reservations are bounded, and one that is over takes no room."""

import pytest

from envmesh_broker.reservations import MOST_OF_TENANT, Reservation, Reservations


def reservation(number, *, ends_at, slots=4, tenant="t"):
    return Reservation(
        reservation_id=number.to_bytes(16, "big"),
        tenant=tenant,
        environment="e",
        slots=slots,
        client_id=b"c" * 16,
        starts_at=0.0,
        ends_at=ends_at,
    )


@pytest.fixture
def full():
    """A tenant's share of the table, one of them over ten seconds before the others."""
    reservations = Reservations()
    for number in range(MOST_OF_TENANT):
        assert reservations.put(reservation(number, ends_at=20.0 if number else 10.0), 0.0)
    return reservations


def test_a_tenant_has_so_many_and_no_more_and_others_have_theirs(full):
    assert not full.put(reservation(5_000, ends_at=20.0), 9.0)
    assert full.put(reservation(7, ends_at=30.0), 9.0), "it takes the place of what had its id"
    assert full.put(reservation(5_000, ends_at=20.0, tenant="u"), 9.0)
    assert full.put(reservation(8, ends_at=20.0, slots=0), 9.0)
    assert full.put(reservation(5_000, ends_at=20.0), 9.0), "one was given up"


def test_those_that_are_over_take_no_room_though_nobody_looks_at_the_fleet(full):
    assert full.put(reservation(5_000, ends_at=20.0), 10.0)
    assert not full.put(reservation(5_001, ends_at=20.0), 10.0)
    for number in range(MOST_OF_TENANT):
        assert full.put(reservation(6_000 + number, ends_at=30.0), 20.0)
