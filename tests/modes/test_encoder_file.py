"""The encoder file of a run: what evaluation sees, written at the end and from any checkpoint."""

import os
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import simclr_jax
from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.data import example
from simclr_jax.modes import encoder_file, evaluation, export, pretrain, run_evaluation
from simclr_jax.train.setup import prepare
from simclr_jax.weights import native
from simclr_jax.workdir.checkpoint import Checkpoints
from simclr_jax.workdir.claim import claim_workdir

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = str(ROOT / 'configs/simclr_digits.py')
PHOTO = Image.fromarray(load_sample_images().images[0])
SIZES = [(33, 47), (90, 61), (300, 224), (32, 32), (180, 431), (640, 427), (50, 50), (64, 80)] * 2


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """A folder of pictures of many sizes."""
    root = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        x, y = rng.integers(0, 641 - width), rng.integers(0, 428 - min(height, 427))
        picture = PHOTO.crop((x, y, x + width, y + height))
        picture.save(root / f'{i:02}.{"png" if i % 2 else "jpg"}', quality=92, subsampling=0)
    return root


def run_of(fields, data_dir):
    return prepare(load(DIGITS, {'data.data_dir': data_dir, 'batch_size': '64'} | fields))


def of_a_folder(root):
    return {
        'data.dataset': 'folder',
        'data.path': str(root),
        'data.train_split': 'all',
        'data.image_size': '32',
        'data.eval_crop': '0.875',
        'data.mean': '(0.5, 0.4, 0.3)',
        'data.std': '(0.2, 0.25, 0.3)',
        'data.cache': 'none',
        'augment.backend': 'tf',
        'batch_size': '16',
        'model.stem': 'imagenet',
    }


def trained(run):
    """A state whose variables are no longer those of the initialization, in any place."""
    state, rng = run.init(), np.random.default_rng(0)

    def disturb(value):
        return value * rng.uniform(0.8, 1.2, value.shape).astype(value.dtype)

    params, variables = jax.tree.map(disturb, (state.params, state.variables))
    return state.replace(params=params, variables=variables, step=state.step + 7)


def saved(run, workdir, state):
    workdir.mkdir(exist_ok=True)
    claim_workdir(run.config, str(workdir), run.source.held)
    checkpoints = Checkpoints(str(workdir), keep=3)
    checkpoints.save_and_wait(int(state.step), state)
    checkpoints.close()


def evaluated(run, state):
    """The features that evaluation of the run extracts."""
    subject = run_evaluation.subject_of(run, state)
    split = evaluation.split_of(subject, run.config, run.source, False)
    return split.features.values['encoder']


def files_of(source, count):
    return [example.parse(record).image for record in source.read(range(count))]


METHODS = {
    'simclr': {},
    'simclr, a layer of the head': {'simclr.eval_layer': '1', 'simclr.num_layers': '3'},
    'simclr in bfloat16': {'model.dtype': 'bfloat16'},
    'byol': {'method': 'byol', 'byol.hidden_dim': '64'},
    'moco': {'method': 'moco', 'moco.queue_size': '128', 'moco.hidden_dim': '64'},
    'moco_v3': {'method': 'moco_v3', 'moco_v3.hidden_dim': '64'},
    'vit': {'model.encoder': 'vit_ti16', 'model.patch_size': '4', 'model.pooling': 'mean'},
}


@pytest.mark.parametrize(
    'fields',
    [
        pytest.param(fields, id=name, marks=[] if name == 'vit' else pytest.mark.slow)
        for name, fields in METHODS.items()
    ],
)
def test_the_file_has_the_features_that_evaluation_extracts(fields, data_dir, tmp_path):
    run = run_of(fields, data_dir)
    state = trained(run)
    encoder_file.write_encoder(run, str(tmp_path), state)
    half = run.config.model.dtype == 'bfloat16'
    encoder = simclr_jax.load(tmp_path, dtype='bfloat16' if half else 'float32')
    found = encoder(files_of(run.source, 40))
    want = evaluated(run, state)[:40]
    assert np.ptp(want) > 0 and encoder.preprocess.channels == 1
    error = np.abs(found - want).max() / np.abs(want).max()
    assert error < (0.05 if half else 1e-4)
    assert encoder.origin['method'] == run.config.method and encoder.origin['steps'] == 7
    assert encoder.origin['data']['pictures'] == run.source.num_examples == 1297
    assert encoder.origin['config']['seed'] == run.config.seed
    assert encoder.origin['version'] == simclr_jax.__version__


@pytest.mark.slow
def test_photographs_of_any_size_have_the_features_of_the_evaluation(
    photographs, data_dir, tmp_path
):
    run = run_of(of_a_folder(photographs), data_dir)
    state = trained(run)
    encoder_file.write_encoder(run, str(tmp_path), state)
    encoder = simclr_jax.load(tmp_path)
    want = evaluated(run, state)
    assert encoder.preprocess.mean == (0.5, 0.4, 0.3) and encoder.preprocess.crop == 0.875
    found = encoder(photographs)
    # A pixel may be a level of 255 apart.
    relative = np.linalg.norm(found - want, axis=1) / np.linalg.norm(want, axis=1)
    assert relative.max() < 0.01
    others = np.linalg.norm(want - np.roll(want, 1, axis=0), axis=1)
    assert others.min() > 10 * relative.max() * np.linalg.norm(want, axis=1).max()


@pytest.mark.slow
@pytest.mark.parametrize('method', ['simclr', 'byol'])
def test_a_checkpoint_gives_the_file_that_the_run_writes(method, data_dir, tmp_path):
    run = run_of(METHODS[method], data_dir)
    state = trained(run)
    saved(run, tmp_path, state)
    encoder_file.write_encoder(run, str(tmp_path), state)
    path = tmp_path / 'other.safetensors'
    export_to(workdir=str(tmp_path), output=str(path))
    assert path.read_bytes() == (tmp_path / native.NAME).read_bytes()


