"""What the report says of its own figures."""

from simclr_jax.modes import reporting, results

ENTRY = {
    'encoder': {'all': {'mean': 0.46, 'std': 0.0}},
    'step': 900,
    'data': {
        'name': 'clothes',
        'train_split': 'train',
        'test_split': 'test',
        'train_pictures': 3068,
        'test_pictures': 372,
        'largest_class': 0.26,
        'pretrained_on': 0,
    },
    'settings': {},
}


def test_the_data_and_the_largest_class_stand_beside_the_figures():
    result = {'knn': ENTRY, 'linear_eval': ENTRY, 'pretrain': {'seconds': 3.0}}
    [about] = results.by_subject(result)
    first, second = reporting._notes(about, result)
    assert first == f'On {about}.' and '372 pictures of clothes (test)' in first
    assert second == 'Always guessing the largest class would give 26.0.'


def test_figures_of_two_steps_are_not_mixed_without_a_word():
    result = {'knn': ENTRY, 'linear_eval': ENTRY | {'step': 800}}
    tables = results.by_subject(result)
    rows = reporting._table(tables)
    assert len(tables) == 2 and len(rows) == 2
    assert any('step 800' in row for row in rows) and any('step 900' in row for row in rows)
