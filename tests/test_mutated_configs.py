"""500 configs with one mistake each: a line that names it, status 2, and nothing slow before."""

import pathlib
import random

import pytest

from simclr_jax import cli, interruption
from simclr_jax.config import flatten
from simclr_jax.config_checks import _CHOICES, _NOT_NEGATIVE, _POSITIVE, _UNIT
from simclr_jax.config_loading import load

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = 'configs/simclr_digits.py'
FIELDS = flatten(load(str(ROOT / CONFIG)))


def misspelt(rng: random.Random) -> tuple[str, str]:
    while True:
        field = rng.choice(list(FIELDS))
        place = rng.randrange(len(field))
        letter = rng.choice('abcdefghijklmnopqrstuvwxyz_.')
        changed = rng.choice(
            (
                field[:place] + field[place + 1 :],
                field[:place] + letter + field[place:],
                field[:place] + letter + field[place + 1 :],
                field[:place] + field[place : place + 2][::-1] + field[place + 2 :],
                field.partition('.')[2] or field.upper(),
            )
        )
        if changed and changed not in FIELDS:
            return changed, str(FIELDS[field])


def wrong_type(rng: random.Random) -> tuple[str, str]:
    field = rng.choice([name for name, value in FIELDS.items() if not isinstance(value, str)])
    texts = {
        bool: ('3', 'maybe', '1.0', '(True,)', 'None', 'yes', ''),
        int: ('many', '3.5', '(1, 2)', 'True', 'None', '1e3', '[', ''),
        float: ('fast', '(0.1,)', 'True', 'None', '0,5', '0.1.2', '{}', ''),
        tuple: ("('a', 1)", 'x', 'None', '((1,),)', "{'a': 1}", '(1, None)', '(-1.5,)'),
    }
    return field, rng.choice(texts[type(FIELDS[field])])


def impossible(rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(('choice', 'positive', 'not negative', 'unit', 'float', 'other'))
    if kind == 'choice':
        field = rng.choice(list(_CHOICES))
        return field, rng.choice(('', 'none at all', str(_CHOICES[field][0]) + 'x', '3'))
    if kind == 'positive':
        return rng.choice(_POSITIVE), rng.choice(('0', '-1', '-100'))
    if kind == 'not negative':
        return rng.choice(_NOT_NEGATIVE), rng.choice(('-1', '-1000000'))
    if kind == 'unit':
        return rng.choice([f for f in _UNIT if type(FIELDS[f]) is float]), rng.choice(('-0.1', '2'))
    if kind == 'float':
        field = rng.choice([name for name, value in FIELDS.items() if type(value) is float])
        return field, rng.choice(('1e999', '-1e999', '-7'))
    return rng.choice(
        (
            ('batch_size', '1'),
            ('batch_size', '1000000000'),
            ('data.dataset', '../../etc'),
            ('data.dataset', 'digitz'),
            ('data.dataset', '/tmp'),
            ('data.train_split', 'nothing'),
            ('eval.test_split', 'train['),
            ('eval.train_split', 'nothing'),
            ('eval.dataset', 'mnist'),
            ('eval.path', 'nowhere'),
            ('data.mean', '(0.1, 0.2)'),
            ('data.std', '(0.0,)'),
            ('data.mean', '(0.5, 0.5, 0.5)'),
            ('optimizer.warmup_epochs', '1000'),
            ('optimizer.decay_epochs', '(30.0,)'),
            ('eval.after_pretrain', "('linear',)"),
            ('eval.after_pretrain', "'knn'x"),
            ('knn.labels_per_class', '(0,)'),
            ('augment', '3'),
            ('augment.view1', '{}'),
        )
    )


@pytest.mark.parametrize(
    ('mutate', 'number'), [(misspelt, 200), (wrong_type, 150), (impossible, 150)]
)
def test_every_mistake_is_a_line_with_status_2(mutate, number, tmp_path, monkeypatch, capsys):
    """In one process; `tests/test_cli.py` starts real ones and looks at what they import."""
    from simclr_jax.modes import eval_data, pretrain
    from simclr_jax.train import setup

    def main(config, workdir):  # what the mode does before anything slow starts
        run = setup.prepare(config)
        eval_data.open_eval_data(config, run.source, needed=False)
        pytest.fail(f'accepted: {argument}')

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
    monkeypatch.setattr(interruption, 'install', lambda: None)
    monkeypatch.setattr(pretrain, 'main', main)
    rng = random.Random(0)
    accepted = []
    for _ in range(number):
        field, text = mutate(rng)
        argument = f'--config.{field}={text}'
        try:
            status = cli.main([f'--config={CONFIG}', f'--workdir={tmp_path / "w"}', argument])
        except BaseException as error:
            accepted.append((argument, repr(error)[:150]))
            continue
        lines = capsys.readouterr().err.splitlines()
        assert status == 2, argument
        assert lines and all(line.startswith('error: ') for line in lines), (argument, lines)
        name = 'split' if field.endswith('_split') else field.rpartition('.')[2]
        assert name in lines[0] and len(lines[0]) < 400, (argument, lines)
    assert not accepted
