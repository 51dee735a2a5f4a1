"""Runs made to collapse raise the alarm before a quarter of their length; healthy ones never."""

import dataclasses
import pathlib

import jax.numpy as jnp
import pytest
from flax import linen as nn

from simclr_jax.config import RunError
from simclr_jax.config_loading import load
from simclr_jax.losses import regression_loss
from simclr_jax.methods.base import Aux, embedding_std
from simclr_jax.methods.byol import BYOL
from simclr_jax.methods.networks import PredictionNetwork
from simclr_jax.models.heads import MLPHead
from simclr_jax.train.health import alarms
from simclr_jax.train.loop import train
from simclr_jax.train.setup import prepare
from simclr_jax.workdir.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.long


class Nothing(nn.Module):
    """In place of a predictor."""

    def __call__(self, x, train):
        return x


@dataclasses.dataclass(frozen=True)
class Collapsing(BYOL):
    """BYOL with neither predictor nor stop-gradient: the constant is the best embedding."""

    @property
    def network(self):
        head = MLPHead(self.hidden_dim, self.output_dim, hidden_bias=True, dtype=self.dtype)
        return PredictionNetwork(self.encoder, head, Nothing())

    def loss(self, params, variables, extra, views, rng, step):
        features, embeddings = [], []
        for view in range(2):
            (feature, embedding), variables = self.network.apply(
                {'params': params, **variables}, views[:, view], train=True, mutable=['batch_stats']
            )
            features.append(feature)
            embeddings.append(embedding)
        loss = 2 * regression_loss(*embeddings).mean()
        metrics = {'embedding_std': embedding_std(embeddings[0])}
        carry = {'batch_stats': extra['batch_stats']}
        features, embeddings = jnp.stack(features, axis=1), jnp.stack(embeddings, axis=1)
        return loss, Aux(variables, features, metrics, carry, embeddings)


def config_of(name: str, **overrides: str):
    overrides = {name.replace('__', '.'): value for name, value in overrides.items()}
    fields = {'health.on_collapse': 'stop', 'log.tensorboard': 'False'}
    return load(str(ROOT / f'configs/{name}.py'), fields | overrides)


def first_alarm(run, workdir) -> float:
    """The share of the run at which it was stopped."""
    with pytest.raises(RunError, match=r'has collapsed|not finite|training diverged') as caught:
        train(run, str(workdir))
    print(caught.value)
    rows = read_metrics(workdir)
    return rows[-1]['step'] / run.length.total_steps


def test_byol_without_predictor_and_stop_gradient(tmp_path):
    run = prepare(config_of('byol_digits'))
    fields = {f.name: getattr(run.method, f.name) for f in dataclasses.fields(run.method)}
    run = dataclasses.replace(run, method=Collapsing(**fields))
    assert first_alarm(run, tmp_path) < 0.25


@pytest.mark.parametrize('rate', ['1e5', '1e6'])
def test_simclr_at_an_absurd_rate(rate, tmp_path):
    run = prepare(config_of('simclr_digits', optimizer__learning_rate=rate))
    assert first_alarm(run, tmp_path) < 0.25


@pytest.mark.parametrize('name', ['simclr', 'byol', 'moco_v2', 'moco_v3'])
def test_healthy_runs_are_silent(name, tmp_path):
    run = prepare(config_of(f'{name}_digits'))
    train(run, str(tmp_path))
    rows = read_metrics(tmp_path)
    for key in ('embedding_std', 'effective_rank', 'alignment', 'uniformity'):
        print(name, key, min(row[key] for row in rows), max(row[key] for row in rows))
    assert rows[-1]['step'] == run.length.total_steps and alarms(rows) == {}
