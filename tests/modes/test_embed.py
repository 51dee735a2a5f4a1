"""--mode=embed: tables, what goes wrong, and runs that are killed."""

import csv
import errno
import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import simclr_jax
from simclr_jax import interruption
from simclr_jax.config import ConfigError, RunError
from simclr_jax.evaluate import embedding, parts, tables
from simclr_jax.modes import embed
from simclr_jax.weights import description, native
from simclr_jax.weights.description import Architecture
from simclr_jax.weights.encoder import Encoder

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'weights'))
from random_weights import random_weights  # noqa: E402

TINY = Architecture('resnet_tiny', stem='small')


@functools.cache
def once(path, time, load=simclr_jax.load):
    """An encoder that is compiled once for all tests."""
    return load(path)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(interruption, 'install', lambda *_: None)
    monkeypatch.setattr(
        simclr_jax,
        'load',
        lambda path: once(path, os.path.exists(path) and os.stat(path).st_mtime_ns),
    )


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    """Files of encoders of 1 and 3 channels."""
    root = tmp_path_factory.mktemp('encoders')
    for channels in (1, 3):
        native.save(root / f'{channels}.safetensors', random_weights(TINY, 16, channels=channels))
    return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Forty pictures of two classes, and three files that are none."""
    root = tmp_path_factory.mktemp('pictures')
    draw(root, 40)
    (root / 'a' / 'bad.jpg').write_bytes(b'no picture')
    (root / 'b' / '0empty.png').write_bytes(b'')
    (root / 'b' / 'lost.png').symlink_to('nowhere')
    return root


def draw(root, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        path = root / 'ab'[i % 2] / f'{i:04d}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (18, 16 + i % 5, 3), np.uint8)).save(path)


def run(encoder, folder, output, channels=3, **options):
    path = str(encoder / f'{channels}.safetensors')
    embed.main(encoder=path, data=str(folder), output=str(output), **options)
    return output


@pytest.mark.parametrize('several', [False, True])
def test_labels_and_splits_of_a_table_are_in_the_table_of_vectors(
    several, encoder, folder, tmp_path, capsys
):
    lines = ['file,label,split', 'a/0000.png,cat,train', 'b/0001,dog,test', 'gone.png,dog,test']
    if several:
        lines += ['a/0000.png,animal,train', 'a/0002.png,cat|tree,']
    labels = tmp_path / 'labels.csv'
    labels.write_text('\n'.join(lines))
    path = run(encoder, folder, tmp_path / 'v.parquet', labels=str(labels), neighbours=several)
    table = pq.read_table(path)
    found = {
        row['file']: (row['label'], row['split'])
        for row in table.select(['file', 'label', 'split']).to_pylist()
    }
    assert len(found) == 40 and found['b/0001.png'] == ('dog', 'test')
    assert found['a/0000.png'] == ('animal;cat' if several else 'cat', 'train')
    assert found['a/0002.png'] == ('cat;tree' if several else None, 'train')
    assert found['a/0004.png'] == (None, 'train')
    assert f"--labels='{labels}'" not in capsys.readouterr().err
    # The table that was written gives the same labels again.
    pq.write_table(table.drop_columns('embedding'), tmp_path / 'again.parquet')
    again = run(encoder, folder, tmp_path / 'w.csv', labels=str(tmp_path / 'again.parquet'))
    with again.open() as file:
        rows = {row['file']: (row['label'] or None, row['split']) for row in csv.DictReader(file)}
    assert rows == found


def test_a_table_of_labels_that_is_wrong_is_refused_before_the_encoder_is_read(
    encoder, folder, tmp_path
):
    with pytest.raises(ConfigError, match=r"^--labels='none\.csv': there is no such file"):
        run(encoder / 'nowhere', folder, tmp_path / 'v.parquet', labels='none.csv')
    (tmp_path / 'labels.csv').write_text('name,kind\n')
    with pytest.raises(ConfigError, match=r"^--labels=.*its columns are 'name', 'kind'"):
        run(encoder, folder, tmp_path / 'v.parquet', labels=str(tmp_path / 'labels.csv'))
    with pytest.raises(ConfigError, match=r"^--labels='l\.csv': is for a folder of pictures"):
        run(encoder, 'cifar10', tmp_path / 'v.parquet', labels='l.csv')


def test_a_table_holds_what_the_encoder_makes_of_every_picture(
    encoder, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(parts, 'ROWS', 16)  # several parts, the last one not full
    path = run(encoder, folder, tmp_path / 'v.parquet')
    table = pq.read_table(path)
    files, vectors = table['file'].to_pylist(), np.stack(table['embedding'].to_numpy())
    assert files == sorted(str(p.relative_to(folder)) for p in folder.glob('*/[0-9]???.png'))
    assert table['label'].to_pylist() == [name[0] for name in files]
    loaded = Encoder(native.read(encoder / '3.safetensors'))
    want = loaded([folder / name for name in files])
    np.testing.assert_allclose(vectors, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    said = json.loads(table.schema.metadata[b'simclr_jax'])
    assert said['encoder']['checksum'] == native.checksum(loaded.weights)
    assert said['encoder']['preprocess']['size'] == 16
    assert (said['pictures'], said['bad_pictures']) == (40, 3)
    assert sorted(os.listdir(tmp_path)) == ['v.parquet', 'v.parquet.bad.txt']
    lines = (tmp_path / 'v.parquet.bad.txt').read_text().splitlines()
    assert dict(line.split('\t') for line in lines) == {
        'a/bad.jpg': 'not a picture',
        'b/0empty.png': 'empty',
        'b/lost.png': 'a link to nothing',
    }
    assert '3 bad pictures are left out: ' in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['.npz', '.csv'])
def test_other_kinds_of_table_hold_the_same(encoder, folder, tmp_path, suffix):
    table = pq.read_table(run(encoder, folder, tmp_path / 'v.parquet'))
    path = run(encoder, folder, tmp_path / f'v{suffix}')
    if suffix == '.npz':
        with np.load(path) as found:
            files, labels, vectors = found['file'], found['label'], found['embedding']
    else:
        _, *rows = csv.reader(path.read_text().splitlines())
        files, labels = ([row[i] for row in rows] for i in (0, 1))
        vectors = np.array([row[2:] for row in rows], np.float32)
    assert list(files) == table['file'].to_pylist()
    assert list(labels) == table['label'].to_pylist()
    np.testing.assert_array_equal(vectors, np.stack(table['embedding'].to_numpy()))


def test_a_data_set_has_its_splits_and_labels(encoder, tmp_path):
    path = tmp_path / 'v.parquet'
    embed.main(encoder=str(encoder / '1.safetensors'), data='digits', output=str(path))
    table = pq.read_table(path)
    assert table.column_names == ['file', 'split', 'label', 'embedding']
    split = np.array(table['split'].to_pylist())
    assert (split == 'train').sum() == 1297 and (split == 'test').sum() == 500
    labels = np.array(table['label'].to_pylist(), int)[split == 'test']
    assert np.bincount(labels).tolist() == [50] * 10


@pytest.mark.parametrize(
    'options, words',
    [
        ({'output': '{}/v.txt'}, '--output=.*must end in .parquet, .npz or .csv'),
        ({'output': '{}'}, '--output=.*must end in .parquet'),
        ({'output': '{}/no/v.csv'}, '--output=.*there is no folder .*/no; make it first'),
        ({'output': 'gs://bucket/v.csv'}, '--output=gs.*not written into a bucket'),
        ({'data': '{}/nowhere'}, '--data=.*nowhere.*is not there'),
        ({'data': '{}'}, '--data=.*holds no picture, as no file below it ends in .jpg'),
        ({'data': 'nosuchset'}, '--data=.nosuchset.*no data set of that name is prepared'),
        (
            {'encoder': '{}/nowhere.safetensors'},
            '--encoder=.*nowhere.safetensors: there is no such file',
        ),
        ({'encoder': '1'}, '--encoder=.*takes grey pictures.*a/0000.png.*in colour'),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(encoder, folder, tmp_path, options, words):
    given = {'encoder': '3', 'data': str(folder), 'output': '{}/v.parquet'} | options
    given = {name: value.format(tmp_path) for name, value in given.items()}
    if given['encoder'] in '13':
        given['encoder'] = str(encoder / f'{given["encoder"]}.safetensors')
    with pytest.raises(ConfigError, match=words):
        embed.main(**given)
    assert os.listdir(tmp_path) == []


def test_a_name_without_a_suffix_becomes_parquet(encoder, folder, tmp_path):
    run(encoder, folder, tmp_path / 'v')
    assert (tmp_path / 'v.parquet').exists()


def test_what_is_there_stays_unless_told(encoder, folder, tmp_path):
    path = tmp_path / 'v.csv'
    path.write_text('precious')
    with pytest.raises(ConfigError, match=r'is there already\. Replace it with --overwrite'):
        run(encoder, folder, path)
    assert path.read_text() == 'precious' and os.listdir(tmp_path) == ['v.csv']
    run(encoder, folder, path, overwrite=True)
    assert path.read_text().startswith('file,label,e0')


def test_a_folder_of_bad_pictures_alone_makes_no_table(encoder, tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.jpg').write_bytes(b'no picture')
    with pytest.raises(ConfigError, match=r'none of its pictures can be read.*a\.jpg'):
        run(encoder, tmp_path / 'in', tmp_path / 'v.csv')
    assert os.listdir(tmp_path) == ['in']


def test_room_that_will_not_suffice_is_told_before(encoder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embed.shutil, 'disk_usage', lambda _: type('', (), {'free': 1000}))
    with pytest.raises(ConfigError, match=r'--output=.*GiB are free there; make room'):
        run(encoder, folder, tmp_path / 'v.csv')
    assert os.listdir(tmp_path) == []


def test_vectors_that_are_no_numbers_are_no_table(folder, tmp_path):
    weights = random_weights(TINY, 16)
    for name, value in description.flat(weights.variables).items():
        if name.endswith('bias'):
            value[:] = np.inf
    native.save(tmp_path / '3.safetensors', weights)
    with pytest.raises(RunError, match=r'a/0000\.png: the encoder makes a vector.*not finite'):
        run(tmp_path, folder, tmp_path / 'v.csv')
    assert not (tmp_path / 'v.csv').exists()


class Stopped(Exception):
    pass


def stop_after(monkeypatch, count, error=Stopped):
    """Has the part after `count` others not be saved."""
    save, saved = parts.Parts.save, []

    def saves(self, number, part):
        if len(saved) == count:
            raise error
        saved.append(number)
        save(self, number, part)

    monkeypatch.setattr(parts.Parts, 'save', saves)
    return saved


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, 'ROWS', 8)
    monkeypatch.setattr(embedding, 'ROWS', 8)


@pytest.mark.parametrize('suffix', tables.SUFFIXES)
def test_a_full_disk_loses_nothing(encoder, folder, tmp_path, suffix, small_parts, monkeypatch):
    want = run(encoder, folder, tmp_path / f'whole{suffix}')
    path = tmp_path / f'v{suffix}'
    with monkeypatch.context() as patch:
        stop_after(patch, 3, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'v'))
        with pytest.raises(OSError, match='No space left'):
            run(encoder, folder, path)
    assert not path.exists()
    assert sorted(p.name for p in (tmp_path / f'v{suffix}.parts').glob('*.npz')) == [
        f'{i:08d}.npz' for i in range(3)
    ]
    saved = stop_after(monkeypatch, 100)
    run(encoder, folder, path)
    assert saved == [3, 4, 5]  # of 42 pictures
    assert path.read_bytes() == want.read_bytes()
    assert (tmp_path / f'v{suffix}.bad.txt').exists()
    assert not (tmp_path / f'v{suffix}.parts').exists()


def test_a_disk_that_is_full_at_the_end_keeps_the_old_table(encoder, folder, tmp_path, monkeypatch):
    path = tmp_path / 'v.csv'
    path.write_text('precious')

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'v')

    with monkeypatch.context() as patch:
        patch.setattr(tables, '_csv', full)
        with pytest.raises(OSError, match='No space left'):
            run(encoder, folder, path, overwrite=True)
    assert path.read_text() == 'precious'
    run(encoder, folder, path, overwrite=True)
    assert len(path.read_text().splitlines()) == 41


@pytest.mark.parametrize('change', ['encoder', 'picture'])
def test_parts_of_another_run_are_refused_or_made_anew(
    encoder, tmp_path, change, small_parts, monkeypatch
):
    folder, own = tmp_path / 'in', tmp_path / 'encoders'
    folder.mkdir(), own.mkdir()
    draw(folder, 20)
    native.save(own / '3.safetensors', random_weights(TINY, 16))
    path = tmp_path / 'v.parquet'
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 1)
        run(own, folder, path)
    if change == 'encoder':
        native.save(own / '3.safetensors', random_weights(TINY, 20))
        words = 'it was of another encoder'
    else:
        os.utime(folder / 'a' / '0000.png', (1, 1))
        words = 'the pictures have changed since'
    with pytest.raises(ConfigError, match=f'cannot go on: {words}.*--overwrite'):
        run(own, folder, path)
    saved = stop_after(monkeypatch, 100)
    run(own, folder, path, overwrite=True)
    assert saved == [0, 1, 2]
    again = run(own, folder, tmp_path / 'again.parquet')
    assert pq.read_table(path).equals(pq.read_table(again))


def test_a_damaged_part_is_made_anew(encoder, folder, tmp_path, small_parts, monkeypatch):
    path = tmp_path / 'v.npz'
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 2)
        run(encoder, folder, path)
    damaged = tmp_path / 'v.npz.parts' / '00000001.npz'
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(RunError, match=r'00000001\.npz: was damaged.*give the same command again'):
        run(encoder, folder, path)
    run(encoder, folder, path)
    assert path.read_bytes() == run(encoder, folder, tmp_path / 'whole.npz').read_bytes()


def test_two_runs_of_one_output_do_not_meet(encoder, folder, tmp_path):
    words = r'--output=.*in use by process'
    with embed.lock.hold(str(tmp_path / 'v.csv.parts')), pytest.raises(ConfigError, match=words):
        run(encoder, folder, tmp_path / 'v.csv')


PROGRAM = """
import sys, time
from simclr_jax import cli
from simclr_jax.evaluate import embedding, parts
parts.ROWS = embedding.ROWS = 8
view_of = embedding.view_of
def slow(*arguments):
    time.sleep(0.02)
    return view_of(*arguments)
