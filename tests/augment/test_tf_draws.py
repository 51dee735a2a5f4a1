"""What `tf_draws` draws: the parameters of the views, and the boxes of the crops."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from simclr_jax.augment import tf_draws
from simclr_jax.augment.recipe import PRESETS, ViewRecipe

SEED = (3, 4)
DRAWS = 20_000

# --- what is drawn ---


def _ks(values, cdf):
    return scipy.stats.kstest(np.asarray(values), cdf).pvalue


@pytest.mark.parametrize('name', PRESETS)
@pytest.mark.parametrize('view', [0, 1])
def test_parameters_follow_the_recipe(name, view):
    recipe = PRESETS[name][view]
    drawn = {k: v.numpy() for k, v in tf_draws.sample_parameters(recipe, (5, view), DRAWS).items()}
    assert {len(values) for values in drawn.values()} == {DRAWS}
    around = {'contrast': 1.0, 'saturation': 1.0, 'hue': 0.0}
    around['brightness'] = 0.0 if recipe.brightness_mode == 'additive' else 1.0
    for key, centre in around.items():
        strength = getattr(recipe, key)
        assert _ks(drawn[key], scipy.stats.uniform(centre - strength, 2 * strength).cdf) > 1e-3
    low, high = recipe.blur_sigma
    assert _ks(drawn['sigma'], scipy.stats.uniform(low, high - low).cdf) > 1e-3
    assert _ks(drawn['crop'].ravel(), 'uniform') > 1e-3
    for key in ('flip', 'jitter', 'grayscale', 'blur', 'solarize'):
        probability = getattr(recipe, f'{key}_probability')
        assert scipy.stats.binomtest(drawn[key].sum(), DRAWS, probability).pvalue > 1e-3
    _, counts = np.unique(drawn['order'], axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_factors_are_not_negative():
    recipe = ViewRecipe(brightness=3.0, contrast=3.0, saturation=3.0)
    drawn = tf_draws.sample_parameters(recipe, SEED, DRAWS)
    for name in ('brightness', 'contrast', 'saturation'):
        assert _ks(drawn[name], scipy.stats.uniform(0, 4).cdf) > 1e-3


def test_rotations_fill_their_range():
    drawn = tf_draws.sample_parameters(ViewRecipe(rotation=20.0), SEED, DRAWS)
    assert _ks(drawn['rotation'], scipy.stats.uniform(-20, 40).cdf) > 1e-3


def test_parameters_are_independent_of_each_other():
    recipe = ViewRecipe(solarize_probability=0.5, rotation=20.0)
    drawn = tf_draws.sample_parameters(recipe, SEED, DRAWS)
    columns = [np.float64(drawn[k]) for k in sorted(drawn) if drawn[k].shape.rank == 1]
    columns += [np.float64(drawn['crop'][:, 0, i]) for i in range(4)]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(DRAWS)


def test_a_parameter_does_not_depend_on_the_rest_of_the_recipe():
    first = tf_draws.sample_parameters(ViewRecipe(), SEED, 64)
    second = tf_draws.sample_parameters(PRESETS['byol'][1], SEED, 64)
    for name in ('crop', 'flip', 'order', 'sigma', 'grayscale'):
        np.testing.assert_array_equal(first[name], second[name])


def test_the_seed_decides():
    recipe = ViewRecipe(solarize_probability=0.5, rotation=20.0)
    graph = tf.function(lambda seed: tf_draws.sample_parameters(recipe, seed, 64))
    first, again = graph(tf.constant([1, 2])), tf_draws.sample_parameters(recipe, (1, 2), 64)
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
        for other in ([1, 3], [2, 2], [2, 1]):
            assert not np.array_equal(values, graph(tf.constant(other))[name]), (name, other)


# --- boxes ---

SIZES = [(224, 224), (375, 500), (500, 90), (32, 32)]


def _boxes(recipe, height, width, n=2000, seed=SEED):
    parameters = tf_draws.sample_parameters(recipe, seed, n)
    boxes = tf_draws.crop_boxes(recipe, parameters, tf.fill([n], height), tf.fill([n], width))
    return boxes.numpy(), parameters['crop'].numpy().astype(np.float64)


@pytest.mark.parametrize('sampler', ['tensorflow', 'byol', 'torchvision', 'continuous'])
def test_boxes_are_inside(sampler):
    recipe = ViewRecipe(crop_sampler=sampler)
    sizes = [(1, 1), (1, 2), (2, 1), (3, 7), (8, 8), (1, 900), (5000, 30), (30, 5000), (640, 480)]
    heights, widths = np.repeat(np.int32(sizes), 200, axis=0).T
    parameters = tf_draws.sample_parameters(recipe, SEED, len(heights))
    y, x, h, w = tf_draws.crop_boxes(recipe, parameters, heights, widths).numpy().T
    assert min(y.min(), x.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    # 1e-6: float32 rounding of boxes that end between pixels.
    assert (y + h <= heights * (1 + 1e-6)).all()
    assert (x + w <= widths * (1 + 1e-6)).all()


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_tensorflow_boxes_have_its_distribution(height, width):
    @tf.function
    def reference():
        def draw(i):
            begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                [height, width, 3],
                tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
                seed=tf.stack([7, i]),
                min_object_covered=0.1,
                aspect_ratio_range=(3 / 4, 4 / 3),
                area_range=(0.08, 1.0),
                max_attempts=100,
                use_image_if_no_bounding_boxes=True,
            )
            return tf.concat([begin[:2], size[:2]], 0)

        return tf.map_fn(draw, tf.range(4000), parallel_iterations=1)

    ours, _ = _boxes(ViewRecipe(), height, width, 4000)
    theirs = reference().numpy()
    for boxes in (ours, theirs):  # smaller ones cover less than 0.1 of the object
        assert 0.1 <= (boxes[:, 2] * boxes[:, 3]).min() / (height * width) < 0.11
    for name, value in {
        'area': lambda y, x, h, w: h * w,
        'aspect': lambda y, x, h, w: w / h,
        'y': lambda y, x, h, w: y / np.maximum(height - h, 1),
        'x': lambda y, x, h, w: x / np.maximum(width - w, 1),
    }.items():
        test = scipy.stats.ks_2samp(value(*ours.T), value(*theirs.T))
        assert test.pvalue > 1e-3, (name, test)


def test_tensorflow_takes_the_whole_image_where_nothing_fits():
    boxes, _ = _boxes(ViewRecipe(), 5000, 30)
    np.testing.assert_array_equal(np.unique(boxes, axis=0), [[0, 0, 5000, 30]])


def _torchvision_box(uniforms, height, width, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)):
    """`RandomResizedCrop.get_params` with the uniforms given."""
    for u in uniforms:
        target = height * width * (area[0] + u[0] * (area[1] - area[0]))
        ratio = np.exp(np.log(aspect[0]) + u[1] * (np.log(aspect[1]) - np.log(aspect[0])))
        w, h = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < aspect[0]:
        h = round(w / aspect[0])
    elif width / height > aspect[1]:
        w = round(h * aspect[1])
    return (height - h) // 2, (width - w) // 2, h, w


def _byol_box(uniforms, height, width):
    """`_decode_and_random_crop` of BYOL with the uniforms given."""
    u = uniforms[0]
    area = (0.08 + u[0] * 0.92) * height * width
    ratio = np.exp(np.log(3 / 4) + u[1] * (np.log(4 / 3) - np.log(3 / 4)))
    w, h = min(round(np.sqrt(area * ratio)), width), min(round(np.sqrt(area / ratio)), height)
    return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w


@pytest.mark.parametrize(('height', 'width'), [*SIZES, (300, 40), (40, 300), (5000, 30)])
@pytest.mark.parametrize(
    ('sampler', 'reference'), [('torchvision', _torchvision_box), ('byol', _byol_box)]
)
def test_boxes_equal_the_published_rule(sampler, reference, height, width):
    boxes, uniforms = _boxes(ViewRecipe(crop_sampler=sampler), height, width)
    expected = np.array([reference(u, height, width) for u in uniforms])
    # float32 against float64 may round a side differently; nothing else may differ.
    assert (boxes == expected).all(axis=1).mean() >= 0.998
    assert np.abs(boxes - expected)[:, 2:].max() <= 1


def test_continuous_boxes_fill_the_recipes_ranges_between_pixels():
    recipe = ViewRecipe(crop_sampler='continuous', crop_area=(0.3, 0.5), crop_aspect=(0.9, 1.1))
    boxes, _ = _boxes(recipe, 8, 8, 20_000)
    assert boxes.dtype == np.float32
    y, x, h, w = boxes.astype(np.float64).T
    uniform = {
        'area': (h * w / 64, 0.3, 0.5),
        'aspect': (np.log(w / h), np.log(0.9), np.log(1.1)),
        'y': (y / (8 - h), 0, 1),
        'x': (x / (8 - w), 0, 1),
    }
    for name, (values, low, high) in uniform.items():
        test = scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf)
        assert test.pvalue > 1e-3, (name, test)
