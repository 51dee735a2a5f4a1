"""The page of a segmentation run."""

import pathlib
import sys

import numpy as np
import pytest

from simclr_jax.report.segmentation import MOST_SAMPLES, Sample, write_segmentation

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from page import Page

NAMES = ('<sky>', 'cat & dog', 'road')


def figure(miou, accuracy, *each):
    per_class = dict(zip(NAMES, each, strict=True))
    return {'miou': miou, 'pixel_accuracy': accuracy, 'per_class': per_class}


FIGURES = {
    'linear': {
        'encoder': figure(0.5, 0.8123, 0.9, 0.1, None),
        'raw_pixels': figure(0.2, 0.4, 0.3, 0.1, None),
    },
    'fcn': {'encoder': figure(None, None, None, None, None)},
}


def sample(name='a <b>.png', side=24, **changes):
    random = np.random.default_rng(0)
    mask = random.integers(-1, 2, (side, side))
    wrong = np.where(np.arange(side) < side // 2, np.maximum(mask, 0), 1 - np.maximum(mask, 0))
    one = Sample(
        name,
        random.integers(0, 256, (side, side, 3), np.uint8),
        mask,
        {'linear': np.maximum(mask, 0), 'fcn': wrong},
        random.integers(0, 256, (3, 4, 3), np.uint8),
    )
    return one._replace(**changes)


def page(tmp_path, samples=()):
    path = tmp_path / 'report.html'
    write_segmentation(
        path,
        title='masks of <x>',
        summary={'command': 'run'},
        figures=FIGURES,
        label_names=NAMES,
        shares=[0.6, 0.3, 0.1],
        notes=['Note & more.'],
        samples=samples,
        metrics=(),
        views=None,
        config_text='seed: 0',
    )
    text = path.read_text()
    return Page(text), text


def test_tables_and_their_headings(tmp_path):
    found, text = page(tmp_path)
    assert found.text['h2'][:3] == ['Results', 'Classes', 'Pictures']
    assert all(heading['scope'] for heading in found.all('th'))
    # The best of each row, and none where there is nothing to compare.
    assert found.text['strong'] == ['50.0', '81.2']
    results, classes = found.text['td'][:6], found.text['td'][6:]
    assert results == ['20.0', '40.0', '-', '-', '-', '-']
    assert classes[:4] == ['60.0', '90.0', '30.0', '-']
    shares = [cell.get('style') for cell in found.all('td')][8:]
    assert shares[:4] == ['--share:60.0%', '--share:90.0%', '--share:30.0%', None]
    assert {'FCN', 'raw pixels', 'linear'} <= {*found.text['th']}
    assert 'Note &amp; more.' in text
    assert '<sky>' not in text
    assert 'There are no pictures to show.' in text


def test_pictures_have_their_masks_beside_them(tmp_path):
    samples = [sample(attention=np.random.default_rng(0).random((3, 4))), sample('plain.png')]
    found, text = page(tmp_path, samples)
    captions = [caption.strip() for caption in found.text['figcaption']]
    assert captions[:6] == ['picture', 'mask', 'linear', 'FCN', 'maps', 'attention']
    assert captions[6:] == captions[:5]
    right = np.mean((samples[0].predictions['fcn'] == samples[0].mask)[samples[0].mask >= 0])
    assert 0.3 < right < 0.7
    assert found.text['span'] == ['100.0 %', f'{100 * right:.1f} %'] * 2
    assert found.text['h3'] == ['a <b>.png', 'plain.png']
    assert all(image['alt'] for image in found.all('img'))
    assert found.all('img')[1]['alt'].startswith('the mask of a <b>.png: ')
    # Only the classes that are there, and the ignored ones.
    assert found.text['li'] == ['<sky>', 'cat & dog', 'ignored']
    assert 'Attention:' in text
    assert 'Attention:' not in page(tmp_path, samples[1:])[1]


def test_a_picture_without_a_labelled_pixel_has_no_share(tmp_path):
    found, text = page(tmp_path, [sample('blank', mask=np.full((24, 24), -1))])
    assert 'span' not in found.text
    assert 'the mask of blank: all pixels are ignored' in text


def test_a_gray_picture(tmp_path):
    found, _ = page(tmp_path, [sample(picture=np.zeros((24, 24, 1), np.uint8))])
    assert found.all('img')[0]['width'] == '24'


def test_a_page_stays_small_and_says_what_it_leaves_out(tmp_path):
    found, text = page(tmp_path, [sample(side=400)] * (MOST_SAMPLES + 1))
    assert f'The first {MOST_SAMPLES} of {MOST_SAMPLES + 1} test pictures' in text
    assert len(found.text['h3']) == MOST_SAMPLES
    assert {image['width'] for image in found.all('img')} == {'320', '4'}
    assert len(text) < 8e6


def test_masks_that_do_not_fit_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r'mask of x is \(4, 4\): it must have the size'):
        page(tmp_path, [sample('x', mask=np.zeros((4, 4), int))])
    with pytest.raises(ValueError, match='fcn of x runs from 3 to 3: there are the classes 0 to 2'):
        page(tmp_path, [sample('x', predictions={'fcn': np.full((24, 24), 3)})])
    assert not list(tmp_path.iterdir())
