"""What the probes at the end of a run, or its comparison, would take on chips that are not there.

Their real programs are compiled for the size of the probes' training split; nothing is run.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import CLASSIFIERS, FINETUNE
from simclr_jax.evaluate import knn, linear, logistic
from simclr_jax.evaluate.features import RAW_PIXELS_SIZE, make_extraction
from simclr_jax.evaluate.published import published_protocol
from simclr_jax.tools.chips import Chip
from simclr_jax.tools.known import known_source
from simclr_jax.train.memory import program_bytes
from simclr_jax.train.out_of_memory import is_out_of_memory, refused
from simclr_jax.train.setup import Run

_GIB = 2**30
_QUERIES = 10**9  # however many test pictures there are: they are looked at in chunks


def estimate_evaluation(run: Run, chip: Chip) -> dict[str, Any] | None:
    """Compiles what `eval.after_pretrain` runs, for all pictures of the probes' training split.

    Of fine-tuning, it is what `finetune.compare` does with the frozen encoder, for the pictures
    that are learned from; what is trained there takes what the run itself takes.

    Args:
      run: the parts of a run on the mesh of the plan.
      chip: one of its devices.

    Returns:
      `pictures`; `dim` of the features; `memory`, the bytes of the largest program and the train
      state, which is still there; `parts`, the bytes of each program (None where the compiler
      refuses it without a number); `host_features`, the bytes of all features, which every host
      holds once; `fits`. None where there is none of it: no probes, or no labels.
    """
    config, probes = run.config, _probes(run.config)
    classifies = config.method in CLASSIFIERS
    source = run.source if classifies else known_source(_data_of_probes(config))
    if source is None or not source.num_classes or not probes:
        return None
    count, state = source.num_examples, run.abstract_state()
    variables = {'encoder': state.all_variables()}
    dims = {'encoder': _dim(run, variables['encoder'])}
    if config.eval.baselines and not classifies:
        variables['untrained'] = variables['encoder']
        dims['untrained'] = dims['encoder']
        size = min(RAW_PIXELS_SIZE, config.data.image_size)
        dims['raw_pixels'] = size * size * run.source.image_shape[-1]
    parts = {'features': _compile(lambda: _lower_extraction(run, variables))}
    widest = max(dims.values())
    if 'linear_eval' in probes and (classifies or config.linear_eval.protocol == 'fast'):
        counts = (config.finetune if classifies else config.linear_eval).labels_per_class
        for name, size in _regressions(widest, count, source.num_classes, counts):
            parts[name] = _compile(lambda size=size: _lower_regression(run, *size))
    if 'knn' in probes:
        parts['knn'] = _compile(lambda: _lower_knn(run, count, widest))
    held = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    memory = None if None in parts.values() else max(parts.values()) + held
    return {
        'pictures': count,
        'dim': dims['encoder'],
        'memory': memory,
        'parts': parts,
        'host_features': 4 * count * sum(dims.values()),
        'fits': memory is not None and memory <= chip.memory,
    }


def format_evaluation(result: dict[str, Any] | None, available: float) -> str:
    """The plan of the evaluation as aligned plain text.

    Args:
      result: of `estimate_evaluation`.
      available: bytes of a chip's memory.
    """
    if result is None:
        return f'{"evaluation":<18}none: no probes, or no labels that are known here'
    fits = 'fits' if result['fits'] else 'does NOT fit'
    parts = ', '.join(f'{name} {_gib(size)}' for name, size in result['parts'].items())
    rows = [
        ('evaluation', f'{result["pictures"]:,} pictures, features of {result["dim"]:,}'),
        ('  memory a chip', f'{_gib(result["memory"])} of {_gib(available)} GiB: {fits}'),
        ('  GiB of each', f'{parts}; and the train state'),
        ('  memory a host', f'{_gib(result["host_features"])} GiB of features, each host all'),
    ]
    return '\n'.join(f'{name:<18}{value}' for name, value in rows)


def _gib(size: float | None) -> str:
    return '?' if size is None else f'{size / _GIB:.2f}'


def _probes(config: ConfigDict) -> tuple[str, ...]:
    """Which of 'linear_eval' and 'knn' a run ends with."""
    if config.method == FINETUNE:
        names = {'linear': 'linear_eval', 'knn': 'knn'}
        return tuple(names[way] for way in config.finetune.compare if way in names)
    return () if config.method in CLASSIFIERS else tuple(config.eval.after_pretrain)


def _data_of_probes(config: ConfigDict) -> ConfigDict:
    """The config with the probes' training split in the place of pretraining's."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if config.eval.dataset or config.eval.path:
            config.data.dataset = config.eval.dataset or config.data.dataset
            config.data.path, config.data.train_split = config.eval.path, 'train'
            config.data.labels = ''
        config.data.labels = config.eval.labels or config.data.labels
        config.data.train_split = config.eval.train_split or config.data.train_split
    return config


def _dim(run: Run, variables) -> int:
    size, channels = run.config.data.image_size, run.source.image_shape[-1]
    encoder = run.method.representation()
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(lambda v, x: encoder.apply(v, x, train=False), variables, images).shape[1]


def _compile(lower) -> float | None:
    try:
        return float(program_bytes(lower().compile()))
    except jax.errors.JaxRuntimeError as error:  # the TPU compiler refuses what does not fit
        if not is_out_of_memory(error):
            raise
        return refused(str(error))


def _lower_extraction(run: Run, variables) -> jax.stages.Lowered:
    config, data = run.config, run.config.data
    batch = config.eval.batch_size
    classifies = config.method in CLASSIFIERS
    if (
        config.linear_eval.protocol != 'fast' and not classifies
    ):  # its step is the encoder's forward pass, and a layer
        protocol = published_protocol(
            config.linear_eval.protocol,
            config.model.encoder,
            batch_size=config.linear_eval.batch_size,
        )
        batch = max(batch, protocol.batch_size)
    step = make_extraction(
        dict.fromkeys(variables, run.method.representation()),
        run.mesh,
        mean=data.mean,
        std=data.std,
        raw_pixels=config.eval.baselines and not classifies,
    )
    shape = (batch, 1, data.image_size, data.image_size, run.source.image_shape[-1])
    return step.lower(variables, jax.ShapeDtypeStruct(shape, jnp.uint8))


def _regressions(
    dim: int, count: int, classes: int, labels_per_class: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """The batches of regressions of `linear_eval`: examples, dim, problems, classes."""
    yield 'linear_eval', (count, dim, linear.count_problems('all'), classes)
    if labels_per_class:
        few = min(count, max(labels_per_class) * classes)
        problems = sum(map(linear.count_problems, labels_per_class))
        yield 'linear_eval, few labels', (few, min(few, dim), problems, classes)


def _lower_regression(
    run: Run, count: int, dim: int, problems: int, classes: int
) -> jax.stages.Lowered:
    state, data, chunk = logistic.abstract(count, dim, problems, classes, run.mesh)
    return logistic.turn.lower(state, data, tolerance=1e-4, chunk=chunk, mesh=run.mesh)


def _lower_knn(run: Run, count: int, dim: int) -> jax.stages.Lowered:
    def of(spec, shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(run.mesh, spec))

    of_device, chunk = knn.plan_chunks(_QUERIES, count, dim, run.mesh)
    keys = parallel.batch_sharding(run.mesh).spec
    return knn.nearest.lower(
        of(P(), (chunk, dim)),
        of(keys, (run.mesh.devices.size * of_device, dim)),
        of(P(), (), jnp.int32),
        k=min(run.config.knn.k, count),
        mesh=run.mesh,
    )
