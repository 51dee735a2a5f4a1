"""A wheel, installed in an empty folder where no clone is near, has everything."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

ROOT = pathlib.Path(__file__).parents[1]
PIP = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
RECIPES = {path.stem for path in (ROOT / 'configs').glob('*.py')}


# The `test` extra has it. pip would download it for a user who builds a wheel; a test does not.
needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec('setuptools') is None,
    reason="needs setuptools, which builds the wheel: pip install 'setuptools>=77'",
)


def call(arguments: list, cwd: pathlib.Path, path: str = '', **environment) -> str:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': path} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f'{arguments}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> pathlib.Path:
    """What git holds, and no folder that a build has left."""
    folder = tmp_path_factory.mktemp('source')
    for name in ('simclr_jax', 'configs'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope='module')
def installed(source, tmp_path_factory) -> pathlib.Path:
    """A folder with the wheel's content, as `pip install --target` leaves it."""
    wheels, target = tmp_path_factory.mktemp('wheel'), tmp_path_factory.mktemp('installed')
    call([*PIP, 'wheel', '--no-deps', '--no-build-isolation', '-w', wheels, source], source)
    (wheel,) = wheels.glob('*.whl')
    call([*PIP, 'install', '--no-deps', '--no-index', '--target', target, wheel], wheels)
    return target


def python(installed: pathlib.Path, cwd: pathlib.Path, *arguments: str, **environment) -> str:
    return call([sys.executable, *arguments], cwd, str(installed), **environment)


@needs_setuptools
@pytest.mark.slow
def test_the_wheel_is_imported_and_has_the_recipes(installed, tmp_path):
    code = (
        'import simclr_jax; from simclr_jax.config_loading import shipped\n'
        'print(simclr_jax.__file__, *shipped().values(), sep="\\n")'
    )
    package, *recipes = map(pathlib.Path, python(installed, tmp_path, '-c', code).split())
    assert package == installed / 'simclr_jax/__init__.py'
    assert {path.stem for path in recipes} == RECIPES
    assert all(path.is_relative_to(installed) for path in recipes)
    # Nothing beside the package, such as tests/ or configs/, which other libraries have too.
    names = {path.name for path in installed.iterdir() if not path.name.endswith('.dist-info')}
    assert names == {'simclr_jax', 'bin'}


@needs_setuptools
@pytest.mark.slow
def test_both_commands_of_the_wheel(installed, tmp_path):
    by_module = python(installed, tmp_path, '-m', 'simclr_jax', '--help')
    assert '  python -m simclr_jax --config=simclr_digits' in by_module
    script = installed / 'bin' / 'simclr-jax'
    by_script = call([script, '--help'], tmp_path, str(installed))
    assert by_script == by_module.replace('python -m simclr_jax', 'simclr-jax')


@pytest.fixture(scope='module')
def place(installed, tmp_path_factory) -> pathlib.Path:
    """An empty folder, in which a very short run was given its recipe by name."""
    folder = tmp_path_factory.mktemp('empty')
    flags = [
        *('--config=simclr_digits', '--config.epochs=1', '--config.optimizer.warmup_epochs=0'),
        *('--config.eval.after_pretrain=("knn",)', '--config.eval.baselines=False'),
        *('--config.knn.draws=1', '--config.knn.labels_per_class=()'),
        *('--config.log.tensorboard=False', '--config.model.encoder=resnet_tiny'),
    ]
    python(installed, folder, '-m', 'simclr_jax', *flags, TFDS_DATA_DIR=str(folder / 'data'))
    return folder


@needs_setuptools
@pytest.mark.slow
def test_the_wheel_pretrains_by_a_recipes_name(place):
    run = place / 'runs/simclr_digits'
    result = json.loads((run / 'result.json').read_text())
    assert result['pretrain']['steps'] > 0 and 0 <= result['knn']['encoder']['all']['mean'] <= 1
    # The command in the report is one that there is where there is no run.py.
    assert 'python -m simclr_jax --config=simclr_digits' in (run / 'report.html').read_text()


@needs_setuptools
@pytest.mark.slow
def test_the_wheel_embeds_with_the_encoder_that_it_made(installed, place):
    pictures = place / 'pictures'
    pictures.mkdir()
    digits = load_digits().images[:5].astype(np.uint8) * 15
    names = [f'{i}.png' for i in range(len(digits))]
    for name, digit in zip(names, digits, strict=True):
        Image.fromarray(digit).save(pictures / name)
    flags = ['--encoder=runs/simclr_digits', '--data=pictures', '--output=vectors.npz']
    script = [installed / 'bin/simclr-jax', '--mode=embed', *flags]
    call(script, place, str(installed))
    code = (
        'import sys, numpy as np, simclr_jax\n'
        'encoder = simclr_jax.load("runs/simclr_digits")\n'
        'np.save("features.npy", encoder([f"pictures/{name}" for name in sys.argv[1:]]))\n'
        'assert "tensorflow" not in sys.modules'
    )
    python(installed, place, '-c', code, *names)
    vectors, features = np.load(place / 'vectors.npz'), np.load(place / 'features.npy')
    assert vectors['file'].tolist() == names
    assert len(np.unique(features, axis=0)) == len(names)  # each picture has its own
    np.testing.assert_allclose(vectors['embedding'], features, rtol=0, atol=1e-5)


@needs_setuptools
@pytest.mark.slow
def test_the_source_archive_has_what_a_wheel_is_built_from(source, tmp_path):
    build = 'from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])'
    call([sys.executable, '-c', build, tmp_path], source)
    (archive,) = tmp_path.glob('*.tar.gz')
    shutil.unpack_archive(archive, tmp_path, filter='data')
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {path.stem for path in (unpacked / 'configs').glob('*.py')} == RECIPES


@needs_setuptools
@pytest.mark.slow
def test_an_installation_of_a_clone_has_the_recipes_too(source, tmp_path):
    """`pip install -e .`: a wheel that points to the clone, in a folder that Python starts with."""
    build = 'from setuptools.build_meta import build_editable as b; import sys; b(sys.argv[1])'
    call([sys.executable, '-c', build, tmp_path], source)
    (wheel,) = tmp_path.glob('*.whl')
    target = tmp_path / 'installed'
    call([*PIP, 'install', '--no-deps', '--no-index', '--target', target, wheel], tmp_path)
    # Not as Python starts otherwise: the clone that is tested may be installed this way itself.
    others = [path for path in sys.path if path.endswith('site-packages')]
    code = (
        f'import site, sys; site.addsitedir({str(target)!r}); sys.path += {others!r}; '
        'import simclr_jax; from simclr_jax.config_loading import load; '
        'print(simclr_jax.__file__, load("byol_folder").method)'
    )
    printed = call([sys.executable, '-S', '-c', code], tmp_path)
    assert printed == f'{source / "simclr_jax/__init__.py"} byol\n'
