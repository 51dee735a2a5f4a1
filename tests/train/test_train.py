"""The loop on the digits: resumption to the bit, in this process and after a real SIGKILL."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import simclr_jax
from simclr_jax.config_loading import load_saved
from simclr_jax.modes import pretrain
from simclr_jax.train import inputs, loop
from simclr_jax.train.setup import Run, prepare
from simclr_jax.workdir import checksums
from simclr_jax.workdir.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
SHORT = (
    '--config=configs/simclr_digits.py',
    # The input with threads of its own; the recipe's is in test_device.py and test_processes.py.
    '--config.augment.backend=tf',
    '--config.data.cache=none',
    '--config.batch_size=64',
    '--config.epochs=2',
    '--config.optimizer.warmup_epochs=1',
    '--config.log.every_steps=1',
    '--config.log.tensorboard=False',
    '--config.checkpoint.every_steps=10',
    '--config.eval.after_pretrain=()',
)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


def start(workdir, data_dir, *arguments, devices=1, config=SHORT) -> subprocess.Popen:
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': str(devices),
        'TFDS_DATA_DIR': data_dir,
        'SIMCLR_JAX_CACHE': f'{data_dir}/cache',  # half of a short run is compiling
    }
    return subprocess.Popen(
        [sys.executable, 'run.py', *config, f'--workdir={workdir}', *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def evaluate(workdir, data_dir, *arguments) -> subprocess.Popen:
    """Without a config: the workdir has it."""
    return start(workdir, data_dir, *arguments, config=())


def finish(process, status: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def final_state(workdir):
    with ocp.CheckpointManager(workdir / 'checkpoints') as manager:
        step = manager.latest_step()
        return step, manager.restore(step, args=ocp.args.StandardRestore())


def leaves(tree):
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp('undisturbed')
    return workdir, finish(start(workdir, data_dir))


def test_names_without_weight_decay_are_in_a_file_and_their_number_on_the_screen(undisturbed):
    workdir, output = undisturbed
    names = (workdir / 'no_weight_decay.txt').read_text().split()
    assert len(names) > 10 and all(name not in output for name in names)
    line = f'no weight decay for {len(names)} biases and normalization scales'
    assert output.count(line) == 1


def test_how_long_a_run_takes_is_said_before_its_first_line_of_metrics(undisturbed):
    _, output = undisturbed
    before, _, after = output.partition(' of training\n')
    assert 'steps are left, of about' in before and '1/40' not in before and '1/40' in after


def test_a_run_leaves_metrics_of_every_step_checkpoints_and_a_report(undisturbed):
    workdir, output = undisturbed
    rows = read_metrics(workdir)
    assert [row['step'] for row in rows] == list(range(1, 41))
    for row in rows:
        assert {'loss', 'learning_rate', 'images_per_second', 'input_wait', 'epoch'} <= row.keys()
        assert 0 <= row['input_wait'] <= 1
        assert 0 <= row['probe_accuracy'] <= 1
    assert rows[-1]['loss'] < rows[0]['loss'] and rows[-1]['epoch'] == 2.0
    assert json.loads((workdir / 'result.json').read_text())['pretrain']['steps'] == 40
    assert (workdir / 'report.html').exists() and str(workdir / 'report.html') in output
    assert sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir()) == [20, 30, 40]
    encoder = simclr_jax.load(workdir)
    assert encoder.origin['steps'] == 40 and str(workdir / 'encoder.safetensors') in output
    _, state = final_state(workdir)
    trained = leaves(state['params']['encoder'])
    for found, want in zip(leaves(encoder.variables['params']), trained, strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.slow
def test_killed_and_told_to_end_and_started_again_ends_with_the_same_bits(
    undisturbed, tmp_path, data_dir
):
    process = start(tmp_path, data_dir)
    first = tmp_path / 'checkpoints' / '10' / checksums.NAME
    while len(read_metrics(tmp_path)) < 17 or not first.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    output, _ = start(tmp_path, data_dir).communicate(timeout=300)
    assert f'is in use by process {process.pid} on ' in output
    # An evaluation only reads, and needs to be told nothing but the workdir.
    output = finish(evaluate(tmp_path, data_dir, '--mode=knn', '--config.eval.baselines=False'))
    result = json.loads((tmp_path / 'result.json').read_text())
    assert result['knn']['step'] in (10, 20, 30) and f'step {result["knn"]["step"]}' in output
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start(tmp_path, data_dir)
    assert any('/40  loss' in line for line in process.stdout)  # its first step
    process.send_signal(signal.SIGTERM)
    output = finish(process, status=143)  # not finished: a job queue gives it again
    last = read_metrics(tmp_path)[-1]['step']
    assert f'saved step {last} in {tmp_path}' in output
    output = finish(start(tmp_path, data_dir))
    assert f'going on from the checkpoint of step {last}' in output
    (step, state), (want_step, want) = final_state(tmp_path), final_state(undisturbed[0])
    assert step == want_step == 40
    for got, expected in zip(leaves(state), leaves(want), strict=True):
        np.testing.assert_array_equal(got, expected)
    rows, expected = read_metrics(tmp_path), read_metrics(undisturbed[0])
    timing = {'images_per_second', 'input_wait', 'seconds'}
    for got, want in zip(rows, expected, strict=True):
        for key in want.keys() - timing:
            assert got[key] == want[key], key


def test_programs_are_kept_and_loaded(undisturbed, data_dir):
    """By runs that end with the same bits: the test before this one."""
    kept = {path.name.partition('-')[0] for path in pathlib.Path(data_dir, 'cache').iterdir()}
    assert 'jit_train_step' in kept


def test_a_finished_run_given_again_trains_nothing_and_keeps_its_figures(
    undisturbed, tmp_path, data_dir, monkeypatch
):
    """It compiled the train step, and said that it had never waited for its input."""
    workdir = tmp_path / 'copy'
    shutil.copytree(undisturbed[0], workdir)
    run = prepare(load_saved(str(workdir), {'data.data_dir': data_dir}))

    def never(*_):
        raise AssertionError('there is nothing left to train')

    monkeypatch.setattr(Run, 'lower_step', never)
    monkeypatch.setattr(inputs, 'train_batches', never)
    state, figures, views = loop.train(run, str(workdir))
    assert int(state.step) == 40 and views is None
    before = (workdir / 'result.json').read_text()
    pretrain._keep(str(workdir), figures, views)
    assert (workdir / 'result.json').read_text() == before
    (workdir / 'result.json').unlink()  # as where the process died in between
    pretrain._keep(str(workdir), figures, views)
    found, want = json.loads((workdir / 'result.json').read_text()), json.loads(before)
    assert found['pretrain'].keys() == want['pretrain'].keys()
    assert found['pretrain']['steps'] == 40
    assert 0 < found['pretrain']['seconds'] <= want['pretrain']['seconds']
    waits = [row['input_wait'] for row in read_metrics(workdir)]
    assert min(waits) <= found['pretrain']['input_wait'] <= max(waits)


def test_another_config_on_the_workdir_is_refused(undisturbed, data_dir):
    process = start(undisturbed[0], data_dir, '--config.seed=3')
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert 'already holds a run with other settings' in output and 'seed: 0 there, 3 now' in output


@pytest.mark.slow
def test_any_kept_step_is_evaluated_by_the_workdir_alone(undisturbed, data_dir, tmp_path):
    workdir = tmp_path / 'copy'
    shutil.copytree(undisturbed[0], workdir)
    few = ('--config.eval.baselines=False', '--config.knn.labels_per_class=()')
    output = finish(evaluate(workdir, data_dir, '--mode=knn', '--step=20', *few))
    assert 'step 20' in output
    result = json.loads((workdir / 'result.json').read_text())
    assert result['knn']['step'] == 20 and result['knn']['settings']['labels_per_class'] == []
    process = evaluate(workdir, data_dir, '--mode=knn', '--step=10')
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and '--step=10: there is no checkpoint' in output
    process = evaluate(workdir, data_dir, '--mode=knn', '--config.seed=3')
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and 'seed: 0 there, 3 now' in output
    # The views of the training are still in the report.
    assert 'Views side by side are of the same image' in (workdir / 'report.html').read_text()


@pytest.mark.slow
def test_evaluation_by_itself_adds_to_the_results(undisturbed, data_dir):
    workdir, _ = undisturbed
    output = finish(start(workdir, data_dir, '--mode=knn'))
    result = json.loads((workdir / 'result.json').read_text())
    assert result['pretrain']['steps'] == 40
    for features in ('encoder', 'untrained', 'raw_pixels'):
        for labels in ('all', '10', '1'):
            assert 0.2 < result['knn'][features][labels]['mean'] <= 1
    # scikit-learn's cosine neighbours on the pixels of this split: the same figure.
    assert abs(result['knn']['raw_pixels']['all']['mean'] - 0.98) < 0.015
    assert 'raw pixels' in output


@pytest.mark.slow
def test_a_papers_linear_evaluation_has_the_layout_of_the_fast_one(undisturbed, data_dir):
    workdir, _ = undisturbed
    fields = {'protocol': 'byol', 'epochs': 10, 'batch_size': 64, 'learning_rates': (0.004, 4.0)}
    options = [f'--config.linear_eval.{name}={value}' for name, value in fields.items()]
    output = finish(start(workdir, data_dir, '--mode=linear_eval', *options))
    result = json.loads((workdir / 'result.json').read_text())
    assert result['linear_eval']['settings']['protocol'] == 'byol'
    found = result['linear_eval']['encoder']['all']
    assert found['mean'] > 0.8 and found['std'] == 0
    held_out = found['held_out']
    assert held_out['4.0'] > held_out['0.004'] + 0.2 and found['learning_rate'] == 4.0
    assert f'{100 * found["mean"]:.1f}' in output


@pytest.mark.slow
def test_pictures_that_go_bad_during_a_run_end_it_with_a_list(tmp_path, data_dir):
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    random = np.random.default_rng(0)
    for i in range(100):
        image = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
        image.save(pictures / f'{i:03}.jpg')
    workdir = tmp_path / 'run'
    process = start(
        workdir,
        data_dir,
        '--config=configs/simclr_folder.py',
        f'--config.data.path={pictures}',
        f'--config.data.data_dir={tmp_path}/cache',
        '--config.data.image_size=16',
        '--config.model.encoder=resnet_tiny',
        '--config.batch_size=16',
        '--config.epochs=100',
    )
    while len(read_metrics(workdir)) < 12:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    gone = sorted(path for path in pictures.iterdir())[::10]
    for path in gone:
        path.unlink()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and 'Traceback' not in output, output
    summary = r'error: data\.path=.*: \d+ of 100 files .*data\.max_bad_fraction=0\.01'
    assert re.search(summary, output), output
    listed = re.findall(r'^  (\d{3}\.jpg): can no longer be read', output, re.MULTILINE)
    assert len(listed) > 1 and set(listed) <= {path.name for path in gone}
    assert int(read_metrics(workdir)[-1]['bad_pictures']) <= len(listed)
    assert (workdir / 'checkpoints' / '10').exists()
