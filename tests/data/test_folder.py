"""A folder of 1,000 files of every format and defect: what is read, and what is left out."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from simclr_jax.config import ConfigError
from simclr_jax.data import example, pipeline, sources

PHOTO = Image.fromarray(load_sample_image('china.jpg'))


def encode(image, kind, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned():
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags


GOOD = {
    'a.jpg': lambda x: encode(x, 'JPEG'),
    'B.JPEG': lambda x: encode(x.convert('L'), 'JPEG'),
    'cmyk.jpg': lambda x: encode(x.convert('CMYK'), 'JPEG'),
    'turned.jpg': lambda x: encode(x, 'JPEG', exif=turned()),
    'c.png': lambda x: encode(x, 'PNG'),
    'alpha.png': lambda x: encode(x.convert('RGBA'), 'PNG'),
    'palette.png': lambda x: encode(x.quantize(8), 'PNG'),
    'deep.png': lambda x: encode(
        Image.fromarray(np.asarray(x.convert('L')) * np.uint16(257)), 'PNG'
    ),
    'd.gif': lambda x: encode(x.quantize(8), 'GIF'),
    'e.bmp': lambda x: encode(x, 'BMP'),
    'f.webp': lambda x: encode(x, 'WEBP'),
}
BAD = {
    'cut.jpg': lambda x: encode(x, 'JPEG')[:-300],
    'cut.png': lambda x: encode(x, 'PNG')[:-300],
    'empty.jpg': lambda x: b'',
    'text.jpg': lambda x: b'no picture at all',
    'one.png': lambda x: encode(Image.new('RGB', (1, 1)), 'PNG'),
    'wide.png': lambda x: encode(Image.new('RGB', (30_000, 3)), 'PNG'),
}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """1,000 files in nested folders, of two classes; 60 of them bad."""
    root = tmp_path_factory.mktemp('pictures')
    random = np.random.default_rng(0)
    for i in range(1000):
        kinds = BAD if i % 50 < 3 else GOOD
        kind = list(kinds)[(i // 50 * 3 + i % 50) % len(kinds) if i % 50 < 3 else i % len(kinds)]
        left, top = random.integers(0, 500), random.integers(0, 350)
        width, height = random.integers(16, 60, 2)
        image = PHOTO.crop((left, top, left + width, top + height))
        place = root / ('cats' if i % 2 else 'dogs') / str(i % 7) / f'{i:04}_{kind}'
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(kinds[kind](image))
    (root / 'cats/notes.txt').write_text('not looked at')
    (root / '.hidden').mkdir()
    (root / '.hidden/x.jpg').write_bytes(b'')
    return root


def open_all(made, tmp_path, split='all', **options):
    return sources.open_source(
        'folder', str(tmp_path), split, path=str(made), **{'max_bad_fraction': 0.1} | options
    )


def test_counts_are_exact_and_every_picture_comes_through_both_backends(made, tmp_path):
    source = open_all(made, tmp_path, canvas=48)
    assert (source.num_examples, len(source.bad)) == (940, 60)
    assert source.label_names == ('cats', 'dogs')
    options = {'seed': 0, 'batch_size': 235, 'start_step': 0, 'total_steps': 4}
    seen, classes = [], []
    for batch in pipeline.canvas_batches(source, **options):
        assert batch['image'].shape == (235, 48, 48, 3)
        seen.append(batch['index'])
        classes.append(batch['label'])
        for image, (height, width) in zip(batch['image'], batch['size'], strict=True):
            assert image[:height, :width].std() > 0  # no picture is a constant
            assert not image[height:].any() and not image[:, width:].any()
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(940))
    assert abs(np.concatenate(classes).mean() - 0.5) < 0.05


def test_splits_are_disjoint_whole_and_do_not_move(made, tmp_path):
    parts = [open_all(made, tmp_path, split) for split in ('train', 'test')]
    assert sum(part.num_examples for part in parts) == 940
    assert 60 < parts[1].num_examples < 130
    images = [{example.parse(r)[0] for r in part.read(range(part.num_examples))} for part in parts]
    assert not images[0] & images[1]


def test_too_many_bad_pictures_stop_with_a_list(made, tmp_path):
    with pytest.raises(ConfigError, match='60 of 1000 files') as error:
        open_all(made, tmp_path, max_bad_fraction=0.01)
    text = str(error.value)
    assert 'data.max_bad_fraction=0.01' in text and len(text.splitlines()) == 61
    for reason in ('empty', 'not a picture', '1 x 1 pixels', '30000 x 3 pixels', 'truncated'):
        assert reason in text


def test_what_is_not_there(made, tmp_path):
    with pytest.raises(ConfigError, match=r"data.path='nowhere': is not there"):
        sources.check_prepared('folder', '', 'nowhere')
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match=r"data.path='.*file': is not a folder"):
        sources.check_prepared('folder', '', str(tmp_path / 'file'))
    (tmp_path / 'file').unlink()
    with pytest.raises(ConfigError, match=r"data.path='': is not a folder"):
        sources.check_prepared('folder', '', '')
    with pytest.raises(ConfigError, match='holds no picture'):
        open_all(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="'validation' of the folder"):
        open_all(made, tmp_path, 'validation')


def test_a_picture_that_vanishes_is_left_out_and_counted(tmp_path, capsys):
    root = tmp_path / 'pictures'
    root.mkdir()
    for i in range(3):
        (root / f'{i}.png').write_bytes(encode(PHOTO.crop((i, 0, i + 9, 9)), 'PNG'))
    source = open_all(root, tmp_path, max_bad_fraction=0.5)
    os.remove(root / '1.png')
    first, second, third = source.read([0, 1, 2])
    assert second == third != first and list(source.bad) == ['1.png']
    assert 'can no longer be read' in capsys.readouterr().out
