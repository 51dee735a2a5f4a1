"""Where TensorFlow is not installed: what README says is enough, and what is said to be missing."""

import configparser
import os
import pathlib
import re
import subprocess
import sys

from simclr_jax.packages import FOR_TRAINING, explain

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
OF_FLAX = {'jax', 'numpy', 'optax', 'orbax-checkpoint', 'scipy'}  # flax and jax require them


def names(requirements: str) -> set[str]:
    found = re.findall(r'^[A-Za-z][\w.-]*', requirements, re.MULTILINE)
    return {name.replace('tensorflow-cpu', 'tensorflow') for name in found}


def test_what_is_enough_and_what_training_needs_are_all_that_is_required():
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'setup.cfg')
    command = re.search(r'pip install --no-deps \. && pip install (.*)', README)
    enough = names(command[1].replace("'", '').replace(' ', '\n'))
    for_training = names('\n'.join(FOR_TRAINING.values()))
    required = names(parser['options']['install_requires'])
    assert enough | OF_FLAX | for_training == required


def test_another_missing_module_is_a_bug():
    assert explain(ModuleNotFoundError('No module named x', name='simclr_jax.nothing')) is None
    assert explain(ModuleNotFoundError('a message without a name')) is None


def test_pretraining_without_tensorflow_says_what_to_install(tmp_path):
    code = (
        'import sys; sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None\n'
        'from simclr_jax.cli import main\n'
        f'sys.exit(main(["--config=simclr_digits", "--workdir={tmp_path}/run"]))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'TFDS_DATA_DIR': str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1, done.stderr
    assert lines[0].startswith('error: tensorflow') and 'is not installed' in lines[0]
    assert 'pip install array_record' in lines[0] and 'tensorflow-datasets' in lines[0]
    assert not (tmp_path / 'run/config.json').exists()  # the workdir is not claimed
