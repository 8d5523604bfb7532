"""The states of the global generators, copied as memory, are what the official functions say they are."""

import random

import numpy as np
import pytest

from envmesh_host.isolation.global_random import GlobalRandom


@pytest.fixture(autouse=True)
def untouched():
    """Other tests may draw from the global generators too."""
    python, numpy = random.getstate(), np.random.get_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)


def draw():
    return [
        random.random(),
        random.gauss(0, 1),
        random.randrange(1_000),
        float(np.random.normal()),
        float(np.random.random()),
        int(np.random.randint(1_000)),
    ]


def test_the_memory_is_found_on_this_interpreter():
    assert GlobalRandom().direct


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("draws", [0, 1, 2, 700])
def test_a_loaded_state_goes_on_where_it_was_saved(direct, draws):
    generators = GlobalRandom(direct=direct)
    generators.seed(7)
    for _ in range(draws):
        draw()
    saved = generators.save()
    expected = [draw() for _ in range(3)]
    generators.seed(8)
    assert [draw() for _ in range(3)] != expected
    generators.load(saved)
    assert [draw() for _ in range(3)] == expected


def test_direct_and_official_states_agree():
    direct, official = GlobalRandom(), GlobalRandom(direct=False)
    direct.seed(3)
    draw()
    saved, saved_too = direct.save(), official.save()
    expected = draw()
    official.load(saved_too)
    assert draw() == expected
    direct.load(saved)
    assert draw() == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 - 1])
def test_every_seed_of_the_protocol_seeds_both(seed):
    generators = GlobalRandom()
    generators.seed(seed)
    first = draw()
    generators.seed(seed)
    assert draw() == first
    generators.seed(None)
    assert draw() != first
