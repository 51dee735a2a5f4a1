import base64
import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from simclr_jax.report import plots, svg

SVG = '{http://www.w3.org/2000/svg}'


def _open(png):
    image = Image.open(io.BytesIO(png))
    image.verify()
    return np.asarray(Image.open(io.BytesIO(png)))


def _words(svg):
    return [text.text for text in ET.fromstring(svg).iter(f'{SVG}text')]


def test_pillow_reads_the_png_back():
    pixels = np.random.default_rng(0).integers(0, 256, (13, 7, 4), dtype=np.uint8)
    np.testing.assert_array_equal(_open(svg.png(pixels)), pixels)


def test_curves_leave_out_what_is_missing():
    metrics = [{'step': s, 'loss': 5.0 - s, 'probe_accuracy': None} for s in range(4)]
    [panel] = plots.curves(metrics)
    root = ET.fromstring(panel)
    assert root.get('role') == 'img'
    assert root.get('aria-label') == 'Loss: 5 at step 0, 2 at step 3'
    assert plots.curves([]) == []
    metrics[0] |= {'learning_rate': 0.1, 'probe_accuracy': 0.5}
    assert [_words(panel)[0] for panel in plots.curves(metrics)] == [
        'Loss',
        'Learning rate',
        'Probe accuracy',
    ]


def test_the_loss_of_chance_is_a_line_inside_the_picture_and_in_its_label():
    metrics = [{'step': step, 'loss': 4.0 - step} for step in range(3)]
    [panel] = plots.curves(metrics, {'loss': 5.5})
    root = ET.fromstring(panel)
    [line] = [path for path in root.iter(f'{SVG}path') if path.get('stroke-dasharray')]
    height = float(re.match(r'M52 ([\d.]+)H300', line.get('d'))[1])
    stretches, _ = _paths(panel)
    assert 28 <= height < min(y for stretch in stretches for _, y in stretch)  # above the losses
    assert {'chance', 'step'} <= set(_words(panel))
    assert root.get('aria-label').endswith('; chance is 5.5')


def _paths(panel):
    """The points of each stretch of the line, and the dots."""
    line, dots = list(ET.fromstring(panel).iter(f'{SVG}path'))[-2:]
    stretches = [
        [tuple(map(float, point.split())) for point in stretch.split('L')]
        for stretch in line.get('d').split('M')[1:]
    ]
    return stretches, re.findall(r'M([\d.]+) ([\d.]+)h0', dots.get('d'))


def test_what_is_not_finite_leaves_a_gap_and_is_counted():
    losses = [3, 2, math.nan, 1, math.inf, 2, 3, -math.inf]
    [panel] = plots.curves([{'step': i, 'loss': loss} for i, loss in enumerate(losses)])
    stretches, dots = _paths(panel)
    assert [len(stretch) for stretch in stretches] == [2, 2]
    assert len(dots) == 1
    assert _words(panel)[0] == 'Loss (3 not finite)'
    # Higher is up, later is right, and everything is inside the picture.
    (x0, y0), (x1, y1) = stretches[0]
    assert x0 < x1 < 320 and 0 < y0 < y1 < 200


@pytest.mark.parametrize('losses', [[math.nan] * 3, [2.0], [0.0, 0.0], [-1e-9, 1e12], [1e-30]])
def test_curves_of_odd_values_are_drawn(losses):
    [panel] = plots.curves([{'step': 10**6 + i, 'loss': loss} for i, loss in enumerate(losses)])
    root = ET.fromstring(panel)
    assert 'nan' not in ''.join(path.get('d') for path in root.iter(f'{SVG}path'))


def test_a_long_curve_is_thinned_but_keeps_its_spike_and_its_gap():
    loss = np.sin(np.arange(50_000) / 5000) + 2
    loss[31_234] = 9.0
    loss[12_345] = math.nan
    [panel] = plots.curves([{'step': i, 'loss': v} for i, v in enumerate(loss)])
    stretches, _ = _paths(panel)
    assert len(stretches) == 2
    assert sum(map(len, stretches)) < 1000
    assert min(y for stretch in stretches for _, y in stretch) == 28.0  # the top: the spike
    assert len(panel) < 20_000


