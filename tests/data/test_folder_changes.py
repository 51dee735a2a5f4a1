"""A folder that grows, shrinks, moves or goes away: between two starts, and during a run."""

import io
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError, RunError
from simclr_jax.data import folder_files, pictures, pipeline, sources
from simclr_jax.workdir.claim import Held


def png(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


def fill(root, count=20):
    for i in range(count):
        path = root / 'ab'[i % 2] / f'{i:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / 'pictures')
    return tmp_path / 'pictures'


def open_(root, held=None, split='train', cache=None, **options):
    cache = str(cache or root.parent)
    options = {'max_bad_fraction': 0.3} | options
    return sources.open_source('folder', cache, split, path=str(root), held=held, **options)


def records(source):
    return source.read(range(source.num_examples))


# ---- Between two starts


def test_pictures_that_were_added_are_left_out_of_a_run_that_goes_on(root):
    source = open_(root)
    held, before, tested = source.held(), records(source), records(source.data.open('test'))
    (root / 'c').mkdir()
    for i in range(30, 60):
        (root / 'abc'[i % 3] / f'{i}.png').write_bytes(png(i))
    source = open_(root, held)
    assert records(source) == before and records(source.data.open('test')) == tested
    assert source.label_names == ('a', 'b')
    assert '30 pictures came since this run began (a/30.png, a/33.png' in source.description
    fresh = open_(root, split='all')
    assert fresh.num_examples == 50 and fresh.label_names == ('a', 'b', 'c')


def test_a_run_whose_pictures_are_gone_or_changed_stops_with_one_line(root):
    held = open_(root).held()
    (root / 'a/02.png').unlink()
    (root / 'b/05.png').write_bytes(png(5) + b'more')
    (root / 'b/07.png').write_bytes(b'')
    with pytest.raises(ConfigError) as error:
        open_(root, held)
    (line,) = str(error.value).splitlines()
    assert "data.path='" in line and '3 of the 20 pictures' in line and '--workdir' in line
    for text in ('a/02.png (gone)', 'b/05.png (changed)', 'b/07.png (empty)'):
        assert text in line
    for i in (2, 5, 7):
        (root / 'ab'[i % 2] / f'{i:02}.png').write_bytes(png(i))
    assert open_(root, held).num_examples == open_(root).num_examples


def test_a_folder_that_moved_goes_on_and_is_not_looked_at_again(root, monkeypatch):
    source = open_(root)
    held, before = source.held(), records(source)
    moved = root.parent / 'another disk'
    shutil.copytree(root, moved)  # with the times of the files
    shutil.rmtree(root)
    looked = []
    check = pictures.check
    monkeypatch.setattr(pictures, 'check', lambda e: looked.append(e) or check(e))
    cache = root.parent / 'another cache'
    assert records(open_(moved, held, cache=cache)) == before and not looked
    for path in moved.rglob('*.png'):
        os.utime(path, (1, 1))  # copied without them
    assert records(open_(moved, held, cache=cache)) == before and len(looked) == 20


def test_a_damaged_list_of_the_runs_pictures_is_said_in_a_line(root):
    packed = open_(root).held().pictures()
    damaged = packed[:-9] + bytes([packed[-9] ^ 1]) + packed[-8:]
    with pytest.raises(ConfigError, match=r'this run began with is damaged; restore data.pictures'):
        open_(root, Held(0, None, lambda: damaged))


def test_another_folder_is_refused(root, tmp_path):
    held = open_(root).held()
    fill(tmp_path / 'other', 4)
    with pytest.raises(ConfigError, match='16 of the 20 pictures that this run began with'):
        open_(tmp_path / 'other', held)


def test_tfds_data_are_known_by_their_number_and_classes():
    held = Held(500, ('a', 'b'))
    held.check(Held(500, ('a', 'b')), 'data.dataset=x')
    for now, text in (
        (Held(501, ('a', 'b')), '501 examples now, 500 then'),
        (Held(500, ('a', 'c')), 'without the classes b, with new classes c'),
        (Held(500, ('b', 'a')), 'another order'),
        (Held(500, None), 'without the classes a b'),
    ):
        with pytest.raises(ConfigError, match=f'data.dataset=x: .*{text}.*--workdir'):
            held.check(now, 'data.dataset=x')


def test_other_digits_than_those_of_the_run_are_refused(tmp_path):
    held = sources.open_source('digits', str(tmp_path), 'train').held()
    sources.open_source('digits', str(tmp_path), 'train', held=held)
    with pytest.raises(ConfigError, match=r"data.dataset='digits': is not what it was"):
        sources.open_source('digits', str(tmp_path), 'train[:90%]', held=held)


# ---- During a run


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(folder_files, '_WAITS', (0.01, 0.02))


def batches(source, steps=3):
    return list(
        pipeline.canvas_batches(source, seed=0, batch_size=8, start_step=0, total_steps=steps)
    )


def test_a_folder_that_is_moved_away_stops_with_one_line(root, quick, capsys):
    source = open_(root, canvas=16)
    assert len(batches(source)) == 3
    root.rename(root.parent / 'gone')
    with pytest.raises(RunError) as error:
        batches(source)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f'data.path={str(root)!r}: does not answer any more')
    assert 'same command' in line
    assert not source.bad and not capsys.readouterr().out
    (root.parent / 'gone').rename(root)
    with pytest.raises(RunError):  # what has failed stays so: the run has ended
        source.read([0])
    assert len(open_(root).read([0])) == 1


