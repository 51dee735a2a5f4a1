"""What is in a folder: odd entries, changes, an index that grows, and one of a million names."""

import io
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data import (
    folder_cache,
    folder_files,
    folder_index,
    folder_layout,
    pictures,
    sources,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS ^ np.uint8(shade)).save(stream, 'PNG')
    return stream.getvalue()


@pytest.fixture
def root(tmp_path):
    """A folder of two classes with two pictures each."""
    for name in ('cats/1.png', 'cats/2.png', 'dogs/3.png', 'dogs/4.png'):
        path = tmp_path / 'pictures' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return tmp_path / 'pictures'


def read(root, cache=None, **options):
    return folder_index.read_index(str(root), cache or root.parent / 'cache', **options)


@pytest.fixture
def looked(monkeypatch):
    """How often a file was looked at."""
    contents = []
    check = pictures.check
    monkeypatch.setattr(pictures, 'check', lambda e: contents.append(e) or check(e))
    return contents


# ---- Odd entries


def test_a_dangling_link_is_left_out_and_named(root):
    (root / 'cats/gone.jpg').symlink_to('nowhere.jpg')
    (root / 'birds').symlink_to('/nowhere/birds')  # perhaps on a disk that is not there today
    (root / 'cats/notes').write_text('no picture, and not called one')
    index = read(root)
    assert list(index.names) == ['cats/1.png', 'cats/2.png', 'dogs/3.png', 'dogs/4.png']
    assert index.bad == {'cats/gone.jpg': 'a link to nothing', 'birds': 'a link to nothing'}


@pytest.mark.parametrize(
    'target', ['.', '..', '../..', '../cats', '../dogs', '../../alias/dogs', '/']
)
def test_no_folder_is_read_twice_whatever_links_there_are(root, target):
    (root.parent / 'alias').symlink_to('pictures')
    (root / 'cats/link').symlink_to(target)
    index = read(root)
    found = [name for name in index.names if '/link/' not in name]
    assert found == ['cats/1.png', 'cats/2.png', 'dogs/3.png', 'dogs/4.png']
    assert len(index.names) == 4 and not index.bad
    assert 'cats/link/ is left out: a link ' in index.describe()


def test_a_link_loop_of_its_own_is_left_out(root):
    (root / 'cats/a.png').symlink_to('b.png')
    (root / 'cats/b.png').symlink_to('a.png')
    (root / 'round').symlink_to('round')
    index = read(root)
    assert len(index.names) == 4
    assert set(index.bad) == {'cats/a.png', 'cats/b.png', 'round'}
    assert set(index.bad.values()) == {os.strerror(40)}


def test_links_out_of_the_folder_are_followed_once(root):
    elsewhere = root.parent / 'elsewhere'
    (elsewhere / 'more').mkdir(parents=True)
    (elsewhere / '5.png').write_bytes(png())
    (elsewhere / 'more/6.png').write_bytes(png())
    (elsewhere / 'more/back').symlink_to(root)
    (elsewhere / 'more/self').symlink_to(elsewhere)
    (root / 'birds').symlink_to(elsewhere)
    (root / 'owls').symlink_to(elsewhere / 'more')
    index = read(root)
    assert [name for name in index.names if name.startswith(('birds', 'owls'))] == [
        'birds/5.png',
        'birds/more/6.png',
    ]
    assert not index.bad and index.layout.label_names == ('birds', 'cats', 'dogs')


def test_what_is_no_file_is_never_opened(root):
    os.mkfifo(root / 'cats/pipe.jpg')  # to open it would wait for ever
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / 'cats/socket.png'))
    (root / 'dogs/folder.jpg').mkdir()
    (root / 'dogs/folder.jpg/5.png').write_bytes(png())
    index = read(root)
    assert index.bad == {'cats/pipe.jpg': 'not a file', 'cats/socket.png': 'not a file'}
    assert 'dogs/folder.jpg/5.png' in list(index.names)


def test_names_that_are_not_utf8_are_read_like_others(root, capsys):
    for name in (b'cats/caf\xe9.png', b'd\xf6gs/5.png', 'cats/caf\xe9.png'.encode()):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pathlib.Path(os.fsdecode(path)).write_bytes(png(7))
    source = sources.open_source('folder', str(root.parent), 'all', path=str(root))
    assert source.num_examples == 7 and not source.bad
    assert source.label_names == ('cats', 'dogs', 'd\\xf6gs')
    assert len(source.read(range(7))) == 7
    print(source.description, source.label_names)  # can be printed
    assert '7 pictures' in capsys.readouterr().out
    again = read(root, root.parent / 'folder_index')
    assert len(again.names) == 7


def test_utf8_names_fall_into_the_splits_that_they_always_did():
    names = [f'class{i % 5}/Bild {i} \xfc \u65e5.jpg' for i in range(300)]
    test = [i for i, name in enumerate(names) if folder_layout.is_test(name.encode())]
    assert test[:12] == [0, 7, 15, 20, 22, 38, 42, 43, 44, 45, 57, 70]


