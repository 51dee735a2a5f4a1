"""`--mode=transfer`, with folders, data sets that are made here, and a small VOC of TFDS's kind."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.data.sources import open_data
from simclr_jax.evaluate import transfer_sets
from simclr_jax.modes import transfer, transfer_data
from simclr_jax.modes.transfer_data import choose
from simclr_jax.report.transfer import format_transfer, transfer_table
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture, Preprocess

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tests/weights'))
from random_weights import random_weights  # noqa: E402

TINY = Architecture('resnet_tiny', stem='small', padding='simclr')
COLOURS = {'blue': (20, 20, 200), 'green': (20, 200, 20), 'red': (200, 20, 20)}


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'mine.safetensors'
    native.save(path, random_weights(TINY, size=8))
    return str(path)


@pytest.fixture(autouse=True)
def few_strengths(monkeypatch):
    monkeypatch.setattr(transfer, 'STRENGTHS', (1e-3, 1.0))


@pytest.fixture(autouse=True, scope='module')
def tfds_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TFDS_DATA_DIR', str(tmp_path_factory.mktemp('tfds')))
        yield


def draw(folder, count, seed):
    rng = np.random.RandomState(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(colour + 60 * rng.randn(12, 10, 3), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f'{i}.png')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('pictures')
    for i, split in enumerate(('train', 'val', 'test')):
        draw(root / split, (8, 4, 5)[i], i)
    (root / 'train/red/broken.png').write_bytes(b'no picture')
    return root


@pytest.fixture(scope='module')
def done(folder, encoder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('done')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, 'STRENGTHS', (1e-3, 1.0))
        transfer.main(encoder=encoder, data=str(folder), workdir=str(workdir))
    return workdir


@pytest.mark.slow
def test_a_folder_is_evaluated(done, folder):
    entry = json.loads((done / 'result.json').read_text())['transfer']
    assert list(entry['sets']) == [str(folder)]
    found = entry['sets'][str(folder)]
    data = found['data']
    counts = [data[f'{part}_pictures'] for part in ('train', 'validation', 'test', 'bad')]
    assert counts == [24, 12, 15, 1] and data['classes'] == 3
    assert data['validation'] == 'split validation' and data['test'] == 'split test'
    assert found['metric'] == 'top_1' and found['value'] > 0.6 and found['converged']
    assert [row['l2'] for row in found['validation']] == [1e-3, 1.0]
    assert list(found['few_shot']) == ['1', '5', '10']  # no class has 25
    assert 'published' not in found
    assert not list((done / 'features').iterdir())
    page = (done / 'transfer.html').read_text()
    assert str(folder) in page and entry['weights']['checksum'] in page
    assert '1 could not be read' in page


@pytest.mark.slow
def test_the_same_command_makes_nothing_twice(done, folder, encoder, capsys):
    before = (done / 'result.json').read_text()
    transfer.main(encoder=encoder, data=str(folder), workdir=str(done))
    assert 'its figures are there already' in capsys.readouterr().out
    assert (done / 'result.json').read_text() == before


@pytest.mark.slow
def test_other_weights_need_another_workdir(done, folder, tmp_path):
    native.save(tmp_path / 'other.safetensors', random_weights(TINY, size=8, mean=(0.5,)))
    with pytest.raises(ConfigError, match=r'holds the figures of .*mine\.safetensors'):
        transfer.main(
            encoder=str(tmp_path / 'other.safetensors'), data=str(folder), workdir=str(done)
        )


@pytest.mark.slow
def test_an_interrupted_command_keeps_the_features(folder, encoder, tmp_path, monkeypatch, capsys):
    whole = transfer.transfer_eval
    monkeypatch.setattr(transfer, 'transfer_eval', lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        transfer.main(encoder=encoder, data=str(folder), workdir=str(tmp_path))
    monkeypatch.setattr(transfer, 'transfer_eval', whole)
    capsys.readouterr()
    transfer.main(encoder=encoder, data=str(folder), workdir=str(tmp_path))
    assert 'going on: 52 pictures are done' in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_missing_is_held_out_of_the_training_pictures(encoder, tmp_path):
    draw(tmp_path / 'flat', 10, 0)
    draw(tmp_path / 'two/train', 10, 0)
    draw(tmp_path / 'two/test', 4, 1)
    names = [str(tmp_path / 'flat'), str(tmp_path / 'two'), 'digits']
    colour = random_weights(TINY, size=8)
    native.save(tmp_path / 'colour.safetensors', colour)
    transfer.main(encoder=encoder, data=','.join(names), workdir=str(tmp_path / 'out'))
    entry = json.loads((tmp_path / 'out/result.json').read_text())['transfer']
    counts = {
        name: tuple(one['data'][f'{part}_pictures'] for part in ('train', 'validation', 'test'))
        for name, one in entry['sets'].items()
    }
    assert counts[names[0]] == (18, 6, 6) and counts[names[1]] == (24, 6, 12)
    assert sum(counts['digits']) == 1797 and entry['sets']['digits']['value'] > 0.5
    assert list(entry['sets']['digits']['few_shot']) == ['1', '5', '10', '25']
    text = format_transfer(entry)
    assert text.count('held out of the training pictures') == 4 and 'digits' in text


def flat(root, count):
    """Pictures in one folder; returns the names of each, and what colours it has, one or two."""
    rng, found = np.random.RandomState(0), {}
    root.mkdir()
    for i in range(count):
        colours = sorted(rng.choice(sorted(COLOURS), 1 + i % 2, replace=False))
        pixels = np.mean([COLOURS[colour] for colour in colours], axis=0) + 40 * rng.randn(
            12, 10, 3
        )
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / f'{i:03}.png')
        found[f'{i:03}.png'] = colours
    return found


@pytest.mark.slow
@pytest.mark.parametrize('several', [False, True])
def test_a_folder_with_a_table_of_labels(encoder, tmp_path, several, capsys):
    """Without sub-folders; with splits; pictures without a label have no part in it."""
    given = flat(tmp_path / 'in', 90)
    rows = ['file,label,split']
    for i, (name, colours) in enumerate(given.items()):
        label = ';'.join(colours) if several else colours[0]
        label = label if i < 80 else 'purple' if i == 83 else ''
        rows.append(f'{name},{label},{("train", "train", "val", "test")[i % 4]}')
    rows.append('gone.png,red,test')
    table = tmp_path / 'labels.csv'
    table.write_text('\n'.join(rows))
    arguments = {'encoder': encoder, 'data': str(tmp_path / 'in'), 'labels': str(table)}
    transfer.main(**arguments, workdir=str(tmp_path / 'out'))
    said = capsys.readouterr().out
    for words in (
        '1 file of the table is not there: gone.png (line 92)',
        '9 of 90 pictures have no label',
        '1 of 4 classes has one example: purple',
        '1 class of test is not in train, so that nothing can learn it: purple',
    ):
        assert words in said and said.index(words) < said.index('pictures/s')
    entry = json.loads((tmp_path / 'out/result.json').read_text())['transfer']
    (found,) = entry['sets'].values()
    counts = [found['data'][f'{part}_pictures'] for part in ('train', 'validation', 'test')]
    assert counts == [40, 20, 21] and found['data']['classes'] == 4 and found['converged']
    assert found['metric'] == ('mean_average_precision_11' if several else 'top_1')
    # One test picture of 21, or one class of four, cannot be learned.
    assert found['value'] > (0.6 if several else 0.4) and ('few_shot' in found) != several
    with pytest.raises(ConfigError, match=r'--labels=.* is the table of one folder, .* names 2'):
        transfer.main(**arguments | {'data': f'{tmp_path / "in"},digits'}, workdir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"--labels='.*': is for a folder .*'digits' is a data"):
        transfer.main(**arguments | {'data': 'digits'}, workdir=str(tmp_path))


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(done, encoder, folder, tmp_path):
    """Real ones; each has two devices, over which the examples of all are spread."""
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'PYTHONPATH': str(ROOT),
        'JAX_NUM_CPU_DEVICES': '2',
    }

    def start(workdir, *flags):
        flags = ('--mode=transfer', f'--encoder={encoder}', f'--data={folder}', *flags)
        command = [sys.executable, '-c', PROGRAM, *flags, f'--workdir={tmp_path / workdir}']
        how = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **how)

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        together = (f'--coordinator=127.0.0.1:{free.getsockname()[1]}', '--num_processes=2')
    processes = [start('two', *together, f'--process_id={i}') for i in range(2)]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    one, two = (
        json.loads((workdir / 'result.json').read_text())['transfer']['sets'][str(folder)]
        for workdir in (done, tmp_path / 'two')
    )
    for row in one['validation']:
        row['objective'] = pytest.approx(row['objective'], rel=1e-7)
    assert two == one
    assert not list((tmp_path / 'two/features').iterdir())


PROGRAM = """
import sys
from simclr_jax import cli
from simclr_jax.modes import transfer
transfer.STRENGTHS = (1e-3, 1.0)
sys.exit(cli.main(sys.argv[1:]))
"""


def make_voc(data_dir):
    """A builder of TFDS's name and features: a picture is red where it has class 0, ..."""
    tfds = pytest.importorskip('tensorflow_datasets', reason='has the builder')
    from tensorflow_datasets.object_detection.voc import Voc as Original

    class Voc(Original):
        name = 'voc'

        def _split_generators(self, dl_manager):
            parts = {'train': 40, 'validation': 30, 'test': 30}
            return {name: self._generate_examples(name, n) for name, n in parts.items()}

        def _generate_examples(self, name, count):
            rng = np.random.RandomState(len(name))
            for i in range(count):
                there = rng.rand(3) < 0.5
                difficult = rng.rand(3) < 0.1
                pixels = np.where(there, 200, 50) + 20 * rng.randn(9, 9, 3)
                yield (
                    i,
                    {
                        'image': np.clip(pixels, 0, 255).astype(np.uint8),
                        'image/filename': f'{i}.jpg',
                        'objects': [],
                        'labels': np.flatnonzero(there).tolist(),
                        'labels_no_difficult': np.flatnonzero(there & ~difficult).tolist(),
                    },
                )

    builder = Voc(config='2007', data_dir=data_dir, file_format='array_record')
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )


