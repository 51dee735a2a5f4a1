"""The record order: a permutation for each epoch, a function of (seed, step), uniform enough."""

import numpy as np
import pytest
from scipy import stats

from simclr_jax.data.order import batch_indices, permute


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 16, 17, 1297, 65536, 65537])
def test_every_epoch_is_a_permutation(size):
    orders = [permute(np.arange(size), size, seed=3, epoch=epoch) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size > 100:
        # As many fixed points as a random permutation has: one on average.
        assert (orders[0] == orders[1]).sum() < 8
        assert (orders[0] == np.arange(size)).sum() < 8


def test_an_epoch_of_batches_repeats_nothing_and_leaves_out_the_remainder():
    batches = [batch_indices(0, step, 256, 1297) for step in range(10)]
    for epoch in (batches[:5], batches[5:]):
        assert len(np.unique(np.concatenate(epoch))) == 1280
    left_out = [set(range(1297)) - set(np.concatenate(e)) for e in (batches[:5], batches[5:])]
    assert left_out[0] != left_out[1]


@pytest.mark.parametrize(('batch_size', 'size'), [(256, 1297), (7, 7), (3, 4), (8, 64)])
def test_batches_that_run_on_read_every_record_once_an_epoch(batch_size, size):
    steps = -(-3 * size // batch_size)
    batches = [
        batch_indices(5, step, batch_size, size, drop_remainder=False) for step in range(steps)
    ]
    assert all(batch.shape == (batch_size,) for batch in batches)
    read = np.concatenate(batches)
    for epoch in range(3):
        expected = permute(np.arange(size), size, 5, epoch)
        np.testing.assert_array_equal(read[epoch * size : (epoch + 1) * size], expected)


def test_batches_that_run_on_are_the_others_where_nothing_remains():
    for step in (0, 7, 8, 1001):
        np.testing.assert_array_equal(
            batch_indices(2, step, 8, 64), batch_indices(2, step, 8, 64, drop_remainder=False)
        )


def test_any_step_is_reached_directly():
    np.testing.assert_array_equal(
        batch_indices(5, 1_000_003, 4, 10), permute(np.arange(4, 8), 10, 5, 500_001)
    )


def test_the_order_never_changes_between_versions():
    # Written down once: a run that is resumed with a newer version must see the same records.
    np.testing.assert_array_equal(
        batch_indices(0, 0, 8, 1297), [823, 428, 643, 635, 337, 731, 967, 689]
    )
    np.testing.assert_array_equal(
        batch_indices(42, 12345, 8, 1_281_167),
        [72625, 199698, 607463, 111725, 650297, 243331, 1235783, 1076846],
    )
    # The end of an epoch and the start of the next.
    np.testing.assert_array_equal(
        batch_indices(0, 1297 // 8, 8, 1297, drop_remainder=False),
        [*permute(np.array([1296]), 1297, 0, 0), *permute(np.arange(7), 1297, 0, 1)],
    )


def test_places_are_uniform_over_seeds_and_neighbours_are_independent():
    size, seeds = 50, 4000
    orders = np.array([permute(np.arange(size), size, seed, 0) for seed in range(seeds)])
    for position in (0, 1, size - 1):
        counts = np.bincount(orders[:, position], minlength=size)
        assert stats.chisquare(counts).pvalue > 1e-4
    # The distance between the records of two neighbouring positions, around the circle.
    gaps = np.bincount((orders[:, 1] - orders[:, 0]) % size, minlength=size)[1:]
    assert stats.chisquare(gaps).pvalue > 1e-4


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match='batch_size=9 is larger than the 8 examples'):
        batch_indices(0, 0, 9, 8)
