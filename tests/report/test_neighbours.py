import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from simclr_jax.report import neighbours

RNG = np.random.default_rng(0)


class Page(HTMLParser):
    """Fails on tags that do not balance and on addresses that lead out of the file."""

    EMPTY = ('meta', 'img', 'br')

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags, self.ids, self.links = [], {}, [], set(), set()
        self.feed(text)
        self.close()
        assert self.open == []
        assert self.links <= self.ids

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ('script', 'link', 'iframe', 'object')
        for name, value in attributes.items():
            assert not name.startswith('on')
            if name == 'src':
                assert value.startswith('data:image/jpeg;base64,')
            if name == 'href':
                assert value.startswith('#')
                self.links.add(value[1:])
        if 'id' in attributes:
            assert attributes['id'] not in self.ids
            self.ids.add(attributes['id'])
        self.tags.append((tag, attributes))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def write(path, **changes):
    arguments = {
        'title': 'Neighbours in <pictures>',
        'summary': {'pictures': 500, 'command': 'simclr-jax --data=a&b'},
        'pixels': lambda row: np.full((20, 30, 3), row % 256, np.uint8) if row != 3 else None,
        'name': lambda row: f'<b>/{row}.jpg',
        'label': lambda row: 'cats & dogs' if row % 2 else None,
        'groups': [([1, 2, 3], [0.99999, 0.98]), ([7, 8], [0.97])],
        'threshold': 0.9612,
        'how': 'That is what nine of ten copies reach.',
        'clusters': [(9, [1, 4], {0: 5, 2: 3, 1: 1}), (2, [5], {})],
        'label_names': ['cats & dogs', 'b', 'c'],
        'odd': ([9, 11], [0.1234, 0.2]),
        'count': 500,
    } | changes
    neighbours.write_neighbours(path, **arguments)
    return path.read_text()


def test_the_page_is_whole_and_alone(tmp_path):
    text = write(tmp_path / 'page.html')
    page = Page(text)
    assert page.text['h1'] == ['Neighbours in <pictures>']
    assert page.text['h2'] == ['Near-duplicates', 'Clusters', 'Odd ones out']
    assert page.text['a'] == page.text['h2']  # what is on the page, for the keyboard
    style = ''.join(page.text['style'])
    assert 'prefers-color-scheme: dark' in style
    assert 'url(' not in style and '@import' not in style
    assert {section['aria-labelledby'] for section in page.all('section')} == page.ids


def test_each_picture_stands_with_its_name(tmp_path):
    page = Page(write(tmp_path / 'page.html'))
    names = page.text['figcaption']
    assert names == [f'<b>/{row}.jpg' for row in (1, 2, 3, 7, 8, 1, 4, 5, 9, 11)]
    spans = page.text['span']
    assert spans[:3] == ['cats & dogs', '1.0000', 'cannot be read any more']
    assert spans[-2:] == ['cats & dogs, 0.123', 'cats & dogs, 0.200']
    assert len(page.all('img')) == 9
    assert all(image['alt'] == '' for image in page.all('img'))  # the name would be read twice


def test_groups_and_clusters_are_counted(tmp_path):
    page = Page(write(tmp_path / 'page.html'))
    assert page.text['h3'] == [
        'Group 1: 3 pictures',
        'Group 2: 2 pictures',
        'Cluster 1: 9 pictures',
        'Cluster 2: 2 pictures',
    ]
    words = ' '.join(page.text['p'])
    assert 'similarity is 0.9612 or more. That is what nine of ten copies reach.' in words
    assert '5 of 500 pictures, in 2 groups.' in words
    assert 'cats & dogs 56%, c 33%, b 11%' in words
    assert 'repeat themselves' not in words


def test_many_duplicates_are_said_to_be_doubtful(tmp_path):
    groups = [([2 * i, 2 * i + 1], [0.99]) for i in range(60)]
    page = Page(write(tmp_path / 'page.html', groups=groups))
    words = ' '.join(page.text['p'])
    assert '120 of 500 pictures, in 60 groups; the 40 most similar groups are shown.' in words
    assert 'repeat themselves' in words


def test_nothing_to_show_is_said(tmp_path):
    page = Page(write(tmp_path / 'page.html', groups=[], clusters=[], odd=([], [])))
    words = ' '.join(page.text['p'])
    assert 'There are none.' in words and words.count('too few pictures') == 2


@pytest.mark.parametrize('shape', [(300, 200, 3), (97, 5000, 3), (8, 8, 1), (2, 2, 3)])
def test_a_thumbnail_is_small_even_of_noise(shape):
    made = neighbours.thumbnail(RNG.integers(0, 256, shape, np.uint8))
    assert len(made) <= neighbours.MOST_BYTES
    with Image.open(io.BytesIO(made)) as image:
        assert image.format == 'JPEG' and max(image.size) <= 96


def test_the_largest_page_stays_below_five_megabytes(tmp_path):
    noise = RNG.integers(0, 256, (192, 192, 3), np.uint8)
    text = write(
        tmp_path / 'page.html',
        pixels=lambda row: noise,
        name=lambda row: 'x' * 1000,
        groups=[(list(range(50)), [0.99] * 49)] * 100,
        clusters=[(1000, list(range(neighbours.CENTRAL)), {})] * 30,
        odd=(list(range(neighbours.ODD)), [0.1] * neighbours.ODD),
    )
    assert len(re.findall('<img', text)) == neighbours.MOST_THUMBNAILS
    assert len(text) < 5e6
