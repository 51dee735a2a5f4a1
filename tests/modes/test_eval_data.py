"""What the probes see: no test picture in training, and every problem before the training."""

import itertools
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.data import folder_index, splits
from simclr_jax.data.factory import open_split
from simclr_jax.modes.eval_data import open_eval_data, too_few_labels
from simclr_jax.modes.probes import check_protocol
from simclr_jax.train.setup import prepare

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny_stl

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('tfds')


@pytest.fixture(scope='module', params=['array_record', 'tfrecord'])
def stl(request, data_dir):
    """The fields of a config on the data set in one of the two formats."""
    place = data_dir / request.param
    if not place.exists():
        tiny_stl.prepare(str(place), request.param)
    return {'data.dataset': 'tiny_stl', 'data.data_dir': str(place)}


def make_folder(root: pathlib.Path, classes: dict[str, int]) -> pathlib.Path:
    """Pictures of noise, no two alike: `{sub-folder: how many}`."""
    random = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f'{i:03}.png')
    return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp('pictures'), {'cat': 60, 'dog': 60})


def of_folder(path, data_dir) -> dict[str, str]:
    return {'data.dataset': 'folder', 'data.path': str(path), 'data.data_dir': str(data_dir)}


def opened(fields: dict[str, str], needed: bool = False):
    config = load(DIGITS, fields)
    return open_eval_data(config, open_split(config, config.data.train_split), needed=needed)


def records(source) -> list[bytes]:
    return source.read(range(source.num_examples))


def assert_disjoint(data, fields, want_test: str | None = None) -> None:
    """By the bytes of every record, which no two pictures share."""
    train, test = records(data.train), records(data.test)
    assert train and test and not set(train) & set(test)
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    if want_test:
        config = load(DIGITS, fields)
        assert test == records(open_split(config, want_test))


SLICES = (
    'train',
    'test',
    'train+test',
    'train[:60%]',
    'train[60%:]',
    'train[24:]',
    'test[:9]+train',
)


PAIRS = [*itertools.product(SLICES, SLICES), *((one, '') for one in SLICES)]


@pytest.mark.parametrize(
    ('stl', 'train', 'test'),
    [('array_record', *pair) for pair in PAIRS] + [('tfrecord', *pair) for pair in PAIRS[::5]],
    indirect=['stl'],
)
def test_no_slice_of_a_data_set_leaks_its_test_pictures(train, test, stl):
    """Named for the probes, or pretrained on and taken by default."""
    for field in ('eval.train_split', 'data.train_split'):
        fields = stl | {field: train, 'eval.test_split': test}
        try:
            data = opened(fields)
        except ConfigError as error:
            assert 'every picture of it is in eval.test_split=' in str(error)
            config = load(DIGITS, fields)
            inside = set(records(open_split(config, test or 'test')))
            assert set(records(open_split(config, train))) <= inside
            continue
        if not data.labelled:  # nothing is named, and the whole split is the default test split
            assert (field, train, test) == ('data.train_split', 'test', '')
            continue
        assert_disjoint(data, fields, test or 'test')
        whole = records(open_split(load(DIGITS, fields), train))
        assert set(records(data.train)) == set(whole) - set(records(data.test))


@pytest.mark.parametrize('train', ['', 'train', 'test', 'all'])
@pytest.mark.parametrize('test', ['', 'train', 'test', 'all'])
def test_no_split_of_a_folder_leaks_its_test_pictures(train, test, folder, data_dir):
    fields = of_folder(folder, data_dir) | {'eval.train_split': train, 'eval.test_split': test}
    if (train or 'train') == (test or 'test') or test == 'all':
        with pytest.raises(ConfigError, match=r'eval\.train_split=.*eval\.test_split='):
            opened(fields)
    else:
        assert_disjoint(opened(fields), fields, test or 'test')


@pytest.mark.parametrize('split', ['train', 'all'])
def test_pretraining_on_all_of_a_folder_leaves_its_test_pictures_to_the_test(
    split, folder, data_dir
):
    fields = of_folder(folder, data_dir) | {'data.train_split': split}
    data = opened(fields)
    assert (data.train_split, data.test_split) == ('train', 'test')
    assert_disjoint(data, fields, 'test')
    assert data.seen == (data.test.num_examples if split == 'all' else 0)
    assert any('pretrained on, without' in note for note in data.notes) == (split == 'all')


@pytest.mark.parametrize('train', ['', 'train+test', 'train[:50%]'])
def test_no_slice_of_the_digits_leaks(train, data_dir):
    fields = {'data.data_dir': str(data_dir), 'eval.train_split': train}
    data = opened(fields)
    # Two of the 1,797 digits are pixel for pixel the same, so records are told apart by place.
    assert not splits.shared(data.train, data.test).any()
    assert data.test.num_examples == 500
    assert data.train.num_examples == (648 if '50' in train else 1297)


