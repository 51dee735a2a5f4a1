"""One view of one example changes: exactly the outputs change that the scope allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax.methods.factory import METHODS
from simclr_jax.models.normalization import GLOBAL, NormScope, batch_norm

BATCH, CHANGED = 16, 6  # view 1 of this example changes
VIEWS = np.random.default_rng(0).normal(size=(BATCH, 2, 4, 4, 1)).astype(np.float32)
GROUPS, DEVICE = NormScope('groups', 4), NormScope('device', 8)
EVERY = set(range(BATCH))
# (method, scope) -> examples of which the features of views 0 and 1 change
FEATURES = {
    ('simclr', GLOBAL): (EVERY, EVERY),
    ('simclr', GROUPS): ({6, 7}, {6, 7}),  # four rows: both views of two examples
    ('simclr', DEVICE): ({6, 7}, {6, 7}),
    ('byol', GLOBAL): (set(), EVERY),  # each view by itself
    ('byol', GROUPS): (set(), {4, 5, 6, 7}),
    ('byol', DEVICE): (set(), {6, 7}),
    ('moco_v3', GLOBAL): (set(), EVERY),
    ('moco_v3', GROUPS): (set(), {4, 5, 6, 7}),
    ('moco_v3', DEVICE): (set(), {6, 7}),
}
QUICKLY = {'xla_backend_optimization_level': 0}
EXTRA = {'moco': {'queue_size': 32}}


class Encoder(nn.Module):
    """The smallest with batch normalization, quick to compile."""

    norm_scope: NormScope

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(12)(images.reshape(len(images), -1))
        return nn.relu(batch_norm(train, jnp.float32, scope=self.norm_scope)(x))


def forward(name, scope, **fields):
    """Returns a function of the views: the method's `Aux`, of fixed variables and randomness."""
    sizes = {'hidden_dim': 8, 'output_dim': 4}
    method = METHODS[name](
        Encoder(scope), 10, norm_scope=scope, **sizes | EXTRA.get(name, {}) | fields
    )
    init = jax.jit(method.init, compiler_options=QUICKLY)
    variables, extra = init(jax.random.key(0, impl='rbg'), VIEWS[:2])
    params = variables.pop('params')
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P('data'))
    rng = jax.random.key(3)
    aux = jax.jit(
        lambda views: method.loss(params, variables, extra, views, rng, 0)[1],
        compiler_options=QUICKLY,
    )
    return lambda views: aux(jax.device_put(views, sharding)), rng


def influenced(run, output):
    changed = VIEWS.copy()
    changed[CHANGED, 1] += 1.0 + VIEWS[CHANGED, 0]
    one, other = (np.asarray(output(run(views))) for views in (VIEWS, changed))
    return (one != other).any(axis=-1)


@pytest.mark.parametrize(('name', 'scope'), FEATURES, ids=str)
def test_features(name, scope):
    run, _ = forward(name, scope)
    moved = influenced(run, lambda aux: aux.features)
    assert tuple(set(np.flatnonzero(moved[:, view])) for view in (0, 1)) == FEATURES[name, scope]


@pytest.mark.parametrize('scope', [GLOBAL, GROUPS, DEVICE], ids=str)
@pytest.mark.parametrize('shuffle', [False, True])
def test_moco_s_keys(scope, shuffle):
    """Shuffled, the keys of a group are those that the permutation puts there."""
    run, rng = forward('moco', scope, shuffle=shuffle)
    moved = set(np.flatnonzero(influenced(run, lambda aux: aux.carry[1])))
    size = BATCH // scope.num_groups(BATCH)
    order = np.asarray(jax.random.permutation(rng, BATCH)) if shuffle else np.arange(BATCH)
    groups = order.reshape(-1, size)
    (together,) = [set(group) for group in groups.tolist() if CHANGED in group]
    assert moved == together
    # Queries are of view 0, which did not change.
    assert not influenced(run, lambda aux: aux.features).any()


def test_shuffling_gives_each_query_the_key_of_its_own_image():
    keys = [
        forward('moco', GLOBAL, shuffle=shuffle)[0](VIEWS).carry[1] for shuffle in (False, True)
    ]
    np.testing.assert_allclose(keys[1], keys[0], atol=1e-5)
    assert jnp.abs(keys[0][0] - keys[0][1]).max() > 1e-3