@pytest.mark.parametrize('low, high', [(0, 1), (0.37, 0.38), (2.3, 7.1), (100, 90_000), (-3, 1)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = svg.ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert low <= ticks[0] and ticks[-1] <= high
    step = ticks[1] - ticks[0]
    assert f'{step:.6e}'[0] in '125' and np.allclose(np.diff(ticks), step)


@pytest.mark.parametrize('channels', [1, 3])
def test_small_views_are_enlarged_with_nearest_pixels(channels):
    views = np.random.default_rng(0).integers(0, 256, (5, 2, 8, 8, channels), dtype=np.uint8)
    sheet = _open(plots.view_sheet(views))
    assert sheet.shape == (96 + 14 + 96, 4 * 194 + 3 * 14, 4)
    # Image 4 begins the second row; its second view is two pixels to the right of its first.
    for view, x in ((0, 0), (1, 98)):
        tile = Image.fromarray(np.broadcast_to(views[4, view], (8, 8, 3)))
        expected = np.asarray(tile.resize((96, 96), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(sheet[110:, x : x + 96, :3], expected)
        assert (sheet[110:, x : x + 96, 3] == 255).all()
    assert (sheet[96:110, :, 3] == 0).all()  # the page shows through between images


def test_large_views_are_averaged_down():
    views = np.random.default_rng(0).integers(0, 256, (1, 2, 224, 224, 3), dtype=np.uint8)
    sheet = _open(plots.view_sheet(views))
    assert sheet.shape == (112, 226, 4)
    expected = Image.fromarray(views[0, 1]).reduce(2)
    np.testing.assert_allclose(sheet[:, 114:, :3].astype(int), np.asarray(expected), atol=1)


def test_images_must_be_uint8():
    with pytest.raises(ValueError, match=r'float32.*uint8'):
        plots.view_sheet(np.zeros((1, 2, 8, 8, 3), np.float32))


def test_neighbours_have_frames_names_and_similarities():
    rng = np.random.default_rng(0)
    svg = plots.neighbour_sheet(
        rng.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8),
        rng.integers(0, 256, (2, 3, 8, 8, 1), dtype=np.uint8),
        np.array([0, 1]),
        np.array([[0, 1, 0], [1, 1, 0]]),
        ['<cat>', 'a name too long for its picture'],
        np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]]),
    )
    frames = list(ET.fromstring(svg).iter(f'{SVG}rect'))
    same = [frame.get('stroke') == '#009e73' for frame in frames]
    assert same == [True, False, True, True, True, False]
    assert [frame.get('stroke-dasharray') is None for frame in frames] == same
    words = _words(svg)
    assert words[:5] == ['<cat>', '<cat>', '0.900', 'a name too l…', '0.800']
    assert words[-1] == '0.400'


def test_neighbours_without_labels_show_the_images_alone():
    queries = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1).repeat(8, 1).repeat(8, 2) * 100
    neighbours = np.full((2, 1, 8, 8, 1), 200, np.uint8)
    root = ET.fromstring(plots.neighbour_sheet(queries, neighbours))
    assert not list(root.iter(f'{SVG}rect')) and not list(root.iter(f'{SVG}text'))
    [image] = root.iter(f'{SVG}image')
    kind, data = image.get('href').split(',')
    assert kind == 'data:image/png;base64'
    pixels = _open(base64.b64decode(data))
    assert pixels.shape == (int(root.get('height')), int(root.get('width')), 4)
    assert [pixels[y, x, 0] for y in (50, 162) for x in (50, 162)] == [0, 200, 100, 200]


def test_every_point_is_drawn_in_its_labels_colour_and_shape():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 2))
    labels = np.arange(300) % 25
    root = ET.fromstring(plots.scatter(points, labels))
    every = list(root.iter(f'{SVG}path'))
    paths, legend = every[:25], every[25:]
    style_of = {path[0].text: (path.get('stroke'), path.get('stroke-linecap')) for path in paths}
    assert len(paths) == len(set(style_of.values())) == 25
    assert {p[0].text: (p.get('stroke'), p.get('stroke-linecap')) for p in legend} == style_of
    assert all(path.get('d').count('M') == 12 for path in paths)
    assert sorted(int(path[0].text) for path in paths) == list(range(25))


def test_the_projection_keeps_its_shape():
    root = ET.fromstring(plots.scatter(np.array([[0, 0], [4, 0], [0, 3]])))
    [path] = root.iter(f'{SVG}path')
    drawn = np.array(re.findall(r'M([\d.]+) ([\d.]+)', path.get('d')), float)
    across, up = drawn[1] - drawn[0], drawn[2] - drawn[0]
    assert across[0] > 0 > up[1]
    np.testing.assert_allclose(across[0] / -up[1], 4 / 3, rtol=1e-3)
    assert not _words(ET.tostring(root))


def test_names_stand_at_their_points_and_do_not_cover_each_other():
    points = np.array([[0, 0], [0, 0], [0, 0], [10, 10]])
    svg = plots.scatter(points, np.arange(4), ['here', 'too', 'as <well>', 'away'])
    texts = {
        t.text: (float(t.get('x')), float(t.get('y')))
        for t in ET.fromstring(svg).iter(f'{SVG}text')
    }
    assert texts.keys() == {'here', 'too', 'as <well>', 'away'}
    near = sorted(texts[name][1] for name in ('here', 'too', 'as <well>'))
    assert min(np.diff(near)) >= 18
    assert texts['away'][0] > texts['here'][0] and texts['away'][1] < near[0]


@pytest.mark.parametrize('points', [np.zeros((0, 2)), np.full((3, 2), math.nan), np.ones((3, 2))])
def test_odd_projections_are_drawn(points):
    svg = plots.scatter(points, np.zeros(len(points), int))
    assert 'nan' not in svg.lower()
    assert ('Left out, because not finite: 3' in svg) == bool(np.isnan(points).any())


def test_pictures_without_a_label_are_not_called_by_the_last_class():
    svg = plots.scatter(np.eye(3, 2), np.array([0, -1, -1]), ('cat', 'dog'))
    assert 'no label' in svg and 'cat' in svg and 'dog' not in svg
