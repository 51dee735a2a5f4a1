"""Imports go one way, and TensorFlow stays where the design puts it."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'simclr_jax'
# From the top down. A room imports itself and what is on lower floors, and nothing beside it.
FLOORS = (
    ('__main__',),
    ('cli',),
    ('cli_flags',),
    ('modes',),
    ('report', 'tools'),
    ('train',),
    ('evaluate',),
    ('weights',),
    ('methods',),
    ('data',),
    ('models', 'losses', 'optim', 'augment'),
    ('workdir',),
    ('progress',),
    ('parallel',),
    ('config_loading', 'config_smaller', 'config_auto'),
    ('config_checks',),
    ('config',),
    ('interruption', 'command', 'packages', 'files'),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Above, but not upon it: what they share belongs into a mode, or on a lower floor.
APART = {('report', 'train'), ('report', 'evaluate'), ('train', 'evaluate')}
# config.py knows the recipe's dataclass, which imports nothing.
ALLOWED = {('config', 'augment')}
# Who sees a ConfigDict beside modes/, the factories and config*.py: others take plain arguments.
CONFIGS = {
    'cli.py',
    'tools/bench_input.py',  # the tools put runs together, as modes do
    'tools/bench_loss.py',
    'tools/bench_step.py',
    'tools/first_views.py',
    'tools/known.py',
    'tools/plan.py',
    'tools/plan_evaluation.py',
    'train/setup.py',  # the factory of a run
    'workdir/claim.py',  # a workdir keeps the config of its run
}
TENSORFLOW = {
    'augment/tf_draws.py',
    'augment/tf_ops.py',
    'augment/tf_rand_augment.py',
    'augment/tf_some.py',
    'data/decode.py',
    'data/digits.py',
    'data/imagenet100.py',
    'data/iterate.py',
    'data/pipeline.py',
    'data/prepare.py',
    'data/records.py',
    'data/prepared.py',
    'data/undecoded.py',
    'weights/simclr.py',
}
# Of these, the ones that import it inside a function only.
LATE = {'data/prepared.py', 'weights/simclr.py'}
OPTIONAL = {'weights/onnx_graph.py'}  # which imports what only an export needs
FILES = sorted(PACKAGE.rglob('*.py'))


def imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


def wrong_way(here: str, there: str) -> str | None:
    """Returns what is wrong with an import of one room by another, and which way it should go."""
    if here == there or (here, there) in ALLOWED:
        return None
    if FLOOR[here] >= FLOOR[there]:
        beside = 'beside' if FLOOR[here] == FLOOR[there] else 'above'
        return (
            f'{there} is {beside} {here}: move what is needed to a floor below {here}, or call '
            f'both from a floor above {there}'
        )
    if (here, there) in APART:
        return f'{here} and {there} know nothing of each other: a mode calls both'
    return None


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_runs_back(path):
    relative = path.relative_to(PACKAGE)
    here = relative.parts[0].removesuffix('.py')
    for name in imports(path):
        if name.startswith('simclr_jax.') and here != '__init__':
            problem = wrong_way(here, name.split('.')[1])
            assert not problem, f'{relative} imports {name}, but {problem}'
        if name.split('.')[0] in ('tensorflow', 'tensorflow_datasets'):
            assert str(relative) in TENSORFLOW, f'{relative} imports {name}'


def test_an_arrow_that_runs_back_is_told_which_way_to_go():
    assert 'call both from a floor above report' in wrong_way('train', 'report')
    assert 'know nothing of each other' in wrong_way('report', 'train')
    assert 'tools is beside report' in wrong_way('report', 'tools')
    assert wrong_way('modes', 'report') is wrong_way('train', 'weights') is None


def test_every_room_has_its_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix('.py') for path in FILES}
    assert rooms - {'__init__'} == set(FLOOR)


def test_a_config_is_seen_where_runs_are_put_together_and_nowhere_else():
    found = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if 'ml_collections.ConfigDict' in imports(path)
        and path.relative_to(PACKAGE).parts[0] != 'modes'
        and path.name != 'factory.py'
        and not path.name.startswith('config')
    }
    assert found == CONFIGS


@pytest.mark.parametrize(
    ('code', 'limit'),
    [
        ('import simclr_jax', ('jax', 'tensorflow', 'flax')),
        ('import simclr_jax.cli', ('jax', 'tensorflow', 'flax')),
        (
            'from simclr_jax.cli_flags import parse; from simclr_jax.config_loading import load\n'
            'load(parse(["--config=simclr_folder", "--config.data.path=a"])[0].config)',
            ('jax', 'tensorflow', 'flax'),
        ),
    ],
)
def test_what_is_read_before_anything_slow_imports_no_jax(code, limit):
    code += f'\nimport sys; print(*(name for name in {limit} if name in sys.modules))'
    found = subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True, timeout=60)
    assert not found.split()


def test_what_needs_no_tensorflow_runs_where_it_is_not_installed():
    modules = [
        'simclr_jax.' + '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        for path in FILES
        if path.name != '__init__.py'
        and str(path.relative_to(PACKAGE)) not in (TENSORFLOW - LATE) | OPTIONAL
    ]
    code = (
        'import sys; sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None\n'
        + '\n'.join(f'import {module}' for module in modules)
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, timeout=120)