def test_a_part_of_a_folder_is_told_from_the_whole(folder, data_dir):
    """`eval.path` inside of `data.path`, written otherwise."""
    make_folder(folder / 'cat', {'black': 30, 'white': 30})
    inside = str(folder / 'dog/../cat')
    fields = of_folder(folder, data_dir) | {'data.train_split': 'all', 'eval.path': inside}
    config = load(DIGITS, fields | {'eval.train_split': 'train'})
    with pytest.raises(ConfigError, match=r"eval.train_split='train': .*cat has no labels"):
        open_eval_data(config, open_split(config, 'all'), needed=False)  # pictures beside folders
    for path in (folder / 'cat').glob('*.png'):
        path.unlink()
    data = opened(fields)
    assert data.train.label_names == ('black', 'white') and data.seen == data.test.num_examples


def test_stl10_pretrains_on_what_has_no_labels_and_probes_what_has(stl):
    data = opened(stl | {'data.train_split': 'unlabelled'})
    assert (data.train_split, data.test_split, data.labelled) == ('train', 'test', True)
    assert (data.train.num_examples, data.test.num_examples, data.seen) == (40, 30, 0)
    named = {'eval.train_split': 'train[:50%]', 'eval.test_split': 'test[:50%]'}
    data = opened(stl | {'data.train_split': 'unlabelled'} | named)
    assert (data.train.num_examples, data.test.num_examples) == (20, 15)


def test_another_data_set_and_another_folder(stl, folder, data_dir, tmp_path):
    tiny_stl.prepare(str(tmp_path), 'array_record')
    fields = of_folder(folder, tmp_path) | {'eval.dataset': 'tiny_stl'}
    data = opened(fields)
    assert (data.name, data.train_split, data.test_split) == ('tiny_stl', 'train', 'test')
    labelled = make_folder(tmp_path / 'labelled', {'a': 40, 'b': 40})
    data = opened(stl | {'eval.path': str(labelled), 'data.train_split': 'unlabelled'})
    assert data.name == str(labelled) and data.train.label_names == ('a', 'b')
    with pytest.raises(ConfigError, match=r"eval.dataset='digits': .* 1 channel.* have 3"):
        opened(stl | {'eval.dataset': 'digits', 'data.data_dir': stl['data.data_dir']})


@pytest.mark.parametrize(('test', 'split'), [('test', 'test'), ('val', 'validation')])
def test_a_labelled_pair_of_folders_is_trained_and_tested_on(folder, tmp_path, test, split):
    pair = {'train/cat': 20, 'train/dog': 20, f'{test}/cat': 5, f'{test}/dog': 6}
    path = make_folder(tmp_path / 'pair', pair)
    data = opened(of_folder(folder, tmp_path) | {'eval.path': str(path)}, needed=True)
    assert (data.train_split, data.test_split, data.seen) == ('train', split, 0)
    assert (data.train.num_examples, data.test.num_examples) == (40, 11)
    assert data.train.label_names == data.test.label_names == ('cat', 'dog')
    assert not set(records(data.train)) & set(records(data.test)) and not data.notes
    own = opened(of_folder(path, tmp_path), needed=True)  # as the data of the pretraining, too
    assert (own.train.num_examples, own.test.num_examples, own.seen) == (40, 11, 0)


def test_a_folder_is_looked_through_once_a_run(folder, tmp_path, monkeypatch):
    read, walked = folder_index.read_index, []
    monkeypatch.setattr(
        folder_index, 'read_index', lambda path, *rest: walked.append(path) or read(path, *rest)
    )
    opened(of_folder(folder, tmp_path))
    assert walked == [str(folder)]
    other = make_folder(tmp_path / 'other', {'a': 40, 'b': 40})
    opened(of_folder(folder, tmp_path) | {'eval.path': str(other)})
    assert walked[1:] == [str(folder), str(other)]


@pytest.mark.parametrize(
    ('classes', 'words'),
    [
        (None, "eval.path='{}': is not there"),
        ({}, "eval.path='{}': holds no picture"),
        ({'.': 30}, "eval.path='{}': its split 'train' has no labels, which are the names"),
        ({'cat': 30}, "eval.path='{}': its split 'train' has no labels, which are the names"),
        ({'cat': 30, '.': 1}, "eval.path='{}': its split 'train' has no labels, which are"),
        ({'cat': 2, 'dog': 2}, "eval.path='{}': its split 'train' has no class of 3 pictures"),
    ],
)
def test_a_folder_to_evaluate_on_is_looked_at_before_training(classes, words, data_dir, tmp_path):
    place = tmp_path / 'labelled'
    if classes is not None:
        place.mkdir()
        make_folder(place, classes)
    fields = {'data.data_dir': str(data_dir), 'eval.path': str(place)}
    with pytest.raises(ConfigError) as error:
        opened(fields)
    assert words.format(place) in str(error.value), error.value
    assert 'data.path' not in str(error.value) and len(str(error.value).splitlines()) == 1
    assert '--config.eval.train_split' not in str(error.value)  # none of its splits has labels


