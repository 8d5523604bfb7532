"""Who asks back what: everybody who waits has its turn, and no lease is asked back to be given to who gave it."""

from dataclasses import replace

import pytest

from envmesh_broker.fairness import Tenant
from tests.unit.broker.parts import World

EPISODE, SECONDS = 10, 1800


class Play:
    """Tenants that always want every slot of one host. A leased slot is used for one episode after another, and given
    back when its episode closes after it was recalled. Each episode takes ten seconds."""

    def __init__(self, slots: int, weights: dict[str, float]) -> None:
        self.weights, self.slots = weights, slots
        self.world = World()
        self.world.core.tenant = lambda name: Tenant(name, weight=weights[name])
        self.world.host("h", slots=slots)
        self.lived = dict.fromkeys(weights, 0)
        self.begun: dict[bytes, int] = {}
        self.taken_back = 0
        """How often a recall was taken back while its lease had still to heed it."""
        self._recalled: dict[bytes, int] = {}
        first = next(iter(weights))
        for grant in self.world.take(slots, tenant=first, client_id=self.client(first)):
            self.begun[grant.lease_id] = 0

    def client(self, name: str) -> bytes:
        return name.encode().ljust(16)

    def second(self, number: int) -> None:
        world = self.world
        table = world.tables["h"]
        waiting = {each.request.tenant for each in world.core.queue.all()}
        for name in self.weights.keys() - waiting:
            world.ask(self.slots, tenant=name, client_id=self.client(name))
        world.now += 1.0
        recalls = world.report("h").recalls
        self.taken_back += sum(
            lease_id in table and table[lease_id].in_use > keep and lease_id not in recalls
            for lease_id, keep in self._recalled.items()
        )
        self._recalled = dict(recalls)
        for lease_id, keep in recalls.items():
            if lease_id in table and (number - self.begun[lease_id]) % EPISODE == 0:
                row = table[lease_id]
                table[lease_id] = replace(row, in_use=min(keep, row.in_use))
                if not table[lease_id].in_use:
                    del table[lease_id]
        world.report("h")
        world.core.tick(world.now)
        for decision in world.decide():
            for grant in decision.grants:
                assert world.show(grant)
                self.begun[grant.lease_id] = number
        world.report("h")
        for row in table.values():
            self.lived[row.tenant] += row.in_use


@pytest.mark.parametrize(
    ("slots", "weights"),
    [
        (1, {"a": 1.0, "b": 1.0}),
        (1, {"a": 3.0, "b": 1.0}),
        (2, {"a": 1.0, "b": 1.0, "c": 1.0}),
        (3, {"a": 1.0, "b": 1.0}),
        (16, {"a": 30.0, "b": 1.0}),
        (16, {"a": 1.0, "b": 1.0}),
    ],
)
def test_everybody_who_waits_has_its_share_of_the_time_though_that_is_less_than_a_slot(slots, weights):
    play = Play(slots, weights)
    for number in range(1, SECONDS + 1):
        play.second(number)
    for name, weight in weights.items():
        share = slots * SECONDS * weight / sum(weights.values())
        assert play.lived[name] == pytest.approx(share, rel=0.3), play.lived
    assert play.taken_back <= 3, "a recall stands until it is heeded"