def mounted(kind: str, place: pathlib.Path) -> bool:
    place.mkdir()
    done = subprocess.run(['mount', '-t', kind, kind, str(place)], capture_output=True)
    return done.returncode == 0


def test_a_mount_that_goes_away_stops_with_one_line(tmp_path, quick, capsys):
    place = tmp_path / 'mount'
    if not mounted('tmpfs', place):
        pytest.skip('this machine lets nobody mount')
    try:
        fill(place)
        source = open_(place, cache=tmp_path, canvas=16)
        assert len(batches(source)) == 3
        subprocess.run(['umount', '--lazy', str(place)], check=True)
        with pytest.raises(RunError, match='another folder is in its place'):
            batches(source)
        assert not source.bad and not capsys.readouterr().out
        for held in (None, source.held()):  # the empty mount point
            with pytest.raises(ConfigError, match=r'holds no picture, .* mounted\?') as error:
                open_(place, held, cache=tmp_path)
            assert len(str(error.value).splitlines()) == 1
    finally:
        subprocess.run(['umount', '--lazy', str(place)], capture_output=True)


@pytest.mark.parametrize('number', [5, 107, 116])  # EIO, ENOTCONN, ESTALE
def test_a_disk_that_answers_nothing_is_told_from_a_bad_file(root, quick, monkeypatch, number):
    source = open_(root, split='all')
    broken = {'a/00.png'}
    real = open

    def failing(path, *arguments):
        name = os.fsdecode(path)
        if any(name.endswith(part) for part in broken):
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments)

    monkeypatch.setattr(folder_files, 'open', failing, raising=False)
    assert len(source.read(range(20))) == 20
    assert list(source.bad) == ['a/00.png']
    assert os.strerror(number) in source.bad['a/00.png']
    broken.add('.png')
    with pytest.raises(RunError, match=f'does not answer any more .{os.strerror(number)}'):
        source.read(range(20))
    assert len(source.bad) <= 7


def test_a_disk_that_wakes_up_again_is_waited_for(root, quick, monkeypatch):
    source = open_(root, split='all')
    real, failures = open, iter([True, False])

    def failing(path, *arguments):
        if next(failures, False):
            raise OSError(116, 'Stale file handle', path)
        return real(path, *arguments)

    monkeypatch.setattr(folder_files, 'open', failing, raising=False)
    assert len(source.read(range(20))) == 20 and not source.bad


def test_too_many_pictures_that_vanish_stop_the_reading(root, quick, capsys):
    source = open_(root, split='all', max_bad_fraction=0.4, canvas=16)
    for path in sorted(root.rglob('*.png'))[:15]:
        path.unlink()
    with pytest.raises(ConfigError, match='9 of 20 files could not be read'):
        batches(source)
    assert isinstance(source.failure(), ConfigError) and len(source.bad) == 9
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6 and 'more of them are counted' in said[-1]  # the first five by name


def test_a_folder_lost_while_it_is_indexed_leaves_no_bad_files_behind(root, quick, monkeypatch):
    check = pictures.check
    looked = []

    def lose(encoded):
        looked.append(encoded)
        if len(looked) == 5:
            root.rename(root.parent / 'gone')
        return check(encoded)

    monkeypatch.setattr(pictures, 'check', lose)
    with pytest.raises(RunError, match='does not answer any more'):
        open_(root)
    (root.parent / 'gone').rename(root)
    source = open_(root, split='all', max_bad_fraction=0.0)
    assert source.num_examples == 20 and not source.bad


def test_a_bucket_is_refused_by_name():
    for path in ('gs://bucket/pictures', 's3://bucket/pictures'):
        with pytest.raises(ConfigError, match='pictures in a bucket are not read; copy them'):
            sources.check_prepared('folder', '', path)
