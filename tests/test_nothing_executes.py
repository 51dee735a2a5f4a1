"""What is loaded is data: no loader in the package runs code that a file brings along."""

import ast
import io
import pathlib
import pickle
import tarfile

import numpy as np
import pytest

from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.workdir.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
FILES = [*sorted((ROOT / 'simclr_jax').rglob('*.py')), ROOT / 'run.py']
MODULES = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'yaml'}
# A recipe in configs/ is a Python file of the user's, and the one thing that is executed.
CALLS = {'eval', 'exec', 'compile', '__import__'}


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loader_that_executes(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split('.')[0] for name in names} & MODULES
        if isinstance(node, ast.Call):
            called = node.func
            assert not (isinstance(called, ast.Name) and called.id in CALLS)
            for keyword in node.keywords:
                assert keyword.arg != 'allow_pickle' or keyword.value.value is False
            if isinstance(called, ast.Attribute) and ast.unparse(called) == 'torch.load':
                assert 'weights_only=True' in ast.unparse(node)


class Bomb:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path('exploded'),))


def test_a_pickle_in_place_of_metrics_is_not_run(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'metrics.jsonl').write_bytes(pickle.dumps(Bomb()))
    assert read_metrics(tmp_path) == []
    np.save('bomb.npy', np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(ValueError, match='allow_pickle=False'):
        np.load('bomb.npy')  # the default, which nothing in the package changes
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('name', ['../outside', '/outside', 'a/../../b', '~/x', ''])
def test_a_data_set_name_stays_in_the_data_directory(name):
    with pytest.raises(ConfigError, match=r'data\.dataset='):
        load(str(ROOT / 'configs/simclr_digits.py'), {'data.dataset': name})


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path):
    """TFDS extracts what a builder downloads; this holds it to that."""
    from tensorflow_datasets.core.download import extractor

    for name in ('../outside', '/outside', 'a/../../outside'):
        archive = tmp_path / 'archive.tar'
        with tarfile.open(archive, 'w') as tar:
            for path in (name, 'inside'):
                member = tarfile.TarInfo(path)
                member.size = 4
                tar.addfile(member, io.BytesIO(b'evil'))
        names = [str(path) for path, _ in extractor.iter_tar(str(archive))]
        assert names == ['inside']
