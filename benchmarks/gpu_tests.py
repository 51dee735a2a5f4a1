"""A pytest plugin: the tests on an accelerator, where TensorFlow need not be installed.

    PYTHONPATH=.:benchmarks python -m pytest -p gpu_tests -o addopts= tests/losses

`tests/conftest.py` puts every test on eight devices of the CPU. This plugin moves them to the
platform that `SIMCLR_JAX_TEST_PLATFORM` names (`cuda,cpu` where nothing is said), with float32
products in full precision, for which the tests' tolerances are made. A test is skipped where it
turns out, by what it does, to need what the machine lacks: more devices, or a module that is not
installed. Each result is a line of `SIMCLR_JAX_TEST_RESULTS` as soon as it is known.
"""

import contextlib
import importlib.util
import math
import os
import pathlib

import jax
import pytest

OPTIONAL = ('tensorflow', 'tensorflow_datasets', 'array_record', 'transformers', 'torch')
MISSING = {name for name in OPTIONAL if importlib.util.find_spec(name) is None}


class _Devices(list):
    """A list of devices that skips the test which asks for more of them."""

    def __getitem__(self, item):
        asked = (item.stop or 0) if isinstance(item, slice) else item + 1
        if isinstance(asked, int) and asked > len(self):
            pytest.skip(f'needs {asked} devices')
        return super().__getitem__(item)


def pytest_configure(config):
    """Runs after `tests/conftest.py` was imported, and before any array is made."""
    platform = os.environ.get('SIMCLR_JAX_TEST_PLATFORM', 'cuda,cpu')
    jax.config.update('jax_platforms', platform)
    jax.config.update('jax_default_matmul_precision', 'highest')
    if platform == 'cpu':  # a try: as many as there will be GPUs
        jax.config.update('jax_num_cpu_devices', 1)
    devices, make_mesh = jax.devices, jax.make_mesh

    def checked_mesh(shape, *args, **options):
        if (asked := math.prod(shape)) > len(options.get('devices') or devices()):
            pytest.skip(f'needs {asked} devices')
        return make_mesh(shape, *args, **options)

    jax.devices = lambda *args: _Devices(devices(*args))
    jax.make_mesh = checked_mesh


def pytest_ignore_collect(collection_path: pathlib.Path):
    """Leaves out files that import, at their beginning, what is not installed."""
    if collection_path.suffix != '.py' or not collection_path.name.startswith('test_'):
        return None
    with contextlib.suppress(OSError):
        lines = collection_path.read_text().splitlines()
        modules = {line.split()[1].split('.')[0] for line in lines if line.startswith(_IMPORTS)}
        if modules & MISSING:
            _write(f'left out\t{collection_path.name}\timports {sorted(modules & MISSING)[0]}')
            return True
    return None


_IMPORTS = ('import ', 'from ')


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    error = call.excinfo and call.excinfo.value
    if isinstance(error, ImportError) and (error.name or '').split('.')[0] in MISSING:
        report.outcome = 'skipped'
        report.longrepr = (str(item.path), 0, f'Skipped: needs {error.name}')


def pytest_runtest_logreport(report):
    if os.environ.get('PYTEST_XDIST_WORKER'):
        return  # the main process gets it too
    if report.when == 'call' or report.outcome != 'passed':
        reason = ''
        if report.skipped:
            reason = str(report.longrepr[-1])
        elif report.failed:
            reason = str(report.longrepr)[-1500:].replace('\n', '\n    ')
        _write(f'{report.outcome}\t{report.nodeid}\t{report.duration:.2f} s\t{reason}')


def _write(line: str) -> None:
    path = os.environ.get('SIMCLR_JAX_TEST_RESULTS')
    if path and not os.environ.get('PYTEST_XDIST_WORKER'):
        with open(path, 'a') as file:
            file.write(line + '\n')
