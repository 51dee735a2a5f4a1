"""What the probes see of a folder with a table of labels, and the probes on it."""

import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.data import example
from simclr_jax.data.factory import open_split
from simclr_jax.modes import knn, linear_eval, results
from simclr_jax.modes.eval_data import open_eval_data
from simclr_jax.tools.plan_evaluation import _data_of_probes
from simclr_jax.train.setup import prepare
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')
CLASSES = ('bright', 'dark')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A flat folder, with tables: 60 of 120 pictures have a label that is easy to see."""
    root = tmp_path_factory.mktemp('labels')
    random = np.random.default_rng(0)
    (root / 'flat').mkdir()
    rows = []
    for i in range(120):
        low = 140 if i % 2 == 0 else 0
        pixels = random.integers(low, low + 110, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(root / f'flat/{i:03}.png')
        rows.append((f'{i:03}.png', CLASSES[i % 2], 'train' if i < 40 else 'test'))
    tables = {
        'labels': rows[:60],
        'more': [(*row[:2], 'train' if i < 80 else 'test') for i, row in enumerate(rows)],
        'several': [(file, f'{label};square', split) for file, label, split in rows[:60]],
        'one': [(file, 'bright', split) for file, _, split in rows[:60]],
        'elsewhere': [(f'x/{file}', *rest) for file, *rest in rows],
    }
    for name, lines in tables.items():
        text = ''.join(f'{",".join(line)}\n' for line in lines)
        (root / f'{name}.csv').write_text('file,label,split\n' + text)
    return root


def fields(root, table='labels', **others) -> dict[str, str]:
    return {
        'data.dataset': 'folder',
        'data.path': str(root / 'flat'),
        'data.labels': str(root / f'{table}.csv') if table else '',
        'data.data_dir': str(root),
        'batch_size': '64',
    } | others


def opened(given, needed=True):
    config = load(DIGITS, given)
    return open_eval_data(config, open_split(config, config.data.train_split), needed=needed)


def labels(source):
    return [example.parse(record).label for record in source.read(range(source.num_examples))]


def test_probes_see_the_pictures_that_have_a_label_and_pretraining_all(root):
    config = load(DIGITS, fields(root))
    run = prepare(config)
    assert run.source.num_examples == 40 + 60  # those without a row, too
    assert run.source.num_classes == 2 and run.probe
    data = open_eval_data(config, run.source, needed=True)
    assert (data.train_split, data.test_split, data.seen) == ('train', 'test', 0)
    assert labels(data.train) == [0, 1] * 20 == data.train.labels.tolist()
    assert labels(data.test) == [0, 1] * 10
    assert data.train.label_names == data.test.label_names == CLASSES


def test_another_table_of_the_same_folder_is_for_the_evaluation_alone(root):
    data = opened(fields(root) | {'eval.labels': str(root / 'more.csv')})
    assert (data.train.num_examples, data.test.num_examples) == (80, 40)
    assert data.seen == 40  # 80 to 119, of which the run's table says nothing
    data = opened(fields(root, '') | {'eval.labels': str(root / 'labels.csv')})
    assert (data.train.num_examples, data.test.num_examples) == (40, 20)


def test_a_folder_for_the_evaluation_has_its_own_table(root):
    given = {'data.data_dir': str(root), 'eval.path': str(root / 'flat')}
    config = load(DIGITS, given | {'eval.labels': str(root / 'labels.csv')})
    data = open_eval_data(config, None, needed=True)
    assert (data.train.num_examples, data.test.num_examples) == (40, 20)
    config = load(DIGITS, given)
    with pytest.raises(ConfigError, match=r'has no labels, .* table that --config\.eval\.labels'):
        open_eval_data(config, None, needed=True)


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'eval.labels': 'elsewhere.csv'}, r"^eval\.labels='.*elsewhere\.csv': none of the files"),
        ({'eval.labels': 'none.csv'}, r"^eval\.labels='.*none\.csv': there is no such file"),
        (
            {'eval.labels': 'several.csv'},
            r"^eval\.labels='.*several\.csv': .* several labels, as .*: the probes take one",
        ),
        ({'eval.labels': 'one.csv'}, "has one class only, 'bright'"),
        (
            {'data.labels': 'several.csv', 'data.several_labels': 'True'},
            r"^data\.labels='.*several\.csv': a picture may have several labels .*40 of 100 have.*"
            r'--config\.eval\.labels',
        ),
    ],
)
def test_what_the_probes_cannot_use_is_named(root, given, words):
    given = {
        field: str(root / value) if value.endswith('.csv') else value
        for field, value in given.items()
    }
    with pytest.raises(ConfigError, match=words):
        opened(fields(root) | given)


def test_a_run_on_pictures_of_several_labels_has_no_probes_and_says_so(root):
    given = fields(root, 'several') | {'data.several_labels': 'True'}
    data = opened(given, needed=False)
    assert not data.labelled and 'several labels' in data.notes[0]
    run = prepare(load(DIGITS, given))
    assert run.probe is None and run.source.several.shape == (100, 3)
    assert 'label' not in run.abstract_batch()


@pytest.mark.parametrize('probe', [knn, pytest.param(linear_eval, marks=pytest.mark.slow)])
def test_probes_tell_the_classes_of_a_table_apart(root, probe, tmp_path):
    file = tmp_path / 'tiny.safetensors'
    native.save(file, random_weights(Architecture('resnet_tiny', stem='small'), size=8, channels=3))
    given = fields(root) | {
        'eval.batch_size': '64',
        'eval.baselines': 'False',
        'linear_eval.labels_per_class': '()',
        'knn.labels_per_class': '()',
    }
    probe.main(load(DIGITS, given), str(tmp_path / 'out'), encoder=str(file))
    name = probe.__name__.rpartition('.')[2]
    figures = results.figures(results.read(tmp_path / 'out')[name])
    assert figures['encoder']['all']['mean'] == 1.0


def test_a_plan_counts_the_pictures_that_the_probes_table_is_for(root):
    others = {'eval.path': str(root / 'flat'), 'eval.labels': str(root / 'more.csv')}
    for more, table in (
        (others, 'more'),
        ({'eval.labels': others['eval.labels']}, 'more'),
        ({}, 'labels'),
    ):
        data = _data_of_probes(load(DIGITS, fields(root) | more)).data
        assert (data.path, data.labels) == (str(root / 'flat'), str(root / f'{table}.csv'))
    data = _data_of_probes(load(DIGITS, fields(root) | {'eval.path': str(root)})).data
    assert (data.path, data.labels) == (str(root), '')
