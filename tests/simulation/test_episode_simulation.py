"""Short histories of a mesh in trouble, each a function of its seed; HISTORIES=100000 lives through more.

The real engine, connection, slots and copies of hosts, the real core and ledger of the broker, the real episode state,
journal and judgement of the client; between them a network that holds, delays and loses, clocks that jump, and
processes that die. After each history:

* every recoverable episode has its whole trajectory, each step once, as if nothing had been;
* a step of class NONE was done at most once, and is in the trajectory only if it was done;
* only the step that kills what serves it is called poison, and it always is;
* every wait has ended, and no slot is held by anybody: not on a host, not in the broker's ledger.

A failure prints how to see that history again.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections import Counter

import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh.values import decode
from envmesh_host.player import Player as RealPlayer
from tests.simulation import played
from tests.simulation.host import DEFINITIONS, SimulatedHost, Violation
from tests.simulation.player import policy
from tests.simulation.trainer import Trainer
from tests.simulation.world import World

HISTORIES = int(os.environ.get("HISTORIES", "10000"))
SEED = os.environ.get("HISTORY_SEED")
SHARDS = 20
MOST_SECONDS = 600.0
TROUBLE_SECONDS = 8.0
REFERENCES: dict[tuple[str, int], list[tuple[int, float, int]]] = {}


def reference(environment, seed):
    """The episode as it goes where nothing happens, by the real player."""
    if (environment, seed) not in REFERENCES:
        player = RealPlayer(DEFINITIONS[environment][1])
        rows = [player.reset(pb.ResetRequest(seed=seed))]
        while not rows[-1][2] & 3:
            action = played.encode(policy(decode(rows[-1][0])))
            rows.append(player.step(action))
        REFERENCES[environment, seed] = [(decode(row[0]), row[1], row[3]) for row in rows]
    return REFERENCES[environment, seed]


def trouble(world, trainer):
    """One accident."""
    dice, hosts = world.dice, world.hosts
    host = dice.choice(hosts) if hosts else None
    kind = dice.choice(
        ["kill", "worker", "freeze", "cut", "break", "drain", "broker", "add", "clock", "nothing"]
    )
    world.counts[kind] += 1
    if kind == "broker":
        world.new_broker()
    elif kind == "add" or host is None:
        if len(hosts) < 4:
            hosts.append(SimulatedHost(world))
    elif kind == "kill":
        world.explained.add(host.host_id)
        host.die()
    elif kind == "worker":
        dice.choice(host.hosted).runner.kill_one()
    elif kind == "freeze":
        host.frozen_until = world.now + dice.uniform(0.5, 9.0)
    elif kind == "cut":
        host.cut_until = world.now + dice.uniform(0.5, 9.0)
    elif kind == "break":
        for link in list(host.links):
            link.broken()
    elif kind == "drain":
        host.drain(not host.engine.draining)
    elif kind == "clock":
        host.last_tick -= dice.uniform(0.0, 6.0)


def calm_down(world):
    """Accidents are over: what is to be thawed or healed is, drains are taken back, and there are hosts."""
    for host in world.hosts:
        host.engine.draining = False
    while len(world.hosts) < 2:
        world.hosts.append(SimulatedHost(world))


def history(seed):
    """Live through one, and look back on it. Returns what has happened, counted."""
    world = World(seed)
    trainer = Trainer(world)
    played.ACTS.clear()
    dice = world.dice
    world.hosts += [SimulatedHost(world) for _ in range(dice.randint(2, 3))]
    episodes = [
        (dice.choice(["replayed", "saved", "paying"]), number) for number in range(dice.randint(2, 5))
    ]
    if dice.random() < 0.3:
        world.poison = dice.choice(episodes)[1], dice.randint(1, played.LENGTH)
        world.poison_kills_host = dice.random() < 0.5
    for episode in episodes:
        world.after(dice.uniform(1.0, 2.0), trainer.begin, *episode)
    for _ in range(dice.randint(1, 6)):
        world.after(dice.uniform(1.0, TROUBLE_SECONDS), trouble, world, trainer)
    world.after(TROUBLE_SECONDS + 1.0, calm_down, world)
    world.after(0.0, world.tick)
    world.after(0.5, trainer.tick)
    begun = len(episodes)
    world.run(MOST_SECONDS, lambda: len(trainer.players) == begun and trainer.finished)
    if not trainer.finished:
        raise Violation(f"a wait does not end: {trainer.players}")
    look_back(world, trainer)
    calm_down(world)
    trainer.close()
    world.run(world.now + 30.0, lambda: False)
    for host in world.hosts:
        host.check()
        if host.engine.episodes or host.engine.slots.held:
            raise Violation(f"{host.host_id} still holds {host.engine.slots.held} slots")
    if sum(world.core.ledger.held.values()):
        raise Violation(f"the broker thinks that slots are held: {world.core.ledger.held}")
    return world.counts


def look_back(world, trainer):
    """Compare with what should have been."""
    acts = Counter(played.ACTS)  # to play the reference is to act as well
    for player in trainer.players:
        whole = reference(player.environment, player.seed)
        poisoned = world.poison is not None and world.poison[0] == player.seed
        if player.trajectory != whole[: len(player.trajectory)]:
            raise Violation(f"{player} differs: {player.trajectory} is not the beginning of {whole}")
        if player.cause == "POISON" and not poisoned:
            raise Violation(f"{player} was convicted of what {world.poison} did")
        if player.environment != "paying":
            wanted = "POISON" if poisoned else ""
            if player.cause != wanted or (not poisoned and len(player.trajectory) != len(whole)):
                raise Violation(f"{player} should have ended as {wanted or 'whole'}: {world.counts}")
        elif not player.cause and len(player.trajectory) != len(whole):
            raise Violation(f"{player} is not whole")
        else:
            missing = [i for i in range(1, len(player.trajectory)) if not acts[player.seed, i]]
            if missing:
                raise Violation(f"{player}: step {missing[0]} was never done")
    twice = {act: times for act, times in acts.items() if times > 1}
    if twice:
        raise Violation(f"done more than once: {twice}")


def run(seeds):
    """Histories, one after another; the first that fails says how to see it again."""
    total: dict[str, int] = {}
    for seed in seeds:
        try:
            counts = history(seed)
        except Exception as error:
            where = "".join(traceback.format_exception(error)[-3:])
            again = f"HISTORY_SEED={seed} pytest {__name__.replace('.', '/')}.py"
            pytest.fail(f"history {seed}: {error}\nrepeat with: {again}\n{where}", pytrace=False)
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


@pytest.fixture(autouse=True)
def quiet():
    """Hosts warn of each failed episode; here there are tens of thousands."""
    log = logging.getLogger("envmesh")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shard", range(SHARDS if SEED is None else 1))
def test_no_history_breaks_a_promise(shard):
    seeds = range(shard, HISTORIES, SHARDS) if SEED is None else [int(SEED)]
    total = run(seeds)
    print(dict(sorted(total.items())))
    if len(seeds) >= 500:  # that the histories are about something
        for name in ("host_gone ELSEWHERE", "host_silent ELSEWHERE", "link_lost RETURN", "worker_lost HERE",
                     "worker_crashed FALL", "drain ELSEWHERE", "host_gone FALL", "poisonings"):  # fmt: skip
            assert total.get(name, 0) > 0, (name, total)
