"""Plans for devices that are there, and for chips that need a compiler not installed here."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.config_auto import GIB
from simclr_jax.config_loading import load
from simclr_jax.modes import plan as plan_mode
from simclr_jax.tools import plan as plan_module
from simclr_jax.tools import plan_evaluation
from simclr_jax.tools.chips import CHIPS, Chip
from simclr_jax.tools.known import known_source
from simclr_jax.tools.plan import make_mesh, suggest

ROOT = pathlib.Path(__file__).parents[2]
CHIP = Chip(flops=1e12, memory=GIB, memory_rate=1e11, link_rate=1e10, per_host=2)


def digits(**fields):
    return load(str(ROOT / 'configs/simclr_digits.py'), {k: str(v) for k, v in fields.items()})


@pytest.mark.slow
def test_a_plan_for_eight_devices(tmp_path, capsys):
    config = digits(**{'batch_size': 64, 'probe.learning_rate': 0})
    assert plan_mode.main(config, str(tmp_path), 'cpu:8') == 0
    result = json.loads((tmp_path / 'plan.json').read_text())
    run = plan_module.assemble_without_data(config, make_mesh('cpu:8')[0])
    parameters = sum(x.size for x in jax.tree.leaves(run.abstract_state().params))
    assert result['chips'] == 8 and result['parameters'] == parameters
    assert result['total_steps'] == config.epochs * (1297 // 64)
    assert 0 < result['memory'] < result['memory_available'] and result['fits']
    # Gradients of every parameter are summed over the devices; no image moves.
    assert result['collective_bytes']['all-reduce'] > 4 * parameters
    assert result['collective_bytes']['all-to-all'] == 0
    assert result['collective_bytes']['collective-permute'] == 0
    assert result['step_seconds'] == max(result['seconds'].values())
    assert result['seconds'][result['bound']] == result['step_seconds']
    assert result['mfu'] == result['seconds']['flops'] / result['step_seconds']
    assert result['hours'] == pytest.approx(result['total_steps'] * result['step_seconds'] / 3600)
    evaluation = result['evaluation']
    assert list(evaluation['parts']) == [
        'features',
        'linear_eval',
        'linear_eval, few labels',
        'knn',
    ]
    assert evaluation['host_features'] == 4 * 1297 * (2 * evaluation['dim'] + 64)
    printed = capsys.readouterr().out
    assert 'evaluation        1,297 pictures' in printed
    assert 'compiling resnet_tiny for cpu:8' in printed
    assert f'{parameters:,}' in printed and 'limited by' in printed and 'fits' in printed


def fake_estimate(memory_of):
    def estimate(config, mesh, chip, topology):
        memory = memory_of(config)
        return {'memory': memory, 'fits': memory <= chip.memory}

    return estimate


@pytest.mark.parametrize(
    ('memory_of', 'want'),
    [
        # What is kept falls with the micro-batch.
        (
            lambda c: 3 * GIB / c.optimizer.accumulation_steps,
            {'optimizer.accumulation_steps': 4},
        ),
        # Recomputation alone is enough, and tried first where little is missing.
        (
            lambda c: GIB * (1.2 if c.model.remat == 'none' else 0.8),
            {'model.remat': 'blocks'},
        ),
        # Only the batch helps.
        (lambda c: GIB * c.batch_size / 32, {'batch_size': 32, 'model.remat': 'full'}),
        (lambda c: 9 * GIB, None),
    ],
)
def test_the_suggestion_fits(memory_of, want, monkeypatch):
    monkeypatch.setattr(plan_module, 'estimate', fake_estimate(memory_of))
    config, mesh = digits(batch_size=128), make_mesh('cpu:8')[0]
    first = plan_module.estimate(config, mesh, CHIP, 'cpu:8')
    assert not first['fits']
    found = suggest(config, mesh, CHIP, 'cpu:8', first)
    assert (found and found[0]) == want
    if want:
        assert found[1]['fits']  # with the estimate of what was found
    assert config.batch_size == 128 and config.model.remat == 'none'


def test_what_does_not_fit_is_status_3_with_the_flags_that_do(tmp_path, monkeypatch, capsys):
    memory_of = lambda c: 2 * GIB / c.optimizer.accumulation_steps  # noqa: E731
    for module in (plan_module, plan_mode):
        monkeypatch.setattr(module, 'estimate', fake_estimate(memory_of))
    monkeypatch.setattr(plan_mode, 'make_mesh', lambda topology: (make_mesh('cpu:8')[0], CHIP))
    for module in (plan_module, plan_mode):
        monkeypatch.setattr(module, 'format_plan', lambda result: 'the plan')
    monkeypatch.setattr(plan_mode, 'estimate_evaluation', lambda run, chip: None)
    assert plan_mode.main(digits(), str(tmp_path), 'cpu:8') == 3
    printed = capsys.readouterr().out
    assert '--config.optimizer.accumulation_steps=2' in printed
    assert printed.count('the plan') == 2  # of what was asked for, and of what fits
    saved = json.loads((tmp_path / 'plan.json').read_text())
    assert saved['suggestion'] == {'optimizer.accumulation_steps': 2} and not saved['fits']


@pytest.mark.long
def test_a_batch_that_cannot_fit_and_the_suggestion_followed(tmp_path):
    def run(*flags):
        return subprocess.run(
            [sys.executable, 'run.py', '--config=configs/simclr_digits.py', '--mode=plan',
             '--topology=cpu:8', f'--workdir={tmp_path}', *flags],
            cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    pages = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    batch = 2 ** (pages // 200_000).bit_length()  # a pair takes several hundred kB
    result = run(f'--config.batch_size={batch}')
    assert result.returncode == 3, result.stderr
    fields = json.loads((tmp_path / 'plan.json').read_text())['suggestion']
    flags = [f'--config.{name}={value}' for name, value in ({'batch_size': batch} | fields).items()]
    assert run(*flags).returncode == 0


@pytest.mark.parametrize(
    ('topology', 'words'),
    [
        (None, '--topology: missing; it looks like'),
        ('8', '--topology=8: is not one'),
        ('cpu:16', 'has 8 CPU devices'),
        ('cpu:9999', 'at most 512 CPU devices'),
        ('gpu:H100', 'programs for GPUs are compiled on GPUs only'),
        ('v9x:3x3', r'v9x:3x3: the TPU compiler does not know it or is missing'),
    ],
)
def test_a_topology_that_is_not_one(topology, words):
    jax.devices()  # from here on their number is 8
    with pytest.raises(ConfigError, match=words):
        make_mesh(topology)


@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason="needs the extra 'tpu'")
@pytest.mark.parametrize(
    ('topology', 'chips', 'memory'), [('v4:2x2x1', 4, 32), ('v5e:2x4', 8, 16), ('v5p:2x2x2', 8, 95)]
)
def test_a_chip_is_one_device(topology, chips, memory):
    script = (
        'from simclr_jax.tools.plan import make_mesh\n'
        f'mesh, chip = make_mesh({topology!r})\n'
        'print(mesh.devices.size, chip.memory / 2**30)'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert done.stdout.split() == [str(chips), f'{memory:.1f}']
    assert not done.stderr  # no warning that looks like an error


def test_the_missing_compiler_is_installed_without_a_clone_too():
    with pytest.raises(ConfigError) as raised:
        make_mesh('v9x:3x3')
    assert "pip install 'jax[tpu]'" in str(raised.value)


@pytest.mark.parametrize(
    ('recipe', 'images'),
    [
        ('simclr_imagenet', 1_281_167),
        ('simclr_imagenet100', 126_689),
        ('simclr_imagenette', 9_469),
        ('simclr_cifar10', 50_000),
        ('simclr_digits', 1_297),
    ],
)
def test_a_plan_counts_the_images_that_there_are(recipe, images):
    config = load(str(ROOT / f'configs/{recipe}.py'), {})
    source = known_source(config)
    assert source.num_examples == images
    assert source.num_classes in (10, 100, 1000)


def test_a_plan_counts_the_pictures_of_a_folder_and_admits_what_it_assumes(tmp_path):
    fields = {'data.data_dir': str(tmp_path / 'index')}
    recipe = str(ROOT / 'configs/simclr_folder.py')
    assert known_source(load(recipe, fields)) is None
    mesh = make_mesh('cpu:8')[0]
    run = plan_module.assemble_without_data(load(recipe, fields), mesh)
    assert run.source.num_examples == plan_module._ASSUMED
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for i in range(20):
        Image.new('RGB', (8, 8), (i, 0, 0)).save(pictures / f'{i}.png')
    fields['data.path'] = str(pictures)
    fields['data.train_split'] = 'all'
    assert known_source(load(recipe, fields)).num_examples == 20
    config = load(str(ROOT / 'configs/simclr_cifar10.py'), {'data.dataset': 'places365_small'})
    assert known_source(config) is None  # not prepared here


def test_an_assumed_number_of_images_is_said():
    result = {
        'topology': 'cpu:8',
        'chips': 8,
        'parameters': 1,
        'memory': GIB,
        'memory_available': GIB,
        'fits': True,
        'images': 1_000_000,
    }
    assert 'assumed' in plan_module.format_plan(result | {'images_known': False})
    assert 'assumed' not in plan_module.format_plan(result | {'images_known': True})


def test_a_plan_of_cifar_has_its_canvas():
    config = load(str(ROOT / 'configs/simclr_cifar10.py'), {'augment.backend': 'jax'})
    run = plan_module.assemble_without_data(config, make_mesh('cpu:8')[0])
    assert run.abstract_batch()['image'].shape == (config.batch_size, 32, 32, 3)


def test_a_plan_chooses_by_the_chips_that_it_is_for():
    mesh, chip = make_mesh('cpu:8')
    found = plan_module.hardware_of(mesh, chip)
    assert (found.platform, found.devices, found.bfloat16) == ('cpu', 8, False)


def test_a_chip_without_bfloat16_has_the_rate_of_float32():
    t4, a100 = CHIPS['Tesla T4'], CHIPS['NVIDIA A100-SXM4-40GB']
    assert t4.flops == 8.1e12  # its 65e12 are float16's, which no recipe runs
    assert a100.flops == 312e12
    assert t4.memory == 16 * plan_module.GIB and a100.memory == 40 * plan_module.GIB


def test_probes_that_do_not_fit_are_status_3_with_what_helps(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan_mode, 'estimate', fake_estimate(lambda c: 0))
    monkeypatch.setattr(plan_mode, 'format_plan', lambda result: 'the plan')
    found = {
        'pictures': 10,
        'dim': 4,
        'memory': 1e15,
        'parts': {'knn': 1e15},
        'host_features': 160,
        'fits': False,
    }
    monkeypatch.setattr(plan_mode, 'estimate_evaluation', lambda run, chip: found)
    assert plan_mode.main(digits(), str(tmp_path), 'cpu:8') == 3
    printed = capsys.readouterr().out
    assert 'does NOT fit' in printed and 'eval.baselines=False' in printed
    assert json.loads((tmp_path / 'plan.json').read_text())['evaluation'] == found


def test_the_evaluation_is_counted_for_all_pictures_of_the_probes():
    mesh, chip = make_mesh('cpu:8')
    fields = {'eval.baselines': False, 'linear_eval.labels_per_class': '()'}
    run = plan_module.assemble_without_data(digits(**fields), mesh)
    found = plan_evaluation.estimate_evaluation(run, chip)
    assert found['pictures'] == 1297 and found['fits']
    share = 4 * 1297 / 8 * found['dim']  # a device's, in bytes
    assert list(found['parts']) == ['features', 'linear_eval', 'knn']
    assert found['parts']['knn'] > share and found['parts']['linear_eval'] > share
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(run.abstract_state()))
    assert found['memory'] == max(found['parts'].values()) + state
    assert found['host_features'] == 4 * 1297 * found['dim']
    text = plan_evaluation.format_evaluation(found, chip.memory)
    assert '1,297 pictures' in text and 'fits' in text


def test_nothing_to_evaluate_is_said():
    config = digits(**{'eval.after_pretrain': '()'})
    mesh, chip = make_mesh('cpu:8')
    run = plan_module.assemble_without_data(config, mesh)
    found = plan_evaluation.estimate_evaluation(run, chip)
    assert found is None
    assert 'none' in plan_evaluation.format_evaluation(found, chip.memory)
