"""--mode=predict: every file of a folder has a label or a reason."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

import simclr_jax
from simclr_jax import interruption
from simclr_jax.config import ConfigError
from simclr_jax.evaluate import embedding, parts
from simclr_jax.modes import embed, predict
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'weights'))
from random_weights import random_classifier, random_weights  # noqa: E402

TINY = Architecture('resnet_tiny', stem='small')
NAMES = ('cat', 'dog, small', 'Käfer')


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(interruption, 'install', lambda *_: None)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Files of classifiers: of one label a picture and of several; and of an encoder."""
    root = tmp_path_factory.mktemp('classifiers')
    one = random_classifier(TINY, NAMES, 16, temperature=1.5)
    native.save(root / 'one.safetensors', one)
    native.save(root / 'several.safetensors', random_classifier(TINY, NAMES, 16, several=True))
    native.save(root / 'encoder.safetensors', random_weights(TINY, 16))
    return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Twenty pictures, nested and grey ones among them, and what is none."""
    root = tmp_path_factory.mktemp('pictures')
    draw(root, 20)
    (root / 'deep' / 'er').mkdir(parents=True)
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (20, 20), np.uint8)
    Image.fromarray(grey).save(root / 'deep' / 'er' / 'grey.png')
    (root / 'a' / 'bad.jpg').write_bytes(b'no picture')
    (root / 'b' / 'lost.png').symlink_to('nowhere')
    (root / 'notes.txt').write_text('no picture')
    (root / '.hidden').write_text('')
    return root


def draw(root, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        path = root / 'ab'[i % 2] / f'{i:04d}, x.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (18, 16 + i % 5, 3), np.uint8)).save(path)


def rows_of(path):
    with path.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def test_every_file_has_a_label_or_a_reason(files, folder, tmp_path):
    path = tmp_path / 'p.csv'
    predict.main(encoder=str(files / 'one.safetensors'), data=str(folder), output=str(path))
    rows = rows_of(path)
    want = {
        str(found.relative_to(folder))
        for found in folder.rglob('*')
        if (found.is_symlink() or found.is_file()) and found.name != '.hidden'
    }
    assert {row['file'] for row in rows} == want and len(rows) == len(want) == 24
    bad = {row['file']: row['reason'] for row in rows if row['reason']}
    assert bad.keys() == {'a/bad.jpg', 'b/lost.png', 'notes.txt'}
    assert 'its name does not end in' in bad['notes.txt']
    assert not any(row['label'] for row in rows if row['reason'])
    good = [row for row in rows if not row['reason']]
    assert 'deep/er/grey.png' in {row['file'] for row in good}

    classifier = simclr_jax.load(files / 'one.safetensors')
    labels, shares = classifier.predict([folder / row['file'] for row in good], top=2)
    assert [row['label'] for row in good] == labels[:, 0].tolist()
    assert [row['runner_up'] for row in good] == labels[:, 1].tolist()
    for i, name in enumerate(('probability', 'runner_up_probability')):
        found = np.array([float(row[name]) for row in good])
        np.testing.assert_allclose(found, shares[:, i], atol=2e-5)

    table = tmp_path / 'p.parquet'
    predict.main(encoder=str(files / 'one.safetensors'), data=str(folder), output=str(table))
    same = pq.read_table(table).to_pylist()
    assert [[row['file'], row['label'] or ''] for row in same] == [
        [row['file'], row['label']] for row in rows
    ]
    assert not list(tmp_path.glob('*.parts'))


def test_pictures_of_every_kind_and_name_have_their_row(files, tmp_path, capsys):
    """A label depends on the picture, whatever its file is called and however it is kept."""
    folder, away = tmp_path / 'in', tmp_path / 'away'
    folder.mkdir(), away.mkdir()
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
    grey = Image.fromarray(rng.integers(0, 256, (20, 20), np.uint8))
    names = ['a, b.png', 'q"uo"te.PNG', 'new\nline.png', 'car\rriage.png', '猫.png', ' .png']
    kinds = {'alpha.png': colour.convert('RGBA'), 'tiff.tif': colour}
    kinds |= dict.fromkeys(names, colour)
    for name, picture in kinds.items():
        picture.save(folder / name)
    same = {name: 'alpha.png' for name in kinds}
    grey.save(folder / 'grey.png')
    grey.convert('RGB').save(folder / 'grey_rgb.png')
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / 'grey16.png')
    colour.resize((200, 200)).save(folder / 'jpeg.jpg', quality=100, subsampling=0)
    colour.resize((200, 200)).convert('CMYK').save(folder / 'cmyk.jpg', quality=100, subsampling=0)
    same |= {'grey.png': 'grey_rgb.png', 'grey16.png': 'grey_rgb.png', 'cmyk.jpg': 'jpeg.jpg'}
    colour.save(away / 'linked.png')
    (away / 'notes.md').write_text('no picture')
    (folder / 'link').symlink_to(away)
    (folder / 'picture_without_suffix').write_bytes((folder / 'alpha.png').read_bytes())
    path = tmp_path / 'p.csv'
    predict.main(encoder=str(files / 'one.safetensors'), data=str(folder), output=str(path))
    rows = {row['file']: row for row in rows_of(path)}
    reasons = {'link/notes.md', 'picture_without_suffix'}
    assert {name for name, row in rows.items() if row['reason']} == reasons
    assert rows.keys() - reasons == {*same, 'grey_rgb.png', 'jpeg.jpg', 'link/linked.png'}
    for name, other in same.items():
        wide = 0.05 if name == 'cmyk.jpg' else 1e-5  # a JPEG of four channels is another one
        assert abs(float(rows[name]['probability']) - float(rows[other]['probability'])) < wide
        assert rows[name]['label'] == rows[other]['label']
    table = pyarrow.csv.read_csv(
        path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
    )
    assert table['file'].to_pylist() == list(rows)
    said = capsys.readouterr()
    assert f'{len(rows) - 2} pictures have a label' in said.out and 'no labels' not in said.out
    assert '2 files have a reason in place of a label: link/notes.md (its name' in said.err


def test_several_labels_a_picture_are_all_there(files, folder, tmp_path):
    path = tmp_path / 'p.csv'
    predict.main(encoder=str(files / 'several.safetensors'), data=str(folder), output=str(path))
    good = [row for row in rows_of(path) if not row['reason']]
    classifier = simclr_jax.load(files / 'several.safetensors')
    shares = classifier.probabilities([folder / row['file'] for row in good])
    for row, own in zip(good, shares, strict=True):
        sure = {NAMES[i] for i in range(3) if own[i] > 0.501}
        there = {NAMES[i] for i in range(3) if own[i] > 0.499}
        assert sure <= {*filter(None, row['labels'].split(';'))} <= there


def test_a_folder_of_bad_pictures_alone_has_its_reasons(files, tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'bad.png').write_bytes(b'')
    path = tmp_path / 'p.csv'
    arguments = {'data': str(tmp_path / 'in'), 'output': str(path)}
    predict.main(encoder=str(files / 'one.safetensors'), **arguments)
    (row,) = rows_of(path)
    assert row['file'] == 'bad.png' and row['reason'] and not row['label']
    with pytest.raises(ConfigError, match='is there already'):
        predict.main(encoder=str(files / 'one.safetensors'), **arguments)


@pytest.mark.parametrize(
    ('encoder', 'output', 'words'),
    [
        ('encoder', 'p.csv', r'^--encoder=.*encoder without a classifier.*--mode=finetune'),
        ('one', 'p.npz', r'must end in \.csv or \.parquet, as --output=predictions\.csv'),
        ('nothing', 'p.csv', 'there is no such file or folder'),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    encoder, output, words, files, folder, tmp_path
):
    with pytest.raises(ConfigError, match=words):
        predict.main(
            encoder=str(files / f'{encoder}.safetensors'),
            data=str(folder),
            output=str(tmp_path / output),
        )
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_and_not_with_what_is_done_of_embedding(files, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, 'ROWS', 8)
    monkeypatch.setattr(embedding, 'ROWS', 8)
    monkeypatch.setattr(predict, 'ROWS', 8)
    whole, path = tmp_path / 'whole.csv', tmp_path / 'p.csv'
    arguments = {'encoder': str(files / 'one.safetensors'), 'data': str(folder)}
    predict.main(output=str(whole), **arguments)
    save, saved = parts.Parts.save, []

    def fails(self, number, part):
        if saved:
            raise OSError(28, 'full')
        saved.append(number)
        save(self, number, part)

    monkeypatch.setattr(parts.Parts, 'save', fails)
    with pytest.raises(OSError, match='full'):
        predict.main(output=str(path), **arguments)
    monkeypatch.setattr(parts.Parts, 'save', save)
    with pytest.raises(ConfigError, match='it was of another mode'):
        embed.main(output=str(path), **arguments)
    predict.main(output=str(path), **arguments)
    assert path.read_bytes() == whole.read_bytes() and len(saved) == 1


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


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(files, tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    draw(folder, 160)
    (folder / 'a' / 'bad.jpg').write_bytes(b'no picture')
    flags = ['--mode=predict', f'--encoder={files}/one.safetensors', f'--data={folder}']
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}

    def start(path):
        command = [sys.executable, '-c', PROGRAM, *flags, f'--output={path}']
        return subprocess.Popen(command, cwd=ROOT, env=environment)

    path, whole = tmp_path / 'p.csv', tmp_path / 'whole.csv'
    process, deadline = start(path), time.monotonic() + 240
    while not list(tmp_path.glob('p.csv.parts/0*.npz')) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(list(tmp_path.glob('p.csv.parts/0*.npz'))) < 21 and not path.exists()
    assert start(path).wait() == 0 and start(whole).wait() == 0
    assert path.read_bytes() == whole.read_bytes()
    assert len(rows_of(path)) == 161