embedding.view_of = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def start(*command):
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Returns what a process has said, after it has ended well."""
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_goes_on_and_ends_with_the_same_file(encoder, tmp_path, number):
    folder = tmp_path / 'in'
    folder.mkdir()
    draw(folder, 160)
    (folder / 'a' / 'bad.jpg').write_bytes(b'no picture')
    path, whole = tmp_path / 'v.parquet', tmp_path / 'whole.parquet'
    flags = ['--mode=embed', f'--encoder={encoder}/3.safetensors', f'--data={folder}']
    process = start('-c', PROGRAM, *flags, f'--output={path}')
    deadline = time.monotonic() + 60
    while not list(path.parent.glob('v.parquet.parts/0*.npz')) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    done = len(list(path.parent.glob('v.parquet.parts/0*.npz')))
    assert 0 < done < 21 and not path.exists()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert 'nothing is lost; the same command goes on where it was' in said
    process = start('-c', PROGRAM, *flags, f'--output={path}')
    said = finish(process)
    assert f'going on: {8 * done} pictures are done' in said
    finish(start('-c', PROGRAM, *flags, f'--output={whole}'))
    assert whole.read_bytes() == path.read_bytes()
    assert len(pq.read_table(path)) == 160


@pytest.mark.slow
def test_two_processes_make_the_table_of_one(encoder, tmp_path):
    """2,100 pictures are three parts: two of the first process, one of the second."""
    folder = tmp_path / 'in'
    folder.mkdir()
    draw(folder, 2100)
    flags = ['run.py', '--mode=embed', f'--encoder={encoder}/3.safetensors', f'--data={folder}']
    alone, together = tmp_path / 'alone.parquet', tmp_path / 'together.parquet'
    process = start(*flags, f'--output={alone}')
    finish(process)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    flags += [f'--output={together}', f'--coordinator=127.0.0.1:{port}', '--num_processes=2']
    processes = [start(*flags, '--neighbours', f'--process_id={i}') for i in range(2)]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert re.search('1,076 pictures are for this process, of 2', said[0])
    assert alone.read_bytes() == together.read_bytes()
    names = pq.read_table(together)['file'].to_pylist()
    assert len(names) == len(set(names)) == 2100
    assert sorted(os.listdir(tmp_path)) == [
        'alone.parquet',
        'in',
        'together.parquet',
        'together.parquet.html',
    ]
