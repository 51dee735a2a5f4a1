"""An impossible value is answered by a line that names the field, the value and the fix."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from simclr_jax import config_checks
from simclr_jax.config import METHODS, ConfigError, default
from simclr_jax.config_loading import load as load_file
from simclr_jax.models.factory import create_encoder
from simclr_jax.optim.factory import OPTIMIZERS, SCHEDULES

DIGITS = pathlib.Path(__file__).parents[1] / 'configs/simclr_digits.py'


def load(*overrides: str):
    return load_file(str(DIGITS), dict(o.split('=', 1) for o in overrides))


def test_names_are_those_of_the_factories():
    assert set(config_checks._CHOICES['optimizer.name']) == set(OPTIMIZERS)
    assert set(config_checks._CHOICES['optimizer.schedule']) == set(SCHEDULES)


@pytest.mark.parametrize('method', METHODS)
def test_every_number_of_a_method_has_a_range(method):
    """A new method's sizes and temperatures cannot be forgotten."""
    checked = {*config_checks._POSITIVE, *config_checks._NOT_NEGATIVE, *config_checks._UNIT}
    section = default()[method].to_dict()
    numbers = [name for name, value in section.items() if type(value) in (int, float)]
    assert numbers and {f'{method}.{name}' for name in numbers} <= checked


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('method=simlcr', ['method', 'simlcr', 'did you mean simclr?']),
        ('model.encoder=resnet5', ['model.encoder', 'did you mean resnet50?']),
        ('batch_size=0', ['batch_size=0', '2 or more']),
        ('simclr.temperature=0', ['simclr.temperature=0.0', 'above 0']),
        ('optimizer.learning_rate=nan', ['optimizer.learning_rate', 'nan']),
        ('optimizer.warmup_epochs=9999', ['optimizer.warmup_epochs=9999.0', 'below epochs']),
        ('byol.base_decay=1.5', ['byol.base_decay=1.5', 'between 0 and 1']),
        ('augment.view1.hue=0.9', ['augment.view1.hue', '0.9', '0.5']),
        ('augment.view2.crop_area=(1.0,0.5)', ['augment.view2.crop_area', '(1.0, 0.5)']),
        ('augment.mixing.cutmix_alpha=-1.0', ['augment.mixing.cutmix_alpha', '-1.0', '0 or more']),
        (
            'augment.mixing.mixup_alpha=0.8',
            ['augment.mixing.mixup_alpha', '0.8', 'learns from none'],
        ),
        ('eval.after_pretrain=lineareval', ['eval.after_pretrain', 'linear_eval']),
        ('data.std=0.0', ['data.std', 'above 0']),
        ('data.std=1e999', ['data.std', 'above 0']),
        ('data.mean=1e999', ['data.mean', 'in [0, 1]']),
        ('knn.labels_per_class=(True,)', ['knn.labels_per_class=(True,)', 'whole numbers']),
        ('linear_eval.learning_rates=(True,)', ['learning_rates=(True,)', 'numbers above 0']),
        ('data.mean=(-1.5,)', ['data.mean', 'in [0, 1]']),
        ('data.eval_interpolation=area', ['data.eval_interpolation', 'bicubic, bilinear']),
        ('augment.backend=jaxx', ['augment.backend', 'did you mean jax?']),
        ('augment.backend=tf', ["data.cache='device'", "augment.backend='jax', or data.cache="]),
        ('data.path=pictures', ["data.path='pictures'", 'data.dataset=folder']),
        ('data.labels=labels.csv', ["data.labels='labels.csv'", 'needs data.dataset=folder']),
        ('eval.labels=labels.csv', ["eval.labels='labels.csv'", 'needs eval.path, or']),
        ('data.several_labels=True', ['data.several_labels=True', 'a table in data.labels']),
        ('data.max_bad_fraction=2', ['data.max_bad_fraction=2.0', 'between 0 and 1']),
        ('moco.decay=-0.1', ['moco.decay=-0.1', 'between 0 and 1']),
        ('moco_v3.temperature=0', ['moco_v3.temperature=0.0', 'above 0']),
        ('optimizer.schedule=step', ['optimizer.schedule', 'did you mean steps?']),
        ('optimizer.schedule=steps', ['optimizer.decay_epochs=()', 'rising numbers']),
        ('optimizer.decay_epochs=30', ['optimizer.decay_epochs=(30,)', "schedule='steps'"]),
    ],
)
def test_an_impossible_value_is_one_line_that_helps(override, words):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize('epochs', ['5,30', '30,20', '30,70', 'ten'])
def test_decay_epochs_rise_between_the_warmup_and_the_end(epochs):
    steps = ('epochs=60', 'optimizer.warmup_epochs=5', 'optimizer.schedule=steps')
    load(*steps, 'optimizer.decay_epochs=20,30')
    with pytest.raises(ConfigError, match=r'^optimizer\.decay_epochs='):
        load(*steps, f'optimizer.decay_epochs={epochs}')


