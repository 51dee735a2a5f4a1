"""Every recipe for fine-tuning has the published rates, step by step, and a step that is traced."""

import math
import pathlib
import sys

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config_loading import load
from simclr_jax.data.sources import Source
from simclr_jax.train.setup import assemble
from simclr_jax.weights.description import Architecture, Head, Preprocess, Weights

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from published_recipes import FINETUNE_IMAGENET

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
PICTURES = {'1pct': 12_811, '10pct': 128_116}  # lines of SimCLR's lists; TFDS has no others
ALL = 1_281_167
V2 = Architecture('resnet50', padding='simclr', head=Head(2048, 128, 3))


def run_of(preset):
    config = load(f'{CONFIGS}/finetune_imagenet.py:{preset}')
    count = PICTURES.get(preset.rpartition('_')[2], ALL)
    names = tuple(map(str, range(1000)))
    source = Source(read=None, num_examples=count, image_shape=(224, 224, 3), label_names=names)
    start = Weights(V2, Preprocess(224), {}, {}) if 'simclr_v2' in preset else None
    return assemble(config, parallel.make_mesh(jax.devices()[:1]), source, start)


def cosine(peak, epochs):
    return lambda epoch: peak * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def cosine_by_epoch(peak, epochs):
    return lambda epoch: cosine(peak, epochs)(math.floor(epoch))


def multi_step(peak):
    return lambda epoch: peak * 0.2 ** (int(epoch >= 12) + int(epoch >= 16))


def warmed_up(peak, end, epochs):
    def rate(epoch):  # MAE's util/lr_sched.py
        if epoch < 5:
            return peak * epoch / 5
        return end + cosine(peak - end, epochs - 5)(epoch - 5)

    return rate


# preset -> the encoder's rate at a time in epochs, and the classifier's as a multiple of it
RATES = {
    'simclr_1pct': (cosine(0.8, 60), 1),
    'simclr_10pct': (cosine(0.8, 30), 1),
    'simclr_v2_1pct': (cosine(0.16, 60), 1),
    'simclr_v2_10pct': (cosine(0.16, 30), 1),
    'simclr_v2_100pct': (cosine(0.16, 30), 1),
    'byol_1pct': (cosine(0.02, 50), 1),
    'byol_10pct': (cosine(0.02, 50), 1),
    'byol_100pct': (cosine(0.02, 50), 1),
    'vicreg_1pct': (cosine_by_epoch(0.03, 20), 0.08 / 0.03),
    'vicreg_10pct': (cosine_by_epoch(0.01, 20), 10),
    'barlow_1pct': (multi_step(0.002), 250),
    'swav_1pct': (multi_step(0.02), 250),
    'swav_10pct': (multi_step(0.01), 20),
    'moco_v3_vit_b': (warmed_up(1e-3, 1e-5, 150), 1),
    'mae_vit_b': (warmed_up(2e-3, 1e-6, 100), 1),
}


def test_every_recipe_has_rates_here():
    assert set(RATES) == set(FINETUNE_IMAGENET)


@pytest.mark.parametrize('preset', RATES)
def test_rates_at_many_steps(preset):
    run, (rate, of_head) = run_of(preset), RATES[preset]
    length = run.length
    steps = np.unique(np.linspace(0, length.total_steps - 1, 199).astype(int))
    # Between two epochs a step may be on either side: its epoch has no whole number of steps.
    steps = [step for step in steps if 0.02 < length.epoch(step) % 1 < 0.98] + [0]
    found = jax.vmap(run.schedule)(np.array(steps))
    expected = [rate(length.epoch(step)) for step in steps]
    # A run ends with a whole step, up to one before its last epoch does: so far may they be apart.
    a_step = math.pi / 2 / length.total_steps * max(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=a_step)
    assert run.groups.head_rate == pytest.approx(of_head)


@pytest.mark.parametrize(
    ('preset', 'steps'),
    [
        # epochs x pictures // batch; with `drop_last`, epochs of whole batches
        ('simclr_v2_1pct', 60 * 12_811 // 1024),
        ('byol_10pct', 50 * 128_116 // 1024),
        ('mae_vit_b', 100 * 1251),
    ],
)
def test_lengths(preset, steps):
    assert run_of(preset).length.total_steps == steps


@pytest.mark.slow
@pytest.mark.parametrize('preset', FINETUNE_IMAGENET)
def test_a_step_can_be_traced(preset):
    run = run_of(preset)
    state, metrics = run.trace_step().out_info
    params = state.params
    kept = run.config.finetune.head_layers
    width = 768 if 'vit' in preset else 2048
    assert params['classifier']['kernel'].shape == (width, 1000)
    assert ('projector' in params) == (kept > 0)
    assert 'accuracy' in metrics
    batch = run.abstract_batch()
    assert batch['label'].shape == (run.config.batch_size,)
    decayed = run.groups.decayed(params)
    assert decayed['classifier'] == {'kernel': 'simclr_v2' not in preset, 'bias': False}  # LARS
    if preset == 'mae_vit_b':
        rates = run.groups.rates(params)['encoder']  # util/lr_decay.py, 12 blocks
        assert rates['class_token'] == pytest.approx(0.65**13)
        assert rates['block0']['dense1']['kernel'] == pytest.approx(0.65**12)
        assert rates['block11']['dense1']['kernel'] == pytest.approx(0.65)
        assert rates['fc_norm']['scale'] == 1 and 'norm' not in rates
        assert not decayed['encoder']['class_token'] and not decayed['encoder']['fc_norm']['scale']


@pytest.mark.parametrize('name', ['finetune_folder', 'finetune_cifar10', 'finetune_digits'])
def test_our_own_load(name):
    fields = {'data.path': '/pictures'} if name == 'finetune_folder' else {}
    config = load(f'{CONFIGS}/{name}.py', fields)
    assert config.method == 'finetune' and not config.data.drop_remainder
    assert config.finetune.min_steps > 0  # few labels are no short run
