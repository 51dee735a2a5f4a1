"""Imports go one way, and TensorFlow stays where the design puts it."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'simclr_jax'
# A room imports only from itself and from the rooms below it.
ROOMS = (
    '__main__',
    'cli',
    'cli_flags',
    'modes',
    'report',
    'tools',
    'train',
    'evaluate',
    'weights',
    'methods',
    'data',
    'models',
    'losses',
    'optim',
    'augment',
    'workdir',
    'progress',
    'parallel',
    'config_loading',
    'config_auto',
    'config_checks',
    'config',
    'interruption',
    'command',
    'packages',
    'files',
)
# config.py knows the recipe's dataclass, which imports nothing.
ALLOWED = {('config', 'augment')}
TENSORFLOW = {
    'augment/tf_draws.py',
    'augment/tf_ops.py',
    'data/decode.py',
    'data/digits.py',
    'data/imagenet100.py',
    'data/pipeline.py',
    'data/prepare.py',
    'data/records.py',
    'data/sources.py',
    'data/undecoded.py',
}
FILES = sorted(PACKAGE.rglob('*.py'))


def imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_runs_back(path):
    relative = path.relative_to(PACKAGE)
    here = relative.parts[0].removesuffix('.py')
    for name in imports(path):
        if name.startswith('simclr_jax.') and here != '__init__':
            there = name.split('.')[1]
            down = ROOMS.index(here) <= ROOMS.index(there)
            assert down or (here, there) in ALLOWED, f'{relative}: {name}'
        if name.split('.')[0] in ('tensorflow', 'tensorflow_datasets'):
            assert str(relative) in TENSORFLOW, f'{relative} imports {name}'


def test_what_needs_no_tensorflow_runs_where_it_is_not_installed():
    modules = [
        'simclr_jax.' + '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        for path in FILES
        if path.name != '__init__.py'
        and str(path.relative_to(PACKAGE)) not in TENSORFLOW - {'data/sources.py'}
    ]
    code = (
        'import sys; sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None\n'
        + '\n'.join(f'import {module}' for module in modules)
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, timeout=120)
