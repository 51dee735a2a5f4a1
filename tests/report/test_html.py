import math
import pathlib
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from simclr_jax.report.html import format_table, write_report

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from page import Page

TABLE = {
    'linear_eval': {
        'encoder': {
            'all': {'mean': 0.9712, 'std': 0.0021},
            '10': {'mean': 0.912, 'std': 0.01},
            '1': {'mean': 0.61, 'std': 0},
        },
        'untrained': {'all': {'mean': 0.9, 'std': None}, '10': {'mean': 0.8, 'std': 0.012}},
        'raw_pixels': {'all': {'mean': 0.9708, 'std': None}, '10': {'mean': float('nan')}},
    },
    'knn': {
        'encoder': {'all': {'mean': 0.98, 'std': None}},
        'untrained': None,
        'raw_pixels': {'all': {'mean': 1.0, 'std': None}},
    },
}


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 2, 8, 8, 1), dtype=np.uint8)
    path = tmp_path_factory.mktemp('report') / 'new' / 'report.html'
    write_report(
        path,
        title='SimCLR <on> "digits" & more',
        summary={
            'command': 'python run.py --config=a&b',
            'method': '<script>alert(1)</script>',
            'encoder': None,
            'steps': 3000,
            'seconds': 63.2,
            'images_per_second': 12345.6,
        },
        table=TABLE,
        notes=['On test of <digits>.'],
        metrics=[{'step': i, 'loss': 1.0 / (i + 1)} for i in range(9)],
        chance={'loss': math.log(255)},
        views=images,
        neighbours={
            'queries': images[:2, 0],
            'neighbours': images[:2],
            'query_labels': np.array([0, 1]),
            'neighbour_labels': np.array([[0, 1], [1, 0]]),
            'label_names': ['</svg>', 'b'],
            'similarities': np.full((2, 2), 0.5),
        },
        projection={
            'points': rng.normal(size=(20, 2)),
            'labels': np.arange(20) % 2,
            'label_names': ['</svg>', 'b'],
        },
        config_text='seed: 1\nname: "</pre><img src=http://elsewhere>"',
    )
    return path.read_text()


def test_the_page_is_whole_and_alone(page):
    parsed = Page(page)
    assert dict(parsed.all('html')[0]) == {'lang': 'en'}
    assert parsed.text['h1'] == ['SimCLR <on> "digits" & more'] == parsed.text['title'][:1]
    assert parsed.text['h2'] == [
        'Results',
        'Curves',
        'Augmented views',
        'Nearest neighbours',
        'Projection',
        'Config',
    ]
    assert 'seed: 1\nname: "</pre><img src=http://elsewhere>"' in parsed.text['pre']
    style = ''.join(parsed.text['style'])
    assert 'prefers-color-scheme: dark' in style
    assert 'url(' not in style and '@import' not in style


def test_what_was_run_is_said(page):
    parsed = Page(page)
    assert parsed.text['dt'] == ['command', 'method', 'steps', 'time', 'images/s']
    assert parsed.text['code'] == ['python run.py --config=a&b']
    assert parsed.text['dd'] == ['<script>alert(1)</script>', '3,000', '1m03s', '12,346']


def test_pictures_are_xml_with_a_label(page):
    pictures = re.findall(r'<svg.*?</svg>', page, re.S)
    assert len(pictures) == 3
    assert all(ET.fromstring(picture).get('aria-label') for picture in pictures)
    [image] = Page(page).all('img')
    assert image['alt'] == '4 images, 2 augmented views of each side by side'


def test_the_table_has_headers_and_the_best_in_bold(page):
    parsed = Page(page)
    scopes = [cell.get('scope') for cell in parsed.all('th')]
    assert scopes == ['col'] * 5 + ['row'] * 8
    # 97.12 and 97.08 read 97.1 both: neither is better.
    assert parsed.text['strong'] == ['97.1 ± 0.2', '97.1', '91.2 ± 1.0', '61.0', '100.0']
    assert parsed.text['td'] == ['90.0', '80.0 ± 1.2', 'nan', '-', '-', '98.0', '-']


def test_a_difference_within_the_standard_error_is_not_called_worse(tmp_path):
    table = {
        'knn': {
            'encoder': {'all': {'mean': 0.463, 'std': None}},
            'untrained': {'all': {'mean': 0.348, 'std': None}},
            'raw_pixels': {'all': {'mean': 0.46, 'std': None}},
        }
    }
    path = tmp_path / 'report.html'
    write_report(path, title='Clothes', table=table, test_size=300)
    parsed = Page(path.read_text())
    assert parsed.text['strong'] == ['46.3', '46.0']
    # sqrt(0.463 * 0.537 / 300) = 0.0288
    assert any('0.33 points' in p and 'up to 2.9 points' in p for p in parsed.text['p'])


def test_notes_stand_below_the_table(page):
    assert 'On test of <digits>.' in Page(page).text['p']


def test_sections_refer_to_headings_that_exist(page):
    parsed = Page(page)
    assert {section['aria-labelledby'] for section in parsed.all('section')} == parsed.ids


def test_what_is_missing_is_said(tmp_path):
    write_report(tmp_path / 'report.html', title='Nothing')
    parsed = Page((tmp_path / 'report.html').read_text())
    assert len(parsed.text['h2']) == 6
    assert parsed.text['p'] == [
        'What was run was not recorded.',
        'The run ended without an evaluation.',
        'No metrics were recorded.',
        'No augmented views were recorded.',
        'No nearest neighbours were computed.',
        'No projection was computed.',
        'The config was not recorded.',
    ]


def test_the_table_as_text():
    assert format_table(TABLE).split('\n') == [
        'probe   labels      encoder    untrained  raw pixels',
        'linear  all     97.1 +- 0.2         90.0        97.1',
        'linear  10      91.2 +- 1.0  80.0 +- 1.2         nan',
        'linear  1              61.0            -           -',
        'k-NN    all            98.0            -       100.0',
    ]


def test_an_empty_table_as_text_is_its_header():
    assert format_table({}) == 'probe  labels'
    assert format_table({'knn': None}) == 'probe  labels'
