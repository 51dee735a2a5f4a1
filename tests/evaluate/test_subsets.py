import numpy as np
import pytest

from simclr_jax.evaluate import subsets

LABELS = np.repeat(np.arange(4), [7, 10, 20, 63])[np.random.RandomState(0).permutation(100)]


@pytest.mark.parametrize('per_class', [1, 3, 7])
def test_draw_has_that_many_of_every_class(per_class):
    chosen = subsets.draw_subset(LABELS, per_class, seed=0, draw=0)
    assert np.bincount(LABELS[chosen]).tolist() == [per_class] * 4
    assert np.all(np.diff(chosen) > 0)


def test_draws_differ_by_seed_and_draw_and_repeat():
    draws = {
        tuple(subsets.draw_subset(LABELS, 5, seed, draw)) for seed in (0, 1) for draw in range(3)
    }
    assert len(draws) == 6
    assert tuple(subsets.draw_subset(LABELS, 5, 1, 2)) in draws


def test_draws_are_nested():
    small, large = (set(subsets.draw_subset(LABELS, count, 3, 1)) for count in (2, 6))
    assert small < large


def test_every_example_of_a_class_is_drawn_equally_often():
    labels = np.zeros(10, int)
    drawn = [subsets.draw_subset(labels, 3, seed=0, draw=draw) for draw in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    # Six standard deviations of a binomial of 2000 draws with probability 0.3.
    assert np.max(np.abs(counts - 600)) < 6 * np.sqrt(2000 * 0.3 * 0.7)


def test_draw_is_what_it_was():
    """Changing the stream changes every reported few-label number: do it knowingly."""
    assert subsets.draw_subset(np.arange(12) % 2, 2, seed=0, draw=0).tolist() == [2, 5, 6, 11]


def test_a_class_with_too_few_examples_is_named():
    with pytest.raises(
        ValueError, match=r'class 0 has 7 .* the 8 .*\(1 such classes\).* at most 7'
    ):
        subsets.draw_subset(LABELS, 8, seed=0, draw=0)
    with pytest.raises(ValueError, match='per_class is 0'):
        subsets.draw_subset(LABELS, 0, seed=0, draw=0)


def test_holdout_is_stratified_and_a_partition():
    kept, held_out = subsets.holdout_split(LABELS, 0.2, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [1, 2, 4, 13]
    assert sorted([*kept, *held_out]) == list(range(100))
    assert not np.array_equal(held_out, subsets.holdout_split(LABELS, 0.2, seed=1)[1])


def test_holdout_never_takes_a_whole_class():
    kept, _ = subsets.holdout_split(np.array([0, 0, 0, 0, 1]), 0.9, seed=0)
    assert 4 in kept and len(kept) == 2


def test_holdout_of_nothing_is_an_error():
    with pytest.raises(ValueError, match='at most 1 examples holds nothing out'):
        subsets.holdout_split(np.arange(5), 0.2, seed=0)
    with pytest.raises(ValueError, match=r'fraction is 1\.0'):
        subsets.holdout_split(LABELS, 1.0, seed=0)


def test_folds_spread_every_class_evenly():
    folds = subsets.stratified_folds(LABELS, 5, seed=0)
    counts = np.array([np.bincount(folds[label == LABELS], minlength=5) for label in range(4)])
    assert np.max(counts.max(axis=1) - counts.min(axis=1)) == 1


def test_labelled_leaves_out_examples_without_copying_the_others():
    features = np.eye(4)
    rows, labels = subsets.labelled(features, np.array([2, -1, 0, -1]))
    assert rows.values is features and rows.shape == (2, 4)
    np.testing.assert_array_equal(rows[:], np.eye(4)[[0, 2]])
    assert labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match='features has 4 examples, labels has 3'):
        subsets.labelled(np.eye(4), np.zeros(3))


def test_unlabelled_examples_are_refused():
    with pytest.raises(ValueError, match=r'1 unlabelled examples .*labelled'):
        subsets.holdout_split(np.array([0, 0, -1]), 0.5, seed=0)
