"""Encoders of `transformers`, a PyTorch library, with weights drawn for ours.

    python tests/models/torch_encoders.py

writes what they return to `tests/goldens/torch_encoders.npz`, in an environment with the `export`
extra. `test_parity.py` holds ours against it with and without PyTorch.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.models.factory import create_encoder
from simclr_jax.models.vit import PATCH_PROJECTION, sincos_positions

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens/torch_encoders.npz'
NAMES = ('resnet18', 'resnet50', 'vit_s16')
SIZE = 224
IMAGES = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def make(name: str):
    """The encoder, and variables that are a function of its name alone, nothing at its start."""
    encoder = create_encoder(name, image_size=SIZE)
    shapes = jax.eval_shape(
        lambda rng, images: encoder.init(rng, images, train=True), jax.random.key(0), IMAGES
    )
    rng = np.random.default_rng(NAMES.index(name))

    def draw(path, x):
        leaf = path[-1].key
        if leaf in ('scale', 'var'):
            return rng.uniform(0.4, 0.8, size=x.shape).astype(np.float32)
        if leaf in ('bias', 'mean'):
            return rng.normal(0, 0.1, size=x.shape).astype(np.float32)
        if leaf == 'class_token':
            return rng.normal(size=x.shape).astype(np.float32)
        fan_in = x.size / x.shape[-1]
        if name.startswith('vit') and x.ndim == 3 and path[-2].key != 'out':
            fan_in = x.shape[0]
        return rng.normal(0, fan_in**-0.5, size=x.shape).astype(np.float32)

    return encoder, jax.tree_util.tree_map_with_path(draw, shapes)


def torch_features(name: str, variables) -> np.ndarray:
    """What the `transformers` encoder returns for `IMAGES`, `[2, dim]`."""
    import torch

    model, state = (_vit if name.startswith('vit') else _resnet)(name, variables)
    own = model.state_dict()
    assert {k for k in own if 'num_batches' not in k} == set(state)
    for key, x in state.items():
        own[key] = torch.from_numpy(np.ascontiguousarray(x)).reshape(own[key].shape)
    model.load_state_dict(own)
    model.eval()
    with torch.no_grad():
        output = model(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()))
    features = output.last_hidden_state[:, 0] if name.startswith('vit') else output.pooler_output
    return features.reshape(len(IMAGES), -1).numpy()


def _resnet(name, variables):
    from transformers import ResNetConfig, ResNetModel

    basic = name == 'resnet18'
    depths = [2, 2, 2, 2] if basic else [3, 4, 6, 3]
    config = ResNetConfig(
        depths=depths,
        hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
        layer_type='basic' if basic else 'bottleneck',
    )
    params, stats = variables['params'], variables['batch_stats']
    state = {}

    def layer(torch_name, params, stats, conv, norm):
        state[f'{torch_name}.convolution.weight'] = params[conv]['kernel'].transpose(3, 2, 0, 1)
        state[f'{torch_name}.normalization.weight'] = params[norm]['scale']
        state[f'{torch_name}.normalization.bias'] = params[norm]['bias']
        state[f'{torch_name}.normalization.running_mean'] = stats[norm]['mean']
        state[f'{torch_name}.normalization.running_var'] = stats[norm]['var']

    layer('embedder.embedder', params, stats, 'stem_conv', 'stem_norm')
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours = f'stage{stage + 1}_block{block}'
            theirs = f'encoder.stages.{stage}.layers.{block}'
            for i in range(2 if basic else 3):
                names = f'conv{i + 1}', f'norm{i + 1}'
                layer(f'{theirs}.layer.{i}', params[ours], stats[ours], *names)
            if 'shortcut_conv' in params[ours]:
                names = 'shortcut_conv', 'shortcut_norm'
                layer(f'{theirs}.shortcut', params[ours], stats[ours], *names)
    return ResNetModel(config), state


def _vit(name, variables):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=4 * 384,
        layer_norm_eps=1e-6,
        image_size=SIZE,
        patch_size=16,
    )
    params = variables['params']
    patch, positions = params[PATCH_PROJECTION], sincos_positions(SIZE // 16, SIZE // 16, 384)
    state = {
        'embeddings.cls_token': params['class_token'],
        'embeddings.position_embeddings': np.pad(positions, ((1, 0), (0, 0))),
        'embeddings.patch_embeddings.projection.weight': patch['kernel'].transpose(3, 2, 0, 1),
        'embeddings.patch_embeddings.projection.bias': patch['bias'],
    }

    def dense(torch_name, p):
        state[f'{torch_name}.weight'] = p['kernel'].reshape(-1, p['bias'].size).T
        state[f'{torch_name}.bias'] = p['bias'].ravel()

    def norm(torch_name, p):
        state[f'{torch_name}.weight'], state[f'{torch_name}.bias'] = p['scale'], p['bias']

    for i in range(12):
        p, theirs = params[f'block{i}'], f'layers.{i}'
        for part in ('query', 'key', 'value'):
            kernel = p['attention'][part]['kernel'].reshape(384, 384)
            bias = p['attention'][part]['bias']
            dense(f'{theirs}.attention.{part[0]}_proj', {'kernel': kernel, 'bias': bias})
        dense(f'{theirs}.attention.o_proj', p['attention']['out'])
        dense(f'{theirs}.mlp.fc1', p['dense1'])
        dense(f'{theirs}.mlp.fc2', p['dense2'])
        norm(f'{theirs}.layernorm_before', p['norm1'])
        norm(f'{theirs}.layernorm_after', p['norm2'])
    norm('layernorm', params['norm'])
    return ViTModel(config, add_pooling_layer=False), state


def our_features(name: str) -> np.ndarray:
    encoder, variables = make(name)
    apply = jax.jit(
        lambda variables, images: encoder.apply(variables, images, train=False),
        compiler_options={'xla_backend_optimization_level': 0},
    )
    return np.asarray(apply(variables, jnp.asarray(IMAGES)))


if __name__ == '__main__':
    features = {name: torch_features(name, make(name)[1]) for name in sys.argv[1:] or NAMES}
    np.savez(GOLDENS, **features)
    for name, values in features.items():
        print(name, values.shape, f'largest {np.abs(values).max():.3g}', flush=True)
