"""A workdir belongs to one run: its config, and what its data held."""

import dataclasses
import json

import pytest

from simclr_jax.config import ConfigError, default, to_json
from simclr_jax.modes import pretrain
from simclr_jax.workdir import claim
from simclr_jax.workdir.claim import Held

FOLDER = Held(3, ('a', 'b'), lambda: b'which pictures')


def claim_it(config, workdir, held):
    claim.claim_workdir(config, str(workdir), lambda: held)


@pytest.mark.parametrize('held', [FOLDER, Held(500, None), Held(9, ('x',))])
def test_what_the_data_held_is_kept_and_read(tmp_path, held):
    assert claim.check_claim(default(), str(tmp_path)) is None
    claim_it(default(), tmp_path, held)
    found = claim.check_claim(default(), str(tmp_path))
    assert found == held and (found.pictures and found.pictures()) == (
        held.pictures and held.pictures()
    )
    claim_it(default(), tmp_path, dataclasses.replace(held, num_examples=77))  # of a later start
    assert claim.check_claim(default(), str(tmp_path)) == held


def test_what_a_crash_left_behind_is_not_a_run(tmp_path):
    claim_it(default(), tmp_path, FOLDER)
    (tmp_path / 'config.json').unlink()  # the last file that a claim writes
    assert claim.check_claim(default(), str(tmp_path)) is None
    claim_it(default(), tmp_path, Held(4, None))
    assert claim.check_claim(default(), str(tmp_path)) == Held(4, None)


def test_a_run_too_old_to_know_its_data_goes_on_and_learns_them(tmp_path):
    (tmp_path / 'config.json').write_text(to_json(default()))
    assert claim.check_claim(default(), str(tmp_path)) is None
    claim_it(default(), tmp_path, FOLDER)
    assert claim.check_claim(default(), str(tmp_path)) == FOLDER


@pytest.mark.parametrize('damage', ['', '[]', '{"num_examples": 3}', '{"num_examples": "x"}'])
def test_a_damaged_file_is_named(tmp_path, damage):
    claim_it(default(), tmp_path, FOLDER)
    (tmp_path / 'data.json').write_text(damage)
    with pytest.raises(ConfigError, match=r'--workdir=.*data\.json.* cannot be read'):
        claim.check_claim(default(), str(tmp_path))


@pytest.mark.parametrize('lost', [True, False])
def test_a_lost_or_cut_list_of_pictures_is_named(tmp_path, lost):
    claim_it(default(), tmp_path, FOLDER)
    (tmp_path / 'data.pictures').unlink()
    if not lost:
        (tmp_path / 'data.pictures').write_bytes(b'which')
    with pytest.raises(ConfigError, match=r'data\.pictures'):
        claim.check_claim(default(), str(tmp_path))


def test_a_first_try_that_fails_claims_nothing(tmp_path, monkeypatch):
    """The corrected command must find the workdir free."""
    config = default()
    config.data.dataset, config.data.data_dir = 'digits', str(tmp_path / 'data')
    config.data.image_size, config.epochs, config.model.encoder = 8, 1.0, 'resnet_tiny'
    config.optimizer.warmup_epochs = 0.0
    workdir = tmp_path / 'run'
    config.batch_size = 4096
    with pytest.raises(ConfigError, match='batch_size=4096'):
        pretrain.main(config, str(workdir))
    config.batch_size, config.data.dataset = 64, 'no_such_data'
    with pytest.raises(ConfigError, match='no_such_data'):
        pretrain.main(config, str(workdir))
    assert [path.name for path in workdir.iterdir()] == ['lock']

    class Began(Exception):
        pass

    def began(*_):
        raise Began

    monkeypatch.setattr(pretrain, 'train', began)
    config.data.dataset = 'digits'
    with pytest.raises(Began):
        pretrain.main(config, str(workdir))
    assert json.loads((workdir / 'data.json').read_text())['num_examples'] > 1000
    config.seed = 5
    with pytest.raises(ConfigError, match='seed'):
        pretrain.main(config, str(workdir))