@pytest.mark.parametrize(
    ('named', 'words'),
    [
        ({'eval.train_split': 'unlabelled'}, "'unlabelled': this split of tiny_stl has no labels"),
        ({'eval.test_split': 'unlabelled'}, "'unlabelled': this split of tiny_stl has no labels"),
        ({'eval.test_split': 'validation'}, "eval.test_split='validation': .* is not one of"),
        ({'eval.train_split': 'trian'}, "eval.train_split='trian': .* is not one of"),
        ({'eval.train_split': 'train[:1]'}, "eval.train_split='train.:1.': .* one class only"),
        ({'eval.train_split': 'train[:2]'}, 'has no class of 3 pictures|one class only'),
        ({'eval.dataset': 'mnist'}, "eval.dataset='mnist': is not prepared"),
    ],
)
def test_what_is_named_and_has_no_labels_is_an_error_before_training(named, words, stl):
    with pytest.raises(ConfigError, match=words) as error:
        opened(stl | named)
    assert len(str(error.value).splitlines()) == 1


def test_data_without_labels_pretrain_and_say_so_before_and_a_probe_is_refused(stl, tmp_path):
    one_class = make_folder(tmp_path / 'one', {'cat': 40})
    two = make_folder(tmp_path / 'two', {'cat': 1, 'dog': 1})
    for path in (one_class, two):
        fields = of_folder(path, tmp_path) | {'data.train_split': 'all'}
        data = opened(fields)
        assert not data.labelled and len(data.notes) == 1
        assert data.notes[0].startswith('no probes: ') and '\n' not in data.notes[0]
        assert ('--config.eval.path=DIR' in data.notes[0]) == (path == one_class)
        assert data.train.num_examples and data.test.num_examples
        with pytest.raises(ConfigError):
            opened(fields, needed=True)


def test_without_a_test_split_the_probes_are_tested_on_a_tenth_of_the_training_split(
    stl, monkeypatch
):
    from simclr_jax.modes import eval_data

    monkeypatch.setattr(eval_data, '_TEST_SPLITS', ('validation',))  # which this data set lacks
    data = opened(stl)
    assert data.labelled and data.seen == 4
    assert (data.train.num_examples, data.test.num_examples) == (36, 4)
    assert_disjoint(data, stl)
    assert 'a tenth' in data.notes[0] and 'without their labels' in data.notes[1]
    fields = stl | {'data.train_split': 'unlabelled', 'eval.train_split': 'train'}
    assert opened(fields).seen == 0


def test_a_class_that_is_too_small_for_a_draw_is_said_before_training(tmp_path):
    path = make_folder(tmp_path / 'pictures', {'cat': 60, 'dog': 60, 'owl': 6})
    notes = opened(of_folder(path, tmp_path)).notes
    assert len(notes) == 2  # linear_eval and knn
    for note in notes:
        assert "10 labels a class are left out, since 'owl' has only" in note
    labels = np.array([0, 0, 0, 1, -1])
    assert too_few_labels(labels, (1,), ('a', 'b')) is None
    assert '3 and 2 labels' in too_few_labels(labels, (3, 2, 1), ('a', 'b'))


def test_a_papers_batch_is_compared_with_what_the_probe_is_trained_on(data_dir, folder):
    """Not with the pretraining's 1,297 digits."""
    fields = {
        'data.data_dir': str(data_dir),
        'data.train_split': 'train+test',
        'batch_size': '64',
        'linear_eval.protocol': 'byol',
        'linear_eval.batch_size': '1024',
    }
    run = prepare(load(DIGITS, fields | {'eval.train_split': 'train[:80%]'}))
    data = open_eval_data(run.config, run.source, needed=True)
    with pytest.raises(ConfigError, match='the probe has 1038 training examples'):
        check_protocol(run.config, data.train, 'resnet_tiny', run.mesh)
    run = prepare(load(DIGITS, fields))
    data = open_eval_data(run.config, run.source, needed=True)
    protocol = check_protocol(run.config, data.train, 'resnet_tiny', run.mesh)
    assert protocol.batch_size == 1024  # of 1,297


def test_labels_are_read_whole_or_spread_over_a_large_split(data_dir, monkeypatch):
    config = load(DIGITS, {'data.data_dir': str(data_dir)})
    source = open_split(config, 'train')
    labels = splits.read_labels(source)
    assert labels.exact and len(labels.values) == 1297 and sum(labels.counts().values()) == 1297
    monkeypatch.setattr(splits, '_BYTES', 0)
    sample = splits.read_labels(source)
    assert not sample.exact and len(sample.values) == splits._LEAST
    places = np.linspace(0, 1296, splits._LEAST).astype(int)
    np.testing.assert_array_equal(sample.values, labels.values[places])