def test_a_queue_holds_whole_batches():
    load('moco.queue_size=100')  # of another method
    load('method=moco', 'batch_size=50', 'moco.queue_size=100')
    with pytest.raises(ConfigError, match=r'moco\.queue_size=100: .*=64; use 64'):
        load('method=moco', 'batch_size=64', 'moco.queue_size=100')


@pytest.mark.parametrize(
    ('overrides', 'words'),
    [
        (['model.encoder=vit_s16', 'data.image_size=40'], ['data.image_size=40', '16 pixels']),
        (['model.encoder=vit_s16', 'data.image_size=32', 'model.width=2'], ['model.width=2', '1']),
        (['model.encoder=resnet18', 'model.sk_ratio=0.0625'], ['model.sk_ratio', 'resnet50']),
        (
            ['batch_size=24', 'model.norm_scope=groups', 'model.norm_group_size=32'],
            ['model.norm_group_size=32', 'the 48 rows'],
        ),
        (['method=moco', 'batch_size=128', 'moco.shuffle=True'], ['moco.shuffle=True', 'both']),
        (['simclr.eval_layer=2'], ['simclr.eval_layer=2', 'simclr.num_layers=2']),
        (['model.norm_scope=group'], ['model.norm_scope', 'did you mean groups?']),
    ],
)
def test_an_encoder_s_fields_fit_one_another(overrides, words):
    with pytest.raises(ConfigError) as error:
        load(*overrides)
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize('encoder', ['resnet_tiny', 'resnet18', 'resnet50'])
@pytest.mark.parametrize('stem', ['auto', 'imagenet'])
def test_the_size_of_what_an_encoder_makes_is_known(encoder, stem):
    for size in (32, 33):
        module = create_encoder(encoder, image_size=size, stem=stem)
        picture = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        made = jax.eval_shape(
            lambda x, module=module: module.init_with_output(
                jax.random.key(0), x, train=False, capture_intermediates=True
            )[1]['intermediates'],
            picture,
        )
        last = made[max(name for name in made if name.startswith('stage'))]['__call__'][0]
        assert last.shape[1] == -(-size // config_checks.shrinkage(encoder, stem, size))


@pytest.mark.parametrize(
    ('encoder', 'size', 'least'),
    [('resnet_tiny', 1, 2), ('resnet50', 4, 5), ('resnet50', 1, 5)],
)
def test_pictures_that_an_encoder_cannot_see_are_refused(encoder, size, least):
    with pytest.raises(ConfigError, match=rf'^data\.image_size={size}: must be {least} or more'):
        load(f'model.encoder={encoder}', f'data.image_size={size}')
    load(f'model.encoder={encoder}', f'data.image_size={least}')


def test_pictures_that_are_small_for_an_encoder_are_told():
    small = load('model.encoder=resnet50', 'data.image_size=8')
    warning = config_checks.warn_of_small_pictures(small)
    assert 'data.image_size=8 is small for model.encoder=resnet50' in warning
    for fields in (['model.encoder=resnet50', 'data.image_size=9'], ['data.image_size=8']):
        assert config_checks.warn_of_small_pictures(load(*fields)) is None


def test_every_problem_has_its_line():
    with pytest.raises(ConfigError) as error:
        load('batch_size=-1', 'knn.k=0')
    lines = str(error.value).splitlines()
    assert [line.split('=')[0] for line in lines] == ['knn.k', 'batch_size']