def test_a_file_in_a_deep_folder_is_found(root):
    path = os.fsencode(root)
    os.makedirs(path + b'/d' * 900)
    (pathlib.Path(os.fsdecode(path + b'/d' * 900)) / '5.png').write_bytes(png())
    assert len(read(root).names) == 5


AS_NOBODY = """
import os, sys
sys.path.insert(0, {repository!r})
from simclr_jax.data import folder_index, pictures  # before the rights to read them are gone
from PIL import Image
Image.init()
if os.geteuid() == 0:  # whom nothing is denied
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
import pathlib
index = folder_index.read_index({root!r}, pathlib.Path({cache!r}))
print(list(index.names))
print(index.bad)
"""


def test_an_unreadable_folder_and_file_are_left_out_and_looked_at_again(tmp_path):
    # Not tmp_path: nobody may not enter the folders above it.
    with_rights = pathlib.Path('/tmp') / f'simclr_jax_{os.getpid()}'
    root = with_rights / 'pictures'
    for name in ('cats/1.png', 'dogs/2.png', 'dogs/3.png'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    cache = with_rights / 'cache'
    cache.mkdir()
    cache.chmod(0o777)
    repository = str(pathlib.Path(__file__).parents[2])
    program = AS_NOBODY.format(repository=repository, root=str(root), cache=str(cache))

    def as_nobody():
        done = subprocess.run(
            [sys.executable, '-c', program], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        names, bad = done.stdout.splitlines()[-2:]
        return eval(names), eval(bad)

    rights = 0o600 if os.geteuid() == 0 else 0  # the owner's, who is not nobody
    try:
        (root / 'cats').chmod(rights)
        (root / 'dogs/2.png').chmod(rights)
        denied = 'Permission denied'
        assert as_nobody() == (['dogs/3.png'], {'cats/': denied, 'dogs/2.png': denied})
        (root / 'cats').chmod(0o755)
        (root / 'dogs/2.png').chmod(0o644)
        assert as_nobody() == (['cats/1.png', 'dogs/2.png', 'dogs/3.png'], {})
    finally:
        subprocess.run(['rm', '-r', str(with_rights)], check=True)


def test_what_is_denied_is_left_out_and_looked_at_again(root, monkeypatch):
    def denying(function):
        def call(path, *arguments):
            if os.fsencode(path).endswith((b'/cats/', b'/dogs/3.png')):
                raise PermissionError(13, 'Permission denied', path)
            return function(path, *arguments)

        return call

    with monkeypatch.context() as denied:
        denied.setattr(folder_files.os, 'scandir', denying(os.scandir))
        denied.setattr(folder_files, 'open', denying(open), raising=False)
        index = read(root)
    assert list(index.names) == ['dogs/4.png']
    assert index.bad == {'cats/': 'Permission denied', 'dogs/3.png': 'Permission denied'}
    index = read(root)
    assert len(index.names) == 4 and not index.bad


@pytest.mark.parametrize('orientation', range(1, 9))
def test_photographs_that_exif_turns_have_the_size_that_is_seen(tmp_path, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    (tmp_path / 'pictures').mkdir()
    Image.fromarray(PIXELS).save(tmp_path / 'pictures/a.jpg', exif=tags)  # stored as 12 x 9
    for _ in range(2):  # looked at, and from the index that was kept
        index = read(tmp_path / 'pictures')
        seen = (12, 9) if orientation < 5 else (9, 12)
        assert tuple(index.sizes[0]) == index.largest == seen
        assert index.orientations.tolist() == [orientation] and not index.bad


# ---- The index


def test_only_what_changed_is_looked_at_again(root, looked):
    index = read(root)
    assert len(looked) == 4
    again = read(root)
    assert again.names == index.names and len(looked) == 4
    assert (again.sizes == [12, 9]).all() and (again.orientations == 1).all()
    (root / 'cats/1.png').write_bytes(b'')
    (root / 'cats/2.png').unlink()
    (root / 'ants').mkdir()
    (root / 'ants/new.png').write_bytes(png(3))
    index = read(root)
    assert sorted(looked[4:]) == [b'', png(3)]
    assert index.bad == {'cats/1.png': 'empty'}
    assert list(index.names) == ['ants/new.png', 'dogs/3.png', 'dogs/4.png']
    assert read(root).bad == {'cats/1.png': 'empty'} and len(looked) == 6


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'empty', 'text', 'head', 'version'])
def test_a_damaged_index_is_made_anew(root, looked, damage):
    names = read(root).names
    (saved,) = (root.parent / 'cache').iterdir()
    whole = saved.read_bytes()
    middle = len(whole) // 2
    saved.write_bytes(
        {
            'cut': whole[:-5],
            'flipped': whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            'empty': b'',
            'text': b'{"version": 1}',
            'head': b'[]\n' + whole,
            'version': whole.replace(b'"version": [', b'"version": [9', 1),
        }[damage]
    )
    assert read(root).names == names and len(looked) == 8
    assert saved.read_bytes() == whole


def test_an_index_that_cannot_be_kept_is_said_in_a_line(root, capfd):
    (root.parent / 'file').write_text('where the index would be a folder')
    index = read(root, root.parent / 'file/cache')
    assert len(index.names) == 4
    (line,) = capfd.readouterr().err.splitlines()
    assert 'cannot be kept' in line and 'looked at again' in line


SLOW = """
import pathlib, signal, sys, time
sys.path.insert(0, {repository!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from simclr_jax.data import folder_index, pictures
check = pictures.check
def slow(encoded):
    time.sleep(0.02)
    return check(encoded)
pictures.check = slow
folder_index._SAVE_SECONDS = 0.05
folder_index._BATCH = 4
print('begun', flush=True)
folder_index.read_index({root!r}, pathlib.Path({cache!r}))
"""


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_an_index_that_is_stopped_half_way_goes_on_from_there(tmp_path, looked, number):
    root, cache = tmp_path / 'pictures', tmp_path / 'cache'
    root.mkdir()
    for i in range(600):
        (root / f'{i:03}.png').write_bytes(png())
    repository = str(pathlib.Path(__file__).parents[2])
    program = SLOW.format(repository=repository, root=str(root), cache=str(cache))
    process = subprocess.Popen([sys.executable, '-c', program], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(cache.glob('*.index')) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(read(root, cache).names) == 600
    assert 0 < len(looked) < 600
    assert not list(cache.glob('*.tmp')) or number == signal.SIGKILL


def made_up(count: int) -> folder_cache.Known:
    """What is known of ImageNet's files, or as many with names like theirs."""
    names = [b'n%08d/n%08d_%05d.JPEG' % (i // 1300, i // 1300, i % 1300) for i in range(count)]
    table = np.zeros(count, folder_cache.TABLE)
    table['length'] = np.fromiter(map(len, names), int, count)
    table['size'], table['time'] = np.arange(count) * 7919 % 200_000, 1_700_000_000 * 10**9
    table['height'], table['width'] = 375, 500
    table['kind'], table['orientation'] = pictures.KINDS.index(pictures.PLAIN), 1
    table['test'] = np.arange(count) % 10 == 0
    return folder_cache.Known(folder_files.Names(b''.join(names), table['length']), table, {})


def test_what_is_packed_is_unpacked(root):
    known = made_up(3000)
    known.reasons[7] = 'damaged; "\xfc"'
    again = folder_cache.unpack(folder_cache.pack(known))
    assert again.names == known.names and again.reasons == known.reasons
    np.testing.assert_array_equal(again.table, known.table)
    assert list(again.names)[1299:1301] == [
        'n00000000/n00000000_01299.JPEG',
        'n00000001/n00000001_00000.JPEG',
    ]
    part = known.chosen(np.array([3, 7, 2999]))
    assert list(part.names) == [known.names[i] for i in (3, 7, 2999)]
    assert part.reasons == {1: 'damaged; "\xfc"'}


def test_places_are_found_by_name_size_and_time():
    known = made_up(3000)
    kept = np.array([i for i in range(3000) if i % 7])
    names = known.names.chosen(kept)
    sizes, times = known.table['size'][kept], known.table['time'][kept].copy()
    np.testing.assert_array_equal(folder_cache.match(known, names, sizes, times), kept)
    times[5] += 1
    sizes[9] += 1
    found = folder_cache.match(known, names, sizes, times)
    assert np.flatnonzero(found < 0).tolist() == [5, 9]
    found = folder_cache.match(known, names, sizes)
    assert np.flatnonzero(found < 0).tolist() == [9]
    fewer = known.chosen(kept)
    found = folder_cache.match(fewer, known.names, known.table['size'])
    np.testing.assert_array_equal(np.flatnonzero(found < 0), np.arange(0, 3000, 7))


MILLION = """
import pathlib, sys
sys.path.insert(0, {repository!r})
from simclr_jax.data import folder_cache, folder_index, folder_layout  # and all that they import
rss = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
before = rss()
known = folder_cache.load(pathlib.Path({path!r}))
index = folder_index.Index(known, {{}})
assert len(index.layout.places('train')) == 900_000, len(index.layout.places('train'))
assert len(index.layout.label_names) == 770
status = dict(line.split(':') for line in open('/proc/self/status'))
print(int(status['VmHWM'].split()[0]) * 1024 - before)
"""


@pytest.mark.slow
def test_a_million_names_take_under_150_mb(tmp_path):
    path = tmp_path / 'a.index'
    folder_cache.save(path, made_up(1_000_000))
    repository = str(pathlib.Path(__file__).parents[2])
    program = textwrap.dedent(MILLION).format(repository=repository, path=str(path))
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150e6, done.stdout
