"""Every shipped config: its shapes at full size, and a shrunk copy that trains on made records."""

import inspect
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.config_checks import validate
from simclr_jax.config_loading import load
from simclr_jax.data import sources
from simclr_jax.train import loop
from simclr_jax.train.setup import assemble
from simclr_jax.workdir.checkpoint import Checkpoints

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
SIZES = {  # data set -> training images, stored shape, classes
    'digits': (1297, (8, 8, 1), 10),
    'cifar10': (50_000, (32, 32, 3), 10),
    'imagenette/160px-v2': (9469, (None, None, 3), 10),
    'imagenet100': (126_689, (None, None, 3), 100),
    'folder': (10_000, (None, None, 3), 10),
    'imagenet2012': (1_281_167, (None, None, 3), 1000),
    'imagenet2012_subset/1pct': (12_811, (None, None, 3), 1000),
    'imagenet2012_subset/10pct': (128_116, (None, None, 3), 1000),
}
DEFAULT_RUN = ('simclr_imagenet100', '')  # the others under `-m long`


def shipped() -> list[tuple[str, str]]:
    found = []
    for path in sorted(CONFIGS.glob('*.py')):
        module = runpy.run_path(str(path))
        takes_preset = inspect.signature(module['get_config']).parameters
        found += [(path.stem, p) for p in (module['PRESETS'] if takes_preset else ('',))]
    return found


SHIPPED = shipped()


def shape_key(name: str, preset: str) -> str:
    """What the shapes of a config depend on: presets that differ in rates alone share a key."""
    config = load(f'{CONFIGS / name}.py:{preset}')
    numbers = ('temperature', 'decay', 'base_decay', 'loss_scale')
    head = {k: v for k, v in config[config.method].items() if k not in numbers}
    return repr((name, config.batch_size, sorted(config.model.items()), sorted(head.items())))


def learns_from_pictures_alone(name: str, preset: str) -> bool:
    """Whether a run needs nothing beside its data set: no teacher, and no masks."""
    method = load(f'{CONFIGS / name}.py:{preset}').method
    return method not in (config_lib.DISTILL, config_lib.SEGMENT)  # tested in tests/modes


ARCHITECTURES = list(
    {
        shape_key(*recipe): recipe
        for recipe in reversed(SHIPPED)
        if learns_from_pictures_alone(*recipe)
    }.values()
)


def make_records(count: int, shape: tuple, classes: int) -> list[bytes]:
    """JPEGs of several sizes, or PNGs where the data set has one size; each with a label."""
    import tensorflow as tf  # three seconds that the shapes do without

    random = np.random.default_rng(0)
    records = []
    for number in range(count):
        size = shape if shape[0] else (20 + number, 40 - number, 3)
        pixels = random.integers(0, 256, size, np.uint8)
        encoded = tf.io.encode_png(pixels) if shape[0] else tf.io.encode_jpeg(pixels)
        features = {
            'image': tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded.numpy()])),
            'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[number % classes])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        records.append(example.SerializeToString())
    return records


def make_source(dataset: str, records: list[bytes] | None = None) -> sources.Source:
    """A source of these records, or of as many as there really are and none can be read."""
    num_examples, shape, classes = SIZES[dataset]
    names = tuple(map(str, range(classes)))
    if records is None:
        return sources.Source(lambda _: [], num_examples, shape, names)
    return sources.Source(
        lambda indices: [records[i] for i in indices], len(records), shape, names, canvas=64
    )


@pytest.mark.parametrize(
    ('name', 'preset'),
    [pytest.param(*r, marks=() if r == DEFAULT_RUN else pytest.mark.long) for r in ARCHITECTURES],
)
def test_shapes_at_full_size(name, preset):
    config = load(f'{CONFIGS / name}.py:{preset}')
    run = assemble(config, parallel.make_mesh(), make_source(config.data.dataset))
    state = run.abstract_state()
    after, metrics = run.lower_step().out_info
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert (metrics['loss'][0].shape, metrics['loss'][0].dtype) == ((), jnp.float32)
    for leaf in jax.tree.leaves(state.params):
        assert leaf.dtype == jnp.float32


def shrink(config: config_lib.ConfigDict, examples: int) -> None:
    """Three steps of a batch of all examples, small images, few channels."""
    config.batch_size, config.epochs = examples, 3.0
    config.data.image_size = min(config.data.image_size, 16)
    if config.model.encoder in config_lib.RESNETS:
        config.model.encoder = 'resnet_tiny'  # a ViT of one patch is small enough
    head = config[config.method]
    for name, size in (('hidden_dim', 16), ('output_dim', 8), ('queue_size', 2 * examples)):
        if name in head:
            head[name] = size
    config.optimizer.warmup_epochs = min(config.optimizer.warmup_epochs, 1.0)
    config.optimizer.decay_epochs = (2.0,) if config.optimizer.schedule == 'steps' else ()
    config.log.every_steps, config.log.tensorboard = 1, False
    config.checkpoint.every_steps = 2
    validate(config)


@pytest.mark.long
@pytest.mark.parametrize(('name', 'preset'), ARCHITECTURES)
def test_a_shrunk_copy_trains_three_steps_and_its_checkpoint_restores(name, preset, tmp_path):
    config = load(f'{CONFIGS / name}.py:{preset}')
    shrink(config, examples=8)
    records = make_records(8, *SIZES[config.data.dataset][1:])
    mesh = parallel.make_mesh(jax.devices()[:1])
    jax.config.update('jax_disable_most_optimizations', True)
    try:
        run = assemble(config, mesh, make_source(config.data.dataset, records))
        start = jax.device_get(run.init().params)
        state, pretrain, views = loop.train(run, str(tmp_path))
    finally:
        jax.config.update('jax_disable_most_optimizations', False)
    assert int(state.step) == pretrain['steps'] == 3
    assert views.shape[:2] == (8, len(config_lib.view_recipes(config)))
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()
    moved = [
        (np.asarray(new) != old).any()
        for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(start), strict=True)
    ]
    assert np.mean(moved) > 0.5  # where a scale starts at 0, what is before it starts slowly
    checkpoints = Checkpoints(str(tmp_path), config.checkpoint.keep)
    assert checkpoints.latest_step() == 3
    restored = checkpoints.restore(3, run.abstract_state())
    checkpoints.close()
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(got, want)
