"""Fine-tuning as a command: killed within its comparison, it ends with the same bits."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_weights

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = {
    'batch_size': 64,
    'epochs': 0.5,
    'finetune.min_steps': 3,
    'finetune.labels_per_class': '(2,1)',
    'finetune.draws': 2,
    'finetune.held_out': 0.1,
    'finetune.compare': "('knn','scratch')",
    'log.tensorboard': False,
}


def start(encoder, workdir):
    command = ['--mode=finetune', '--config=configs/finetune_digits.py', f'--workdir={workdir}']
    command += [f'--encoder={encoder}', *(f'--config.{k}={v}' for k, v in FIELDS.items())]
    return subprocess.Popen(
        [sys.executable, 'run.py', *command],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONUNBUFFERED': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
def test_killed_within_the_comparison_it_ends_with_the_same_bits(tmp_path):
    encoder = tmp_path / 'encoder.safetensors'
    architecture = Architecture('resnet_tiny', stem='small')
    native.save(encoder, random_weights(architecture, size=8, channels=1, mean=(0.0,), std=(1.0,)))

    text, _ = (whole := start(encoder, tmp_path / 'whole')).communicate()
    assert whole.returncode == 0, text
    killed = start(encoder, tmp_path / 'killed')
    lines = iter(killed.stdout.readline, '')
    assert any('fine_tuned, labels: 2, draw 1 of 2' in line for line in lines)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert 'finetune' not in json.loads((tmp_path / 'killed/result.json').read_text())
    written = (tmp_path / 'killed/classifier.safetensors').read_bytes()  # before the comparison
    assert written == (tmp_path / 'whole/classifier.safetensors').read_bytes()
    text, _ = (again := start(encoder, tmp_path / 'killed')).communicate()
    assert again.returncode == 0, text
    assert 'fine_tuned, labels: 2, draw 1' not in text and 'scratch, labels: 1, draw 2' in text

    found, expected = (
        json.loads((tmp_path / name / 'result.json').read_text())['finetune']
        for name in ('killed', 'whole')
    )
    assert found == expected
    assert list(expected['fine_tuned']) == list(expected['scratch']) == ['all', '2', '1']
    assert (tmp_path / 'killed/classifier.safetensors').read_bytes() == written
    page = (tmp_path / 'killed/report.html').read_text()
    assert 'How many labels' in page and 'Surest mistakes' in page
