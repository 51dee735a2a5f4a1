"""The preview shows what the first step trains on, and says truly what was drawn."""

import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_jax import config as config_lib
from simclr_jax.augment.recipe import PRESETS, ViewRecipe
from simclr_jax.config_loading import load
from simclr_jax.data import order, sources
from simclr_jax.modes import preview
from simclr_jax.report.sheet import describe, draw_sheet
from simclr_jax.tools.first_views import first_views

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs/simclr_digits.py')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


def drawn(**values) -> dict[str, np.ndarray]:
    defaults = {
        'box': (10, 20, 50, 100),
        'flip': True,
        'rotation': 0.0,
        'jitter': True,
        'order': (3, 0, 2, 1),
        'brightness': 0.25,
        'contrast': 1.5,
        'saturation': 0.75,
        'hue': -0.1,
        'grayscale': False,
        'blur': True,
        'sigma': 1.25,
        'solarize': False,
    }
    return {name: np.array([value]) for name, value in (defaults | values).items()}


def test_what_is_said_of_a_view():
    byol = PRESETS['byol'][0]
    assert describe(byol, drawn(), 0, (100, 200, 3), 224) == [
        'crop 50 x 100, 25%',
        '  from (10, 20)',
        'flip',
        'jitter',
        '  hue -0.10',
        '  brightness +0.25',
        '  saturation x 0.75',
        '  contrast x 1.50',
        'no grayscale',
        'blur, sigma 1.25',
    ]
    gray = ViewRecipe(flip_probability=0.0, rotation=10.0, blur_kernel_fraction=0.4)
    assert describe(gray, drawn(rotation=4.0, blur=False), 0, (100, 200, 1), 8) == [
        'crop 50 x 100, 25%',
        '  from (10, 20)',
        'rotation +4.0 degrees',
        'jitter',
        '  brightness x 0.25',
        '  contrast x 1.50',
        'no blur',
    ]


@pytest.fixture(scope='module', params=['tf', 'jax'])
def digits(data_dir, request):
    """The config, its source, and what `first_views` makes of them."""
    fields = {'data.image_size': '4', 'augment.backend': request.param, 'data.cache': 'none'}
    config = load(DIGITS, {'data.data_dir': data_dir} | fields)
    recipe = ViewRecipe(
        crop_area=(0.2, 1.0),
        crop_sampler='torchvision',
        interpolation='bilinear',
        jitter_probability=0.0,
        blur_probability=0.0,
    )
    config_lib.set_views(config, recipe)
    source = sources.open_source('digits', data_dir, 'train')
    return config, source, first_views(config, source)


def test_the_views_are_the_first_batch_cut_out_and_flipped_as_it_says(digits):
    config, source, (indices, originals, views, parameters) = digits
    want = order.batch_indices(config.seed, 0, config.batch_size, source.num_examples)[:8]
    np.testing.assert_array_equal(indices, want)
    for record, original in zip(source.read(indices), originals, strict=True):
        feature = tf.train.Example.FromString(record).features.feature
        png = Image.open(io.BytesIO(feature['image'].bytes_list.value[0]))
        np.testing.assert_array_equal(original[..., 0], png)
    assert len(views) == 8
    for view, of_view in enumerate(parameters):
        flips = of_view['flip']
        assert flips.any() and not flips.all()
        for row, (y, x, height, width) in enumerate(of_view['box'].astype(int)):
            cut = originals[row][y : y + height, x : x + width, 0].astype(np.float64)
            want = bilinear(cut, 4)
            want = want[:, ::-1] if flips[row] else want
            np.testing.assert_allclose(views[row, view, ..., 0], want, atol=0.51)


def bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel centres, no antialiasing, edges repeated; by NumPy's interpolation."""
    for axis in (0, 1):
        length = image.shape[axis]
        places = (np.arange(size) + 0.5) * length / size - 0.5
        image = np.apply_along_axis(
            lambda line, places=places: np.interp(places, np.arange(len(line)), line), axis, image
        )
    return image


def test_the_sheet_is_a_png_with_the_images_in_their_places(digits, tmp_path, monkeypatch, capsys):
    config, _, made = digits
    monkeypatch.setattr(preview, 'first_views', lambda *_: made)
    preview.main(config, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['preview.png']
    assert str(tmp_path / 'preview.png') in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / 'preview.png'))
    large = np.kron(made[2][0, 1, ..., 0], np.ones((56, 56), np.uint8))  # 4 pixels to 224
    found = [
        (y, x)
        for y in range(100)
        for x in range(sheet.shape[1] - 223)
        if (sheet[y, x : x + 224, 0] == large[0]).all()
        and (sheet[y : y + 224, x : x + 224] == large[..., None]).all()
    ]
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['tf', 'jax'])
def test_each_picture_of_a_folder_has_its_name_below_it(backend, tmp_path, monkeypatch):
    pictures = tmp_path / 'pictures'
    (pictures / 'gray').mkdir(parents=True)
    for value in range(0, 250, 10):
        Image.new('RGB', (20, 12), (value,) * 3).save(pictures / f'gray/{value}.png')
    fields = {
        'data.path': str(pictures),
        'data.data_dir': str(tmp_path / 'cache'),
        'data.image_size': '16',
        'model.encoder': 'resnet_tiny',
        'augment.backend': backend,
        'batch_size': '9',
    }
    shown = []
    monkeypatch.setattr(
        preview, 'draw_sheet', lambda *given: shown.append(given) or draw_sheet(*given)
    )
    preview.main(load(DIGITS.replace('digits', 'folder'), fields), str(tmp_path / 'run'))
    ((title, originals, *_, names),) = shown
    assert str(pictures) in title and ' pictures of ' in title
    assert names == [f'gray/{image[0, 0, 0]}.png' for image in originals] and len(set(names)) == 8


def test_a_file_is_no_workdir(data_dir, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(config_lib.ConfigError, match='is a file'):
        preview.main(load(DIGITS, {'data.data_dir': data_dir}), str(tmp_path / 'file'))
