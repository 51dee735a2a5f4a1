"""Every mistake in a config is answered by a line that names the field, the value, the way out."""

import dataclasses
import pathlib

import pytest

from simclr_jax import config as config_lib
from simclr_jax.methods.factory import METHODS
from simclr_jax.models.factory import ENCODERS
from simclr_jax.optim.factory import OPTIMIZERS, SCHEDULES

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def load(*overrides: str):
    return config_lib.load(
        str(ROOT / 'configs/simclr_digits.py'), dict(o.split('=', 1) for o in overrides)
    )


def write(tmp_path, body: str) -> str:
    path = tmp_path / 'mine.py'
    path.write_text(
        'from simclr_jax.config import default\n'
        f'def get_config():\n    config = default()\n    {body}\n    return config\n'
    )
    return str(path)


def test_names_are_those_of_the_factories():
    assert set(config_lib.METHODS) == METHODS.keys()
    assert set(config_lib.ENCODERS) == ENCODERS.keys()
    assert set(config_lib._CHOICES['optimizer.name']) == set(OPTIMIZERS)
    assert set(config_lib._CHOICES['optimizer.schedule']) == set(SCHEDULES)


@pytest.mark.parametrize('name', METHODS)
def test_a_methods_section_holds_the_fields_of_its_class(name):
    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    assert set(config_lib.default()[name]) == fields - {'encoder', 'total_steps', 'dtype'}


def test_at_least_the_six_recipes_are_there():
    names = {path.stem for path in CONFIGS}
    data = ('digits', 'cifar10', 'imagenet')
    assert {f'{m}_{d}' for m in ('simclr', 'byol') for d in data} <= names


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_validates_and_has_a_docstring(path):
    config_lib.load(str(path))
    assert 'run.py --config=configs/' in path.read_text().split('"""')[1]


def test_overrides_take_the_type_of_the_field():
    config = load('epochs=30', 'knn.labels_per_class=5', 'log.tensorboard=false', 'seed=7')
    assert config.epochs == 30.0 and isinstance(config.epochs, float)
    assert config.knn.labels_per_class == (5,)
    assert config.log.tensorboard is False
    assert config.seed == 7


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('optimzer.learning_rate=1', ['optimzer.learning_rate', 'mean optimizer.learning_rate?']),
        ('learning_rate=1', ['mean optimizer.learning_rate?']),
        ('optimizer=lars', ['optimizer is a section']),
        ('batch_size=many', ['batch_size', "'many'", 'whole number']),
        ('batch_size=2.5', ['batch_size', '2.5', 'whole number']),
        ('epochs=long', ['epochs', "'long'", 'a number']),
        ('log.tensorboard=3', ['log.tensorboard', 'True or False']),
        ('method=simlcr', ['method', 'simlcr', 'did you mean simclr?']),
        ('model.encoder=resnet5', ['model.encoder', 'did you mean resnet50?']),
        ('batch_size=0', ['batch_size=0', '2 or more']),
        ('simclr.temperature=0', ['simclr.temperature=0.0', 'above 0']),
        ('optimizer.learning_rate=nan', ['optimizer.learning_rate', 'nan']),
        ('optimizer.warmup_epochs=9999', ['optimizer.warmup_epochs=9999.0', 'below epochs']),
        ('byol.base_decay=1.5', ['byol.base_decay=1.5', 'between 0 and 1']),
        ('augment.view1.hue=0.9', ['augment.view1.hue', '0.9', '0.5']),
        ('augment.view2.crop_area=(1.0,0.5)', ['augment.view2.crop_area', '(1.0, 0.5)']),
        ('eval.after_pretrain=lineareval', ['eval.after_pretrain', 'linear_eval']),
        ('data.std=0.0', ['data.std', 'not hold 0']),
        ('moco.decay=-0.1', ['moco.decay=-0.1', 'between 0 and 1']),
        ('moco_v3.temperature=0', ['moco_v3.temperature=0.0', 'above 0']),
        ('optimizer.schedule=step', ['optimizer.schedule', 'did you mean steps?']),
        ('optimizer.schedule=steps', ['optimizer.decay_epochs=()', 'rising numbers']),
        ('optimizer.decay_epochs=30', ['optimizer.decay_epochs=(30,)', "schedule='steps'"]),
    ],
)
def test_a_wrong_override_is_one_line_that_helps(override, words):
    with pytest.raises(config_lib.ConfigError) as error:
        load(override)
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize('epochs', ['5,30', '30,20', '30,70', 'ten'])
def test_decay_epochs_rise_between_the_warmup_and_the_end(epochs):
    load('epochs=60', 'optimizer.schedule=steps', 'optimizer.decay_epochs=20,30')
    with pytest.raises(config_lib.ConfigError, match=r'^optimizer\.decay_epochs='):
        load('epochs=60', 'optimizer.schedule=steps', f'optimizer.decay_epochs={epochs}')


def test_a_queue_holds_whole_batches():
    load('moco.queue_size=100')  # of another method
    load('method=moco', 'batch_size=50', 'moco.queue_size=100')
    with pytest.raises(config_lib.ConfigError, match=r'moco\.queue_size=100: .*=64; use 64'):
        load('method=moco', 'batch_size=64', 'moco.queue_size=100')


def test_every_problem_has_its_line():
    with pytest.raises(config_lib.ConfigError) as error:
        load('batch_size=-1', 'knn.k=0')
    lines = str(error.value).splitlines()
    assert [line.split('=')[0] for line in lines] == ['knn.k', 'batch_size']


@pytest.mark.parametrize(
    ('body', 'words'),
    [
        ('config.optimizer.learning_rat = 1.0', ['optimizer.learning_rat', 'learning_rate?']),
        ('config.epochs = "ten"', ['mine.py', 'epochs']),
        ('config.optimizer = 3', ['mine.py', 'optimizer']),
        ('del config.seed', ['seed', 'missing']),
        ('config.batch = config.bach_size', ['mine.py:4', 'bach_size']),
        ('1 / 0', ['mine.py:4', 'ZeroDivisionError']),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path, body, words):
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.load(write(tmp_path, body))
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_missing_file_and_a_preset_that_is_not_there(tmp_path):
    with pytest.raises(config_lib.ConfigError, match=r'there is no file .*simclr_digit\.py'):
        config_lib.load('configs/simclr_digit.py')
    with pytest.raises(config_lib.ConfigError, match='takes no preset'):
        config_lib.load(write(tmp_path, 'pass') + ':large')
    with pytest.raises(config_lib.ConfigError, match=r"has no preset '200'; it has 40, 100"):
        config_lib.load(str(ROOT / 'configs/byol_imagenet.py:200'))


def test_another_config_on_a_workdir_lists_what_differs():
    saved = config_lib.to_json(load())
    config_lib.check_same_run(load(), saved, 'w')
    config_lib.check_same_run(load('knn.k=5', 'log.every_steps=3'), saved, 'w')
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.check_same_run(load('seed=4', 'knn.k=5'), saved, 'w')
    first, *rest = str(error.value).splitlines()
    assert '--workdir=w' in first and 'another --workdir' in first
    assert rest == ['  seed: 0 there, 4 now']


def test_length_in_steps():
    config = load('batch_size=256', 'epochs=2.5', 'optimizer.warmup_epochs=1')
    assert config_lib.resolve_length(config, 1297) == config_lib.Length(5, 12)
    with pytest.raises(config_lib.ConfigError, match=r'batch_size=256: .* only 200 examples'):
        config_lib.resolve_length(config, 200)
