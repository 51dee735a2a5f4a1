"""BYOL's checkpoints: Haiku's parameters in a pickle of dill's, against Haiku itself."""

import dataclasses
import sys
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

dill = pytest.importorskip('dill', reason='needs dill, which BYOL writes its files with')
hk = pytest.importorskip('haiku', reason='needs dm-haiku, which BYOL is written in')

from haiku._src.data_structures import to_immutable_dict  # noqa: E402

from simclr_jax.config import ConfigError  # noqa: E402
from simclr_jax.weights import layouts  # noqa: E402

BLOCKS = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}


def network(encoder: str, dim: int):
    """The ResNet of `utils/networks.py`, whose classifier hands the features on."""
    return hk.without_apply_rng(
        hk.transform_with_state(
            lambda images, train=False: hk.nets.ResNet(
                BLOCKS[encoder],
                num_classes=dim,
                bottleneck=encoder == 'resnet50',
                channels_per_group=(256, 512, 1024, 2048)
                if encoder == 'resnet50'
                else (64, 128, 256, 512),
                use_projection=(True,) * 4,
                bn_config={'decay_rate': 0.9, 'eps': 1e-5},
                logits_config={'name': 'classifier'},
                name='res_net50',
            )(images, train)
        )
    )


def randomized(tree, seed: int, moving: bool = False):
    rng = np.random.default_rng(seed)

    def draw(path, value):
        names, value = [part.key for part in path], np.asarray(value)
        noise = rng.normal(size=value.shape)
        if moving and 'var_ema' in names[0]:
            noise = np.abs(noise) * 0.3 + 0.7
        elif moving or names[-1] == 'offset':
            noise = noise * 0.1
        elif names[-1] == 'scale':
            noise = noise * 0.1 + 1
        else:
            noise = noise * (2 / np.prod(value.shape[:-1])) ** 0.5
        return noise.astype(value.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def checkpoint(path, encoder: str, immutable: bool = True, protocol: int = 2):
    """Writes what `byol_experiment.py` writes; returns the images and Haiku's features of them."""
    dim = 2048 if encoder == 'resnet50' else 512
    net = network(encoder, dim)
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    params, state = net.init(jax.random.key(0), jnp.asarray(images), True)
    params, state = dict(randomized(params, 0)), randomized(state, 0, moving=True)
    last = 'res_net50/~/classifier'
    params[last] = {'w': np.eye(dim, dtype=np.float32), 'b': np.zeros(dim, np.float32)}
    features = np.asarray(net.apply(params, state, images)[0])
    params['projector/linear'] = {'w': np.zeros((dim, 8), np.float32), 'b': np.zeros(8, np.float32)}
    make = to_immutable_dict if immutable else dict
    # Its module is not there when the file is read, as it is not for anybody but its authors.
    module = types.ModuleType('byol.byol_experiment')
    sys.modules.update({'byol': types.ModuleType('byol'), 'byol.byol_experiment': module})
    fields = ('online_params', 'target_params', 'online_state', 'target_state', 'opt_state')
    kind = typing.NamedTuple('_ByolExperimentState', [(field, typing.Any) for field in fields])
    kind.__module__, module._ByolExperimentState = module.__name__, kind
    target = make(randomized(params, 5))
    online = kind(make(params), target, make(state), make(state), (make(params),))
    content = {'experiment_state': online, 'step': np.int32(3), 'rng': np.zeros(2, np.uint32)}
    path.write_bytes(dill.dumps(content, protocol=protocol))
    del sys.modules['byol'], sys.modules['byol.byol_experiment']
    return images, features


def features_of(weights, images, **change):
    module = dataclasses.replace(weights.architecture, **change).module()
    return jax.jit(lambda variables: module.apply(variables, images, False))(weights.variables)


def difference(ours, theirs) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(
    ('encoder', 'wrong'),
    [
        ('resnet18', ['simclr']),
        pytest.param('resnet50', ['simclr', 'torch'], marks=pytest.mark.slow),
    ],
)
def test_features_are_those_of_haiku_with_its_padding_and_with_no_other(encoder, wrong, tmp_path):
    images, theirs = checkpoint(tmp_path / 'pretrain.pkl', encoder)
    weights = layouts.read(tmp_path / 'pretrain.pkl')
    assert weights.architecture.padding == 'same' and weights.architecture.encoder == encoder
    found = difference(features_of(weights, images), theirs)
    print(f'BYOL, {encoder}: {found:.1e}')
    assert found < 1e-4
    for padding in wrong:
        off = difference(features_of(weights, images, padding=padding), theirs)
        print(f'BYOL, {encoder}, with the padding of {padding}: {off:.1e}')
        assert off > 1e-3


def test_preprocessing_and_origin(tmp_path):
    checkpoint(tmp_path / 'pretrain.pkl', 'resnet18')
    weights = layouts.read(tmp_path / 'pretrain.pkl')
    preprocess = weights.preprocess
    assert (preprocess.size, preprocess.crop, preprocess.interpolation) == (224, 0.875, 'bicubic')
    assert preprocess.mean == (0.485, 0.456, 0.406) and not preprocess.antialias
    assert weights.origin['dropped'] == ['target', 'classifier', 'projector']
    assert weights.origin['network'] == 'online'


@pytest.mark.parametrize(('immutable', 'protocol'), [(False, 2), (True, 4), (False, 5)])
def test_other_protocols_and_plain_dicts(immutable, protocol, tmp_path):
    images, theirs = checkpoint(tmp_path / 'pretrain.pkl', 'resnet18', immutable, protocol)
    weights = layouts.read(tmp_path / 'pretrain.pkl')
    assert difference(features_of(weights, images), theirs) < 1e-4


def test_other_networks_are_refused(tmp_path):
    net = hk.transform_with_state(lambda x: hk.nets.ResNet18(3, resnet_v2=True)(x, True))
    params, state = net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    trees = jax.tree.map(np.asarray, (params, params, state, state, ()))
    (tmp_path / 'x.pkl').write_bytes(dill.dumps({'experiment_state': trees}, protocol=2))
    with pytest.raises(ConfigError, match='none of a ResNet of'):
        layouts.read(tmp_path / 'x.pkl')
