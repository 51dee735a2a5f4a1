"""A file and a command line become a config; every mistake in them is one line that helps."""

import pathlib

import pytest

from simclr_jax.config import ConfigError, to_json
from simclr_jax.config_loading import check_same_run, shipped, split_preset
from simclr_jax.config_loading import load as load_file

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = ROOT / 'configs/simclr_digits.py'
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def load(*overrides: str):
    return load_file(str(DIGITS), dict(o.split('=', 1) for o in overrides))


def write(tmp_path, body: str) -> str:
    path = tmp_path / 'mine.py'
    path.write_text(
        'from simclr_jax.config import default\n'
        f'def get_config():\n    config = default()\n    {body}\n    return config\n'
    )
    return str(path)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_validates_and_has_a_docstring(path):
    load_file(str(path))
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
        ('lr=0.1', ['mean optimizer.learning_rate?']),
        ('optimiser.lr=0.1', ['mean optimizer.learning_rate?']),
        ('linear_eval.wd=0.1', ['mean optimizer.weight_decay?']),
        ('optimizer=lars', ['optimizer is a section']),
        ('batch_size=many', ['batch_size', "'many'", 'whole number']),
        ('batch_size=2.5', ['batch_size', '2.5', 'whole number']),
        ('epochs=long', ['epochs', "'long'", 'a number']),
        ('log.tensorboard=3', ['log.tensorboard', 'True or False']),
    ],
)
def test_a_wrong_override_is_one_line_that_helps(override, words):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


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
    with pytest.raises(ConfigError) as error:
        load_file(write(tmp_path, body))
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_missing_file_and_a_preset_that_is_not_there(tmp_path):
    hint = r"there is no file 'configs/simclr_digit\.py'; did you mean configs/simclr_digits\.py\?"
    with pytest.raises(ConfigError, match=hint):
        load_file('configs/simclr_digit.py')
    with pytest.raises(ConfigError, match='takes no preset'):
        load_file(write(tmp_path, 'pass') + ':large')
    with pytest.raises(ConfigError, match=r"has no preset '200'; it has 40, 100"):
        load_file(str(ROOT / 'configs/byol_imagenet.py:200'))


def test_every_recipe_that_ships_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(shipped()) == [path.stem for path in CONFIGS]
    for path in CONFIGS:
        assert to_json(load_file(path.stem)) == to_json(load_file(str(path)))
    assert load_file('byol_imagenet:40').epochs == 40
    (tmp_path / 'simclr_digits').mkdir()  # a folder or a run of that name is no recipe
    assert load_file('simclr_digits').data.dataset == 'digits'


def test_a_file_of_ones_own_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, 'config.seed = 3')
    assert load_file('mine.py').seed == load_file(path).seed == 3
    with pytest.raises(ConfigError, match=r'mine: no recipe of that name, nor a FILE\.py'):
        load_file('mine')


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ('simclr_foldr', '--config=simclr_foldr: no recipe of that name, nor a FILE.py; did you '),
        ('simclr_foldr', 'did you mean simclr_folder?'),
        ('configs/simclr_folder', 'did you mean simclr_folder?'),
        ('zzz', 'it is one of byol_cifar10, byol_digits, '),
        ('nowhere/simclr_folder.py', 'the one that ships is --config=simclr_folder'),
        ('simclr_imagenet:v3', "--config: simclr_imagenet has no preset 'v3'; it has v1, v2"),
        ('simclr_digits:v1', "--config: simclr_digits takes no preset, but 'v1' was given"),
    ],
)
def test_a_wrong_name_of_a_recipe(config, words):
    with pytest.raises(ConfigError) as error:
        load_file(config)
    assert words in str(error.value) and '\n' not in str(error.value)


def test_another_config_on_a_workdir_lists_what_differs():
    saved = to_json(load())
    check_same_run(load(), saved, 'w')
    check_same_run(load('knn.k=5', 'log.every_steps=3'), saved, 'w')
    with pytest.raises(ConfigError) as error:
        check_same_run(load('seed=4', 'knn.k=5'), saved, 'w')
    first, *rest = str(error.value).splitlines()
    assert '--workdir=w' in first and 'another --workdir' in first
    assert rest == ['  seed: 0 there, 4 now']


def test_a_warm_up_longer_than_the_run_becomes_a_tenth_of_it():
    lines = []
    config = load_file(str(DIGITS), {'epochs': '2'}, lines.append)
    assert config.optimizer.warmup_epochs == 0.2
    assert len(lines) == 1 and 'optimizer.warmup_epochs=0.2, a tenth of the run' in lines[0]
    lines.clear()
    assert load_file(str(DIGITS), {'epochs': '200'}, lines.append).optimizer.warmup_epochs > 0.2
    assert not lines


def test_a_warm_up_that_was_given_too_long_is_an_error_with_an_example(tmp_path):
    words = r'must be below epochs=2\.0, for example --config\.optimizer\.warmup_epochs=0\.2'
    with pytest.raises(ConfigError, match=words):
        load('epochs=2', 'optimizer.warmup_epochs=3')
    with pytest.raises(ConfigError, match=words):  # a file's own mistake
        load_file(write(tmp_path, 'config.epochs, config.optimizer.warmup_epochs = 2.0, 3.0'))


@pytest.mark.parametrize(
    ('path', 'parts'),
    [
        ('configs/a.py', ('configs/a.py', '')),
        ('configs/a.py:40', ('configs/a.py', '40')),
        ('C:\\configs\\a.py', ('C:\\configs\\a.py', '')),
        ('C:/configs/a.py:40', ('C:/configs/a.py', '40')),
    ],
)
def test_a_drive_is_no_preset(path, parts):
    assert split_preset(path) == parts
