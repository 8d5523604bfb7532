"""Batches tell failures from outcomes row by row, and seeds are whole numbers of whatever make."""

import numpy as np
import pytest

from envmesh.batch_codec import BatchCodec, integers
from envmesh.errors import Failure, InvalidRequest
from envmesh.values import encode
from envmesh.vector_batch import Batch, Rows
from envmesh.vector_seeds import SeedSequence

FAILURE = Failure.of("ENVIRONMENT_RAISED", "the floor gave way")


def outcomes(*numbers: int) -> Rows:
    return Rows(integers(list(numbers)), [encode(n) for n in numbers], np.ones(len(numbers)), None, None)


def test_the_earlier_outcome_of_an_episode_that_failed_is_valid():
    rows = Rows.joined([outcomes(0, 1), Rows.failed(0, FAILURE), outcomes(1)])
    batch = Batch(rows, BatchCodec(None))
    assert batch.ids.tolist() == [0, 1, 0, 1]
    assert batch.valid.tolist() == [True, True, False, True]
    assert batch.observations == [0, 1, None, 1]
    assert not (batch.terminated | batch.truncated).any()
    assert batch.failures == {0: FAILURE}


def test_a_failure_goes_with_its_row():
    rows = Rows.joined([outcomes(0, 1), Rows.failed(0, FAILURE)])
    assert rows.chosen(np.array([0, 1])).failures is None
    assert rows.chosen(np.array([2])).failures == {0: FAILURE}


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_one_seed(seed):
    seeds = SeedSequence(2, 0)
    seeds.restart(seed, [0, 1])
    assert seeds.following([0, 1]) == [3, 4]


@pytest.mark.parametrize("given", [[5, 9], (5, 9), np.array([5, 9]), [np.int32(5), np.int64(9)]])
def test_a_seed_for_each(given):
    seeds = SeedSequence(2, 0)
    seeds.restart(given, [0, 1])
    drawn = seeds.following([0, 1])
    assert drawn == [5, 9]
    assert {type(seed) for seed in drawn} == {int}


@pytest.mark.parametrize(
    "seed", [True, -1, 1.5, 1 << 31, np.float64(1), "ab", [1.0, 2], [1], np.array([[1], [2]])]
)
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(InvalidRequest):
        SeedSequence(2, 0).restart(seed, [0, 1])