@pytest.mark.slow
def test_a_checkpoint_is_exported_where_neither_the_data_nor_tensorflow_are(
    photographs, data_dir, tmp_path
):
    root = tmp_path / 'pictures'
    shutil.copytree(photographs, root)
    deep = np.linspace(0, 4000, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(deep).save(root / 'deep.png')
    run, workdir = run_of(of_a_folder(root), data_dir), tmp_path / 'run'
    assert run.source.intensity == (0, 4095)
    state = trained(run)
    saved(run, workdir, state)
    encoder_file.write_encoder(run, str(workdir), state)
    want = (workdir / native.NAME).read_bytes()
    (workdir / native.NAME).unlink()
    shutil.rmtree(root)
    code = (
        'import sys\n'
        'sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None\n'
        'from simclr_jax.cli import main\n'
        'sys.exit(main(sys.argv[1:]))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, '--mode=export', '--format=native', f'--workdir={workdir}'],
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'encoder   {workdir / native.NAME}\n' and not done.stderr
    assert (workdir / native.NAME).read_bytes() == want
    assert simclr_jax.load(workdir).preprocess.intensity == (0, 4095)


def test_pretraining_writes_the_file_before_an_evaluation_that_fails(
    data_dir, tmp_path, monkeypatch
):
    config = load(DIGITS, {'data.data_dir': data_dir, 'eval.after_pretrain': '()'})
    states = []

    def train(run, workdir):
        states.append((run, trained(run)))
        return states[0][1], {}, None

    def evaluate_run(*arguments):
        raise RuntimeError('the evaluation fails')

    monkeypatch.setattr(pretrain, 'train', train)
    monkeypatch.setattr(pretrain, 'evaluate_run', evaluate_run)
    with pytest.raises(RuntimeError, match='the evaluation fails'):
        pretrain.main(config, str(tmp_path))
    _, state = states[0]
    want = native.read(tmp_path / native.NAME).variables['params']['encoder']
    for found, kept in zip(
        jax.tree.leaves(want), jax.tree.leaves(state.params['encoder']), strict=True
    ):
        np.testing.assert_array_equal(found, kept)


def test_a_failed_write_keeps_the_old_file(data_dir, tmp_path, monkeypatch):
    run = run_of({}, data_dir)
    state = run.init()
    encoder_file.write_encoder(run, str(tmp_path), state)
    before = (tmp_path / native.NAME).read_bytes()

    def full(file):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('simclr_jax.files.flush_to_disk', full)
    with pytest.raises(OSError, match='No space left'):
        encoder_file.write_encoder(run, str(tmp_path), trained(run))
    assert (tmp_path / native.NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [native.NAME]


def test_an_architecture_says_what_auto_and_zero_stood_for():
    config = load(DIGITS, {'model.stem': 'auto', 'data.image_size': '8'})
    assert encoder_file.architecture_of(config).stem == 'small'
    vit = load(DIGITS, {'model.encoder': 'vit_s16', 'model.patch_size': '4'})
    assert encoder_file.architecture_of(vit).num_heads == 12


def export_to(**flags):
    given = dict.fromkeys(['encoder', 'workdir', 'step', 'output'])
    export.main(**given | {'format': 'native', 'overwrite': False} | flags)


@pytest.mark.slow
def test_export_checks_what_it_is_given(data_dir, tmp_path):
    run = run_of({}, data_dir)
    saved(run, tmp_path / 'run', run.init().replace(step=np.int32(3)))
    workdir = str(tmp_path / 'run')
    with pytest.raises(ConfigError, match='--format=coreml: must be one of'):
        export_to(workdir=workdir, format='coreml')
    with pytest.raises(ConfigError, match='--step: '):
        export_to(encoder=workdir, step=3)
    with pytest.raises(ConfigError, match=r'--step=4: .*there are 3'):
        export_to(workdir=workdir, step=4)
    with pytest.raises(ConfigError, match='holds no run'):
        export_to(workdir=str(tmp_path))
    with pytest.raises(ConfigError, match='--output: '):
        export_to(encoder=workdir)
    export_to(workdir=workdir, step=3, output=str(tmp_path / 'new' / 'folder'))
    written = tmp_path / 'new' / 'folder' / native.NAME
    assert simclr_jax.load(written).origin['steps'] == 3
    assert 'Compared with simclr_jax' in (written.parent / 'README.md').read_text()
    with pytest.raises(ConfigError, match='is there already'):
        export_to(encoder=str(written), output=str(tmp_path / 'new' / 'folder'))
    with pytest.raises(ConfigError, match='--output: missing; name the folder'):
        export_to(workdir=workdir, format='timm')
    with pytest.raises(ConfigError, match='--format=timm: cannot express resnet_tiny'):
        export_to(workdir=workdir, format='timm', output=str(tmp_path / 'timm'))
    assert not (tmp_path / 'timm').exists()
    export_to(encoder=str(written), output=str(tmp_path / 'copy.safetensors'))
    assert (tmp_path / 'copy.safetensors').read_bytes() == written.read_bytes()
    export_to(encoder=str(written), output=str(tmp_path / 'copy.safetensors'), overwrite=True)


def test_the_other_processes_write_nothing(data_dir, tmp_path, monkeypatch):
    run = run_of({}, data_dir)
    monkeypatch.setattr('simclr_jax.parallel.is_main_process', lambda: False)
    encoder_file.write_encoder(run, str(tmp_path), types.SimpleNamespace())
    assert not any(tmp_path.iterdir())
