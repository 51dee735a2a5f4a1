"""Files that TensorFlow refuses, or that are damaged during a run: it goes on."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from simclr_jax.augment.recipe import ViewRecipe
from simclr_jax.config import RunError
from simclr_jax.data import device, example, pictures, pipeline, sources

PHOTO = Image.fromarray(load_sample_image('flower.jpg')[60:380, 100:500])  # 320 x 400
IDENTITY = ViewRecipe(
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    crop_sampler='torchvision',
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
)


def open_folder(root, tmp_path, **options):
    return sources.open_source('folder', str(tmp_path), 'all', path=str(root), **options)


def odd_files(root):
    """Files that Pillow reads, and TensorFlow does not or not as it does; the last is refused."""
    root.mkdir()
    PHOTO.convert('CMYK').save(root / 'cmyk.jpg')
    PHOTO.convert('P').save(root / 'palette.png')
    deep_values = np.asarray(PHOTO.convert('L')).astype(np.uint16) << 8
    Image.fromarray(deep_values).save(root / 'sixteen.png')
    PHOTO.save(root / 'whole.png')
    whole = (root / 'whole.png').read_bytes()
    (root / 'without_end.png').write_bytes(whole[:-12])
    PHOTO.save(root / 'trailing.jpg')
    (root / 'trailing.jpg').write_bytes(
        (root / 'trailing.jpg').read_bytes() + b'\xff\xd8 and zeros' + bytes(999)
    )
    wrong_sum = bytearray(whole)
    wrong_sum[whole.index(b'IEND') - 5] ^= 1
    (root / 'wrong_sum.png').write_bytes(wrong_sum)
    with pytest.raises(tf.errors.OpError):
        tf.io.decode_image((root / 'wrong_sum.png').read_bytes())
    return root


def by_our_pillow(source, root):
    names = [source.name(i) for i in range(source.num_examples)]
    assert names == sorted(path.name for path in root.iterdir()) and not source.bad
    return [
        pictures.decode((root / name).read_bytes(), intensity=source.intensity) for name in names
    ]


def test_odd_files_that_pillow_accepts_reach_training_and_evaluation(tmp_path, capsys):
    root = odd_files(tmp_path / 'odd')
    source = open_folder(root, tmp_path, canvas=400)
    want = by_our_pillow(source, root)
    options = {'seed': 0, 'batch_size': len(want), 'start_step': 0, 'total_steps': 1}
    (batch,) = pipeline.canvas_batches(source, **options)
    for index, image in zip(batch['index'], batch['image'], strict=True):
        assert np.abs(image[:320, :400].astype(int) - want[index]).mean() < 2
    assert 'wrong_sum.png: TensorFlow does not decode it, Pillow does' in capsys.readouterr().out
    evaluated = pipeline.read_images(open_folder(root, tmp_path), np.arange(7), image_size=320)
    for image, pixels in zip(evaluated, want, strict=True):
        assert np.abs(image.astype(int) - pixels[:, 40:360]).mean() < 2
    for image, pixels in zip(device.load(source).images, want, strict=True):
        np.testing.assert_array_equal(image[:320, :400], pixels)


@pytest.mark.slow
def test_views_are_made_of_odd_files_that_pillow_accepts(tmp_path):
    root = odd_files(tmp_path / 'odd')
    source = open_folder(root, tmp_path)
    want = by_our_pillow(source, root)
    options = {'seed': 0, 'batch_size': len(want), 'start_step': 0, 'total_steps': 1}
    views = dataclasses.replace(IDENTITY, crop_aspect=(1.25, 1.25))
    (batch,) = pipeline.train_batches(source, (views,) * 2, image_size=80, **options)
    assert sorted(batch['index']) == list(range(len(want)))
    for index, (one, other) in zip(batch['index'], batch['image'], strict=True):
        np.testing.assert_array_equal(one, other)
        small = Image.fromarray(want[index]).resize((80, 80), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(small, int) - one).mean() < 15  # not averaged


def run_length_bmp():
    """A BMP of 8 bits in run-length code, which Pillow decodes and TensorFlow does not."""
    palette = b''.join(bytes([i, 255 - i, i // 2, 0]) for i in range(256))
    lines = b''.join(bytes([8, 20 * y, 8, 250 - y, 0, 0]) for y in range(12)) + b'\0\1'
    offset = 14 + 40 + len(palette)
    head = b'BM' + (offset + len(lines)).to_bytes(4, 'little') + bytes(4)
    head += offset.to_bytes(4, 'little')
    info = [40, 16, 12, 1 | 8 << 16, 1, len(lines), 0, 0, 256, 0]
    return head + b''.join(x.to_bytes(4, 'little') for x in info) + palette + lines


def with_an_odd_one(shape):
    """Eight records, of which TensorFlow refuses number 3, and the pixels of number 3."""
    odd = run_length_bmp()
    with pytest.raises(tf.errors.OpError):
        tf.io.decode_image(odd)
    stream = io.BytesIO()
    PHOTO.resize((16, 12)).save(stream, 'PNG')
    files = [stream.getvalue()] * 3 + [odd] + [stream.getvalue()] * 4
    records = [example.serialize(file, i) for i, file in enumerate(files)]
    source = sources.Source(
        lambda chosen: [records[i] for i in chosen], 8, shape, tuple(map(str, range(8))), canvas=16
    )
    return source, np.asarray(Image.open(io.BytesIO(odd)).convert('RGB'))


@pytest.mark.parametrize('shape', [(None, None, 3), (12, 16, 3)])
def test_a_picture_that_tensorflow_refuses_and_pillow_accepts_does_not_end_the_run(shape, capsys):
    source, want = with_an_odd_one(shape)
    options = {'seed': 0, 'batch_size': 4, 'start_step': 0, 'total_steps': 4}
    seen = list(pipeline.canvas_batches(source, **options))
    assert len(seen) == 4
    for batch in seen:
        np.testing.assert_array_equal(batch['label'], batch['index'])
        for image in batch['image'][batch['index'] == 3]:
            np.testing.assert_array_equal(image[:12, :16], want)
    assert 'picture 3: TensorFlow does not decode it, Pillow does' in capsys.readouterr().out
    source, _ = with_an_odd_one(shape)
    evaluated = list(pipeline.eval_batches(source, batch_size=4, image_size=12))
    np.testing.assert_array_equal(evaluated[0]['image'][3, 0], want[:, 2:14])
    source, _ = with_an_odd_one(shape)
    (shown,) = pipeline.read_whole_images(source, np.array([3]))
    np.testing.assert_array_equal(shown, want)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(None, None, 3), (12, 16, 3)])
def test_views_of_a_picture_that_tensorflow_refuses_are_made(shape):
    source, _ = with_an_odd_one(shape)
    options = {'seed': 0, 'batch_size': 4, 'start_step': 0, 'total_steps': 4}
    canvases = pipeline.canvas_batches(with_an_odd_one(shape)[0], **options)
    views = pipeline.train_batches(source, (IDENTITY,) * 2, image_size=12, **options)
    for canvas, batch in zip(canvases, views, strict=True):
        np.testing.assert_array_equal(batch['index'], canvas['index'])


def test_a_record_that_nothing_decodes_is_named():
    records = [example.serialize(b'\xff\xd8\xff no picture')] * 4
    source = sources.Source(lambda chosen: [records[i] for i in chosen], 4, (None, None, 3), None)
    options = {'seed': 0, 'batch_size': 2, 'start_step': 0, 'total_steps': 1}
    with pytest.raises(RunError, match=r'record \d cannot be decoded'):
        next(pipeline.canvas_batches(source, **options))


def damaged(root, kind):
    """A source of eight files, of which number 3 is cut after it was indexed."""
    (root / 'pictures').mkdir()
    for i in range(8):
        PHOTO.crop((0, 0, 50 + i, 60)).save(root / 'pictures' / f'{i}.{kind}')
    source = open_folder(root / 'pictures', root, canvas=64, max_bad_fraction=0.5)
    whole = (root / 'pictures' / f'3.{kind}').read_bytes()
    (root / 'pictures' / f'3.{kind}').write_bytes(whole[: len(whole) // 2])
    return source


@pytest.mark.parametrize('kind', ['jpg', 'png', 'tif'])
def test_a_file_that_is_damaged_after_it_was_indexed_is_left_out_and_counted(
    kind, tmp_path, capsys
):
    source = damaged(tmp_path, kind)
    options = {'seed': 0, 'batch_size': 4, 'start_step': 0, 'total_steps': 4}
    batches = list(pipeline.canvas_batches(source, **options))
    assert len(batches) == 4 and list(source.bad) == [f'3.{kind}']
    for batch in batches:
        for index, image in zip(batch['index'], batch['image'], strict=True):
            if index == 3:  # the next one takes its place
                assert image[:60, :54].any() and image[0, 53].any()
    assert f'3.{kind}: can no longer be decoded' in capsys.readouterr().out
    (batch,) = pipeline.eval_batches(source, batch_size=8, image_size=32)
    np.testing.assert_array_equal(batch['image'][3], batch['image'][4])


@pytest.mark.parametrize('kind', ['jpg', 'png', 'tif'])
def test_a_damaged_file_is_left_out_of_device_memory(kind, tmp_path):
    source = damaged(tmp_path, kind)
    arrays = device.load(source)
    np.testing.assert_array_equal(arrays.images[3], arrays.images[4])
    assert tuple(arrays.sizes[3]) == (60, 54) and list(source.bad) == [f'3.{kind}']


def test_a_damaged_record_ends_the_reading_into_device_memory_by_its_number():
    records = [example.serialize(b'\xff\xd8\xff no picture')] * 4
    source = sources.Source(lambda chosen: [records[i] for i in chosen], 4, (8, 8, 3), None)
    with pytest.raises(RunError, match=r'record \d cannot be decoded'):
        device.load(source)


@pytest.mark.slow
def test_views_are_made_without_a_damaged_file(tmp_path):
    source = damaged(tmp_path, 'jpg')
    options = {'seed': 0, 'batch_size': 4, 'start_step': 0, 'total_steps': 4}
    views = pipeline.train_batches(source, (IDENTITY,) * 2, image_size=32, **options)
    assert len(list(views)) == 4 and list(source.bad) == ['3.jpg']