@pytest.mark.slow
def test_voc_has_several_labels_a_picture(encoder, tmp_path, monkeypatch):
    tfds = pytest.importorskip('tensorflow_datasets', reason='has the builder')
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
    with tfds.core.registered.skip_registration():
        make_voc(str(tmp_path / 'tfds'))
    assert set(open_data('voc/2007', '').splits) == {'train', 'validation', 'test'}
    transfer.main(encoder=encoder, data='voc2007', workdir=str(tmp_path / 'out'))
    entry = json.loads((tmp_path / 'out/result.json').read_text())['transfer']
    found = entry['sets']['voc2007']
    assert found['metric'] == 'mean_average_precision_11' and found['value'] > 0.8
    assert found['data']['train_pictures'] == 40 and 'few_shot' not in found
    assert found['published'] == {'left_out': 'they are of a ResNet-50 and its own features'}


def test_published_figures_need_the_same_recipe():
    one = choose_known('dtd')
    fifty = Architecture('resnet50')

    def published(architecture=fifty, fitted=3760, tested=1880, **see):
        weights = type('W', (), {'architecture': architecture})()
        weights.preprocess = Preprocess(**({'size': 224} | see))
        return transfer._published(one, weights, fitted, tested)

    assert published() == {'percent': transfer_sets.published('dtd')}
    assert published()['percent']['BYOL'] == 75.5
    assert 'percent' not in published(Architecture('resnet50', width=2))
    assert 'percent' not in published(Architecture('resnet18'))
    assert 'percent' not in published(size=160)
    assert 'percent' not in published(crop=0.875)
    assert 'percent' not in published(interpolation='bilinear')
    assert published(fitted=3000)['left_out'] == 'they are of other numbers of pictures'


