"""Random erasing inside a run's train step."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.config_loading import load
from simclr_jax.train import setup


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['tf', 'jax'])
def test_a_run_erases_what_its_recipes_say(backend):
    overrides = {
        'data.cache': 'none',
        'augment.backend': backend,
        'augment.view1.erase_probability': '1.0',
    }
    run = setup.prepare(load('configs/simclr_digits.py', overrides))
    assert 'index' in run.abstract_batch()
    views = np.ones((3, 2, 8, 8, 1), np.float32)
    made = np.asarray(run.erase(views, jnp.arange(3), step=jnp.int32(0)))
    assert (made[:, 0] == 0).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(made[:, 1], views[:, 1])
    plain = setup.prepare(
        load('configs/simclr_digits.py', overrides | {'augment.view1.erase_probability': '0.0'})
    )
    assert plain.erase is None
    # The step of a run that erases draws more random numbers.
    draws = [str(each.trace_step().jaxpr).count('random_bits') for each in (plain, run)]
    assert draws[1] > draws[0]
