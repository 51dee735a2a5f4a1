"""The pictures made, and the benchmark's figures, without their speed."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax.augment.recipe import PRESETS
from simclr_jax.data import example
from simclr_jax.tools import bench_input


def test_pictures_are_as_large_as_is_said():
    source = bench_input.made_source()
    files = [example.parse(record)[0] for record in source.read(range(source.num_examples))]
    assert len(set(files)) == source.num_examples
    assert 70_000 < np.mean([len(file) for file in files]) < 90_000
    assert Image.open(io.BytesIO(files[0])).size == (500, 375)


@pytest.mark.slow
def test_every_pipeline_is_measured():
    rates = bench_input.measure(
        bench_input.made_source(8), PRESETS['simclr'], 32, batch_size=4, seconds=0.01, turns=1
    )
    assert rates.keys() == {'decode', 'tf', 'jax'}
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.slow
def test_views_are_a_small_part_of_the_step():
    cost = bench_input.augmentation_cost(PRESETS['simclr'], 224, 512, 'bfloat16')
    # Two products for the crop and two for the blur: see below; the rest is a few per cent of it.
    crop = 2 * (224 * 512 * 512 + 224 * 224 * 512) * 3
    blur = 2 * 2 * 224 * 224 * 224 * 3
    products = (crop + blur) / 1e9
    assert products < cost['gflop_per_view'] < 1.15 * products
    assert 0.01 < cost['flop_share'] < 0.05
