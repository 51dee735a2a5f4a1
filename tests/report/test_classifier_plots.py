"""The learning curve and the confusion matrix: what is drawn where."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from simclr_jax.report.classifier_plots import Point, confusion_matrix, learning_curve

SVG = '{http://www.w3.org/2000/svg}'


def words(picture):
    return [text.text for text in ET.fromstring(picture).iter(f'{SVG}text')]


def lines(picture):
    """The points of each way's line."""
    return [
        np.array([point.split() for point in path.get('d')[1:].split('L')], float)
        for path in ET.fromstring(picture).iter(f'{SVG}path')
        if path.get('fill') == 'none' and 'L' in path.get('d')
    ]


def test_the_axis_is_logarithmic_and_higher_is_better():
    ways = {
        'fine-tuned': [Point(100, 0.9, 0.0), Point(10, 0.7, 0.05), Point(1, 0.4, 0.1)],
        'from scratch': [Point(100, 0.9, 0.0), Point(10, 0.5, 0.05), Point(1, 0.2, 0.1)],
    }
    picture = learning_curve(ways, 100)
    better, worse = lines(picture)
    np.testing.assert_allclose(np.diff(better[:, 0], 2), 0, atol=0.2)  # 1, 10, 100: evenly spaced
    assert (np.diff(better[:, 0]) > 0).all() and (np.diff(better[:, 1]) < 0).all()
    np.testing.assert_allclose(better[:, 0], worse[:, 0])
    assert (better[:2, 1] < worse[:2, 1]).all() and better[2, 1] == worse[2, 1]
    # 0.4 against 0.2 with one label, 0.7 against 0.5 with ten: the same distance on a linear axis.
    np.testing.assert_allclose(*(worse - better)[:2, 1], atol=0.2)
    assert {'all (100)', '10', '1', 'fine-tuned', 'from scratch'} <= set(words(picture))
    label = ET.fromstring(picture).get('aria-label')
    assert 'fine-tuned: 40.0 with 1, 70.0 with 10, 90.0 with 100' in label


def test_a_band_is_one_deviation_to_either_side_and_stays_inside():
    picture = learning_curve({'linear': [Point(1, 0.5, 0.1), Point(10, 0.99, 0.05)]})
    root = ET.fromstring(picture)
    [band] = [path for path in root.iter(f'{SVG}path') if path.get('d').endswith('Z')]
    points = np.array(re.findall(r'([\d.]+) ([\d.]+)', band.get('d')), float)
    [line] = lines(picture)
    upper, lower = points[0, 1], points[3, 1]
    np.testing.assert_allclose(lower - line[0, 1], line[0, 1] - upper, atol=0.2)
    assert upper < line[0, 1] and points[:, 1].min() >= 34  # not above 100 percent


def test_names_that_would_touch_are_left_out_but_never_that_of_all():
    ways = {'k-NN': [Point(n, 0.5 + n / 1000, 0.0) for n in (1, 10, 100, 104.5)]}
    found = words(learning_curve(ways, 104.5))
    assert 'all (104)' in found and '100' not in found and '10' in found


def test_ways_that_end_alike_have_names_apart():
    ways = {f'way {i}': [Point(1, 0.2, 0.0), Point(10, 0.9, 0.0)] for i in range(4)}
    root = ET.fromstring(learning_curve(ways))
    heights = sorted(
        float(text.get('y')) for text in root.iter(f'{SVG}text') if text.text.startswith('way')
    )
    assert min(np.diff(heights)) >= 18 and heights[0] > 0 and heights[-1] < 392


@pytest.mark.parametrize(
    'points', [[Point(5, 0.0, 0.0)], [Point(1, 1.0, 0.0), Point(2, 1.0, 0.0)], [Point(0.5, 0.3, 0)]]
)
def test_odd_curves_are_drawn(points):
    picture = learning_curve({'linear': points})
    assert 'nan' not in picture and 'inf' not in picture


def test_nothing_to_draw_is_no_picture():
    assert learning_curve({}) == learning_curve({'linear': []}) == ''


def pixels(picture):
    [image] = ET.fromstring(picture).iter(f'{SVG}image')
    data = base64.b64decode(image.get('href').split(',')[1])
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def test_a_row_is_a_class_and_its_counts_and_share_are_written():
    counts = np.array([[8, 2, 0], [0, 5, 0], [0, 0, 0]])
    picture = confusion_matrix(counts, ['<cat>', 'dog', 'never'])
    found = words(picture)
    assert {'<cat>', 'dog', 'never', '8', '2', '5', '80 %', '100 %', '-'} <= set(found)
    assert '0' not in found  # an empty cell is empty
    shown = pixels(picture)
    assert shown.shape == (3, 3, 4)
    assert shown[0, 1, 3] == round(255 * math.sqrt(0.2)) and shown[1, 0, 3] == 0
    assert (shown[0, 0, :3] == shown[1, 1, :3]).all() and (shown[0, 1] != shown[0, 0]).any()
    root = ET.fromstring(picture)
    [two] = [text for text in root.iter(f'{SVG}text') if text.text == '2']
    [image] = root.iter(f'{SVG}image')
    column, row = (
        int((float(two.get(axis)) - float(image.get(axis))) // 44) for axis in ('x', 'y')
    )
    assert (row, column) == (0, 1)
    assert root.get('aria-label') == 'Confusion matrix of 3 classes: 13 of 15 pictures right'


@pytest.mark.parametrize('classes, named', [(30, True), (100, True), (200, True), (1000, False)])
def test_many_classes_have_their_names_while_there_is_room(classes, named):
    names = [f'a rather long name {i:04}' for i in range(classes)]
    picture = confusion_matrix(np.eye(classes, dtype=int) * 3, names)
    root = ET.fromstring(picture)
    shown = sum(text.text.startswith('a rather long name') for text in root.iter(f'{SVG}text'))
    assert shown == (2 * classes if named else 0)
    assert len(picture) < 200_000
    assert pixels(picture).shape == (classes, classes, 4)
    # Names are at least nine pixels high, and rows are apart by more.
    sizes = [float(group.get('font-size')) for group in root.iter(f'{SVG}g')]
    [image] = root.iter(f'{SVG}image')
    assert all(9 <= size < float(image.get('height')) / classes for size in sizes)