def test_published_figures_are_columns():
    row = {
        'metric': 'top_1',
        'value': 0.5,
        'l2': 1.0,
        'few_shot': {'5': {'mean': 0.25, 'std': 0.01}},
        'published': {'percent': {'BYOL': 75.5}},
    }
    sets = {'dtd': row, 'mine': {'metric': 'mean_per_class', 'value': 0.125, 'l2': 1e-6}}
    header, lines = transfer_table({'sets': sets})
    assert header == ['data', 'measure', 'linear', 'l2', '5-shot', 'BYOL']
    assert lines[0] == ['dtd', 'top-1', '50.0', '1', '25.0 +- 1.0', '75.5']
    assert lines[1] == ['mine', 'mean per class', '12.5', '1e-06', '-', '-']


def choose_known(name):
    known = transfer_sets.SETS[name]
    return transfer_data.Chosen(name, known.dataset, known)


def test_what_data_names(folder, tmp_path):
    (one,) = choose(f'birdsnap={folder}')
    assert (one.name, one.place, one.known.classes) == ('birdsnap', str(folder), 500)
    two = choose(f'{folder},digits')
    assert [(one.name, one.known) for one in two] == [(str(folder), None), ('digits', None)]
    comma = tmp_path / 'a,b'
    draw(comma, 1, 0)
    assert [one.place for one in choose(str(comma))] == [str(comma)]


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ('digits,digits', 'digits is named twice'),
        ('aircraft', 'does not have FGVC Aircraft; give a folder train/VARIANT'),
        ('food101', 'simclr_jax.data.prepare food101'),
        ('sun397', 'simclr_jax.data.prepare sun397/standard-part1-120k'),
        ('bird_snap=somewhere', "'bird_snap' is no data set of the papers; did you mean"),
        ('voc2007=somewhere', 'several labels a picture'),
        ('/no/such/folder', '/no/such/folder'),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(data, message, encoder, tmp_path):
    with pytest.raises(ConfigError, match=message):
        transfer.main(encoder=encoder, data=data, workdir=str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_folders_that_cannot_be_used_say_why(folder, encoder, tmp_path):
    out = str(tmp_path / 'out')
    with pytest.raises(ConfigError, match=r'has no labels.*Make folders CLASS/'):
        transfer.main(encoder=encoder, data=str(folder / 'test/red'), workdir=out)
    with pytest.raises(ConfigError, match='has 3 classes, where Birdsnap has 500'):
        transfer.main(encoder=encoder, data=f'birdsnap={folder}', workdir=out)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/config.json').write_text('{}')
    with pytest.raises(ConfigError, match='holds a run, whose figures'):
        transfer.main(encoder=encoder, data=str(folder), workdir=str(tmp_path / 'run'))
    assert not (tmp_path / 'out').exists()
