"""Which values a config may hold: what can be known before data and devices are looked at."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.config import (
    AUTO_FIELDS,
    COMPARED,
    DISTILL,
    ENCODERS,
    FINETUNE,
    LINEAR_PROTOCOLS,
    METHODS,
    ONE_VIEW,
    PROBES,
    SCRATCH,
    SEGMENT,
    SMALL_IMAGE,
    START_FIELDS,
    VITS,
    ConfigError,
    did_you_mean,
    first_trained,
    flatten,
    labels_wanted,
    mixing_recipe,
    view_recipes,
)

_CHOICES = {
    'method': (*METHODS, *ONE_VIEW),
    'segment.trained': ('probes', 'all'),
    'finetune.frozen_norm': ('running', 'batch'),
    'finetune.head_init': ('zero', 'normal', 'timm', 'trunc_normal', 'linear'),
    'model.encoder': ENCODERS,
    'model.stem': ('auto', 'imagenet', 'small'),
    'model.padding': ('torch', 'simclr', 'same'),
    'model.remat': ('none', 'blocks', 'full'),
    'simclr.loss_impl': ('auto', 'dense', 'tiled'),
    'data.cache': ('none', 'device'),
    'data.eval_interpolation': ('bicubic', 'bilinear'),
    'augment.backend': ('tf', 'jax'),
    'augment.dtype': ('float32', 'bfloat16'),
    'model.norm_scope': ('global', 'groups', 'device'),
    'model.pooling': ('token', 'mean', 'patches'),
    'finetune.pooling': ('own', 'patches'),
    'model.positions': ('sincos', 'learned'),
    'model.dtype': ('float32', 'bfloat16'),
    'health.on_nonfinite': ('stop', 'skip'),
    'health.on_collapse': ('warn', 'stop'),
    'health.on_memory': ('stop', 'warn'),
    'optimizer.name': ('lars', 'sgd', 'adamw'),
    'optimizer.learning_rate_scaling': ('linear', 'sqrt', 'none'),
    'optimizer.schedule': ('cosine', 'one_cycle', 'linear', 'steps'),
    'linear_eval.protocol': LINEAR_PROTOCOLS,
}
_POSITIVE = (
    'epochs',
    'data.image_size',
    'data.eval_crop',
    'model.width',
    'model.patch_size',
    'model.epsilon',
    'model.norm_group_size',
    'simclr.temperature',
    'simclr.num_layers',
    'simclr.hidden_dim',
    'simclr.output_dim',
    'simclr.loss_scale',
    'byol.hidden_dim',
    'byol.output_dim',
    'moco.queue_size',
    'moco.temperature',
    'moco.num_layers',
    'moco.hidden_dim',
    'moco.output_dim',
    'moco_v3.temperature',
    'moco_v3.hidden_dim',
    'moco_v3.output_dim',
    'moco_v3.num_layers',
    'finetune.layer_decay',
    'optimizer.decay_factor',
    'distill.temperature',
    'distill.alpha',
    'segment.layers',
    'segment.most_of_one',
    'segment.neighbours',
    'segment.temperature',
    'optimizer.trust_coefficient',
    'optimizer.accumulation_steps',
    'log.every_steps',
    'checkpoint.every_steps',
    'checkpoint.keep',
    'eval.batch_size',
    'linear_eval.draws',
    'finetune.draws',
    'knn.k',
    'knn.temperature',
    'knn.draws',
)
_NOT_NEGATIVE = (
    'data.canvas',
    'log.every_seconds',
    'checkpoint.every_minutes',
    'health.max_skips',
    'health.loss_band',
    'health.min_std',
    'health.min_rank',
    'seed',
    'data.workers',
    'model.sk_ratio',
    'model.num_heads',
    'simclr.eval_layer',
    'finetune.head_layers',
    'finetune.head_learning_rate',
    'finetune.scratch_learning_rate',
    'finetune.draw',
    'finetune.min_steps',
    'segment.dilated',
    'segment.resize',
    'segment.step',
    'segment.plain_learning_rate',
    'segment.memory',
    'optimizer.learning_rate',
    'optimizer.min_learning_rate',
    'optimizer.warmup_epochs',
    'optimizer.weight_decay',
    'probe.learning_rate',
    'linear_eval.epochs',
    'linear_eval.batch_size',
)
_UNIT = (
    'finetune.layer_decay',
    'distill.alpha',
    'segment.most_of_one',
    'health.patience',
    'byol.base_decay',
    'moco.decay',
    'moco_v3.base_decay',
    'optimizer.decay_factor',
    'optimizer.momentum',
    'optimizer.b1',
    'optimizer.b2',
    'data.eval_crop',
    'data.max_bad_fraction',
)


def validate(config: ConfigDict) -> None:
    """Checks what can be known before data and devices are looked at.

    Raises:
      ConfigError: with a line for every problem.
    """
    fields = flatten(config)
    problems = []

    def check(ok: bool, field: str, want: str) -> None:
        if not ok:
            problems.append(f'{field}={fields[field]!r}: {want}')

    for field, choices in _CHOICES.items():
        if fields[field] not in choices:
            hint = did_you_mean(str(fields[field]), choices)
            check(False, field, f'must be one of {", ".join(map(str, choices))}{hint}')
    for field in _POSITIVE:
        check(math.isfinite(fields[field]) and fields[field] > 0, field, 'must be above 0')
    for field in _NOT_NEGATIVE:
        check(math.isfinite(fields[field]) and fields[field] >= 0, field, 'must be 0 or more')
    for field in _UNIT:
        check(0 <= fields[field] <= 1, field, 'must be between 0 and 1')
    ok = all(name in AUTO_FIELDS for name in fields['auto'])
    check(ok, 'auto', f'must hold some of {", ".join(AUTO_FIELDS)}, or nothing')
    for field in ('data.dataset', 'eval.dataset'):
        name = fields[field] or (field == 'eval.dataset' and 'digits')
        ok = re.fullmatch(r'\w[\w.:/+-]*', name or '') and '..' not in name  # a folder's name too
        check(bool(ok), field, 'must be a name of TFDS, as cifar10 or imagenet2012:5.1.0')
    for field in (*(f'{probe}.labels_per_class' for probe in PROBES), 'finetune.labels_per_class'):
        ok = all(type(n) is int and n > 0 for n in fields[field])  # True is no number
        check(ok, field, 'must hold whole numbers above 0, as (10, 1)')
    for field in (
        'linear_eval.learning_rates',
        'finetune.learning_rates',
        'finetune.head_learning_rates',
    ):
        ok = all(type(r) in (int, float) and 0 < r < math.inf for r in fields[field])
        check(ok, field, 'must hold numbers above 0, as (0.1, 0.3)')
    for mode in fields['eval.after_pretrain']:
        want = f'must hold some of {", ".join(PROBES)}, or nothing'
        check(mode in tuple(PROBES), 'eval.after_pretrain', want)
    for field in ('data.mean', 'data.std'):
        ok = len(fields[field]) in (1, 3) and all(isinstance(x, float) for x in fields[field])
        check(ok, field, 'must hold one number for gray or three for colour images')
    ok = all(isinstance(x, float) and 0 < x < math.inf for x in fields['data.std'])
    check(ok, 'data.std', 'must hold numbers above 0')
    ok = all(isinstance(x, float) and 0 <= x <= 1 for x in fields['data.mean'])
    check(ok, 'data.mean', 'must hold numbers in [0, 1], as pixels are')
    check(
        fields['optimizer.warmup_epochs'] < fields['epochs'],
        'optimizer.warmup_epochs',
        f'must be below epochs={fields["epochs"]}, for example '
        f'--config.optimizer.warmup_epochs={fields["epochs"] / 10:g}',
    )
    _check_schedule(fields, check)
    _check_input(fields, check)
    check(fields['batch_size'] >= 2, 'batch_size', 'must be 2 or more')
    steps, batch = fields['optimizer.accumulation_steps'], fields['batch_size']
    if steps > 0 and batch >= 2:
        want = f'must divide batch_size={batch} into micro-batches of 2 or more'
        check(batch % steps == 0 and batch // steps >= 2, 'optimizer.accumulation_steps', want)
    if fields['method'] == 'moco' and fields['batch_size'] >= 2:
        size, batch = fields['moco.queue_size'], fields['batch_size']
        want = f'must be a multiple of batch_size={batch}; use {max(size // batch, 1) * batch}'
        check(size % batch == 0, 'moco.queue_size', want)
    ok = all(name in START_FIELDS for name in fields['start.given'])
    check(ok, 'start.given', f'must hold some of {", ".join(START_FIELDS)}, or nothing')
    want = 'needs start.encoder beside it'
    check(fields['start.encoder'] or not fields['start.checksum'], 'start.checksum', want)
    want = "has an effect with method='distill' only; leave it out"
    check(fields['method'] == DISTILL or not fields['distill.teacher'], 'distill.teacher', want)
    want = 'needs distill.teacher beside it'
    check(fields['distill.teacher'] or not fields['distill.checksum'], 'distill.checksum', want)
    _check_model(fields, check)
    _check_finetune(fields, check)
    _check_segment(fields, check)
    for recipes in (view_recipes, mixing_recipe):
        try:
            recipes(config)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError('\n'.join(problems))


def _check_input(fields: dict[str, Any], check: Callable[[bool, str, str], None]) -> None:
    folder = fields['data.dataset'] == 'folder'  # whether it is there, prepare() says
    check(folder or not fields['data.path'], 'data.path', 'needs data.dataset=folder beside it')
    want = 'needs data.dataset=folder and data.path beside it'
    check(folder or not fields['data.labels'], 'data.labels', want)
    of_folder = fields['eval.path'] or (folder and fields['eval.dataset'] in ('', 'folder'))
    want = 'needs eval.path, or data.dataset=folder, beside it'
    check(bool(of_folder or not fields['eval.labels']), 'eval.labels', want)
    any_labels = fields['data.labels'] or fields['eval.labels']
    want = 'has an effect with a table in data.labels only; set both'
    check(bool(any_labels or not fields['data.several_labels']), 'data.several_labels', want)
    if fields['eval.path']:
        want = 'has no effect with eval.path; leave it out'
        check(fields['eval.dataset'] in ('', 'folder'), 'eval.dataset', want)
    elif fields['eval.dataset'] == 'folder' and not folder:
        check(False, 'eval.dataset', 'needs eval.path beside it')
    on_device = fields['data.cache'] == 'device'
    want = "needs views made on the device: set augment.backend='jax', or data.cache='none'"
    check(not on_device or fields['augment.backend'] != 'tf', 'data.cache', want)
    canvas, size = fields['data.canvas'], fields['data.image_size']
    fits = canvas == 0 or canvas >= size or (fields['augment.backend'] == 'tf' and canvas > 0)
    check(fits, 'data.canvas', f'must be data.image_size={size} or more, or 0, which chooses it')


def shrinkage(encoder: str, stem: str, image_size: int, patch_size: int = 16) -> int:
    """Returns how many pixels of a picture, in a row, are one of what the last stage makes."""
    if encoder in VITS:
        return patch_size
    if stem == 'auto':
        stem = 'small' if image_size <= SMALL_IMAGE else 'imagenet'
    return (2 if encoder == 'resnet_tiny' else 8) * (4 if stem == 'imagenet' else 1)


def warn_of_small_pictures(config: ConfigDict) -> str | None:
    """Returns what to say where the encoder's last stage makes a single pixel of a picture."""
    model, size = config.model, config.data.image_size
    if size > shrinkage(model.encoder, model.stem, size, model.patch_size):
        return None
    return (
        f'warning: data.image_size={size} is small for model.encoder={model.encoder}, whose last '
        'stage makes a single pixel of it; larger pictures or model.encoder=resnet_tiny suit better'
    )


def _check_model(fields: dict[str, Any], check: Callable[[bool, str, str], None]) -> None:
    encoder, scope = fields['model.encoder'], fields['model.norm_scope']
    size = fields['data.image_size']
    patch, heads = fields['model.patch_size'], fields['model.num_heads']
    least = shrinkage(encoder, fields['model.stem'], size, patch) // 2 + 1
    want = f'must be {least} or more for model.encoder={encoder}, whose last stage sees one pixel'
    check(size < 1 or size >= least, 'data.image_size', want)
    if encoder in VITS:
        want = f'must be a multiple of the {patch} pixels of a patch of model.encoder={encoder!r}'
        check(patch < 1 or size % patch == 0, 'data.image_size', want)
        want = f'must divide the width of model.encoder={encoder!r}, which is {VITS[encoder]}'
        check(heads < 1 or VITS[encoder] % heads == 0, 'model.num_heads', want)
        want = f'has no effect on model.encoder={encoder!r}; leave it at 1'
        check(fields['model.width'] == 1, 'model.width', want)
    if encoder in (*VITS, 'resnet18', 'resnet34'):
        want = f'model.encoder={encoder!r} has none; leave it at 0, or take resnet50 or deeper'
        check(fields['model.sk_ratio'] == 0, 'model.sk_ratio', want)
    if scope == 'groups' and fields['model.norm_group_size'] > 0:
        views, group = 2 if fields['method'] == 'simclr' else 1, fields['model.norm_group_size']
        rows = views * fields['batch_size'] // max(fields['optimizer.accumulation_steps'], 1)
        want = f'must divide the {rows} rows that are normalized together'
        check(rows % group == 0 and group > 1, 'model.norm_group_size', want)
    if fields['method'] == 'moco' and fields['moco.shuffle']:
        want = "has an effect with model.norm_scope='groups' or 'device' only; set both"
        check(scope != 'global', 'moco.shuffle', want)
    if fields['simclr.eval_layer']:
        want = f'must be below simclr.num_layers={fields["simclr.num_layers"]}; 0 is the encoder'
        check(fields['simclr.eval_layer'] < fields['simclr.num_layers'], 'simclr.eval_layer', want)


def blocks(encoder: str) -> int:
    """Returns how many blocks a ViT has, or stages a ResNet."""
    if encoder in VITS:
        return 24 if encoder == 'vit_l16' else 12
    return 3 if encoder == 'resnet_tiny' else 4


def _check_finetune(fields: dict[str, Any], check: Callable[[bool, str, str], None]) -> None:
    encoder, field = fields['model.encoder'], 'finetune.trained'
    # What a file decides is known when it was read, which writes its checksum.
    known = fields['start.encoder'] in ('', SCRATCH) or fields['start.checksum']
    try:
        first, count = first_trained(fields[field]), blocks(encoder)
        check(
            first <= count or not known, field, f'model.encoder={encoder!r} has {count} blocks only'
        )
    except ValueError as error:
        check(False, field, str(error))
        first = 0
    try:
        labels_wanted(fields['finetune.labels'])
    except ValueError as error:
        check(False, 'finetune.labels', str(error))
    want = f'must hold some of {", ".join(COMPARED)}, or nothing'
    check(all(way in COMPARED for way in fields['finetune.compare']), 'finetune.compare', want)
    for field in ('finetune.learning_rates', 'finetune.head_learning_rates'):
        want = f'is tried with method={FINETUNE!r} only; leave it out'
        check(not fields[field] or fields['method'] == FINETUNE, field, want)
    want = f"is solved on labels, with method={FINETUNE!r} only; take another start, as 'zero'"
    ok = fields['finetune.head_init'] != 'linear' or fields['method'] != DISTILL
    check(ok, 'finetune.head_init', want)
    share = fields['finetune.held_out']
    check(0 < share < 1, 'finetune.held_out', 'must be above 0 and below 1')
    for field in ('finetune.drop_path', 'finetune.label_smoothing'):
        check(0 <= fields[field] < 1, field, 'must be 0 or more and below 1')
    want = f'drops branches of a ViT, and model.encoder={encoder!r} is none; leave it at 0'
    ok = not (fields['finetune.drop_path'] and known) or encoder in VITS
    check(ok, 'finetune.drop_path', want)
    field, has_token = 'finetune.pooling', encoder in VITS and fields['model.pooling'] != 'mean'
    want = (
        f'is for a ViT with a class token, and model.encoder={encoder!r} is none'
        f'{" (model.pooling=mean)" if encoder in VITS else ""}; leave it out'
    )
    check(fields[field] == 'own' or not known or has_token, field, want)
    if fields['finetune.head_learning_rate']:
        want = 'must be above 0 where finetune.head_learning_rate is given'
        check(fields['optimizer.learning_rate'] > 0, 'optimizer.learning_rate', want)


def _check_segment(fields: dict[str, Any], check: Callable[[bool, str, str], None]) -> None:
    ok = all(type(value) is int and value >= 0 for value in fields['segment.ignore'])
    check(ok, 'segment.ignore', 'must hold whole numbers from 0 on, as (255,), or nothing')
    names = fields['segment.names']
    ok = all(isinstance(name, str) and name for name in names) and len({*names}) == len(names)
    check(ok, 'segment.names', "must hold names, each another, as ('sky', 'road'), or nothing")
    scale = fields['segment.scale']
    ok = len(scale) == 2 and all(type(x) in (int, float) for x in scale)
    want = 'must hold two numbers above 0, the smaller first, as (0.5, 2.0)'
    check(ok and 0 < scale[0] <= scale[1] < math.inf, 'segment.scale', want)
    if fields['method'] != SEGMENT:
        return
    encoder, size = fields['model.encoder'], fields['data.image_size']
    count = blocks(encoder)
    known = fields['start.encoder'] in ('', SCRATCH) or fields['start.checksum']
    want = f'model.encoder={encoder!r} has {count} layers only'
    check(fields['segment.layers'] <= count or not known, 'segment.layers', want)
    want = f'model.encoder={encoder!r} has {count} stages only'
    if encoder in VITS:
        want = f'is for a ResNet, and model.encoder={encoder!r} has patches; leave it at 0'
    ok = fields['segment.dilated'] <= (0 if encoder in VITS else count)
    check(ok or not known, 'segment.dilated', want)
    want = f'must be at most data.image_size={size}, or pixels between windows are never seen'
    check(fields['segment.step'] <= size, 'segment.step', want)
    want = 'is not for segmentation; leave it at 1'
    check(fields['optimizer.accumulation_steps'] == 1, 'optimizer.accumulation_steps', want)
    want = 'crops for segmentation are made on the host; leave it at {}'
    check(fields['augment.backend'] == 'tf', 'augment.backend', want.format("'tf'"))
    check(fields['data.cache'] == 'none', 'data.cache', want.format("'none'"))
    want = 'batches for segmentation go on from one epoch to the next; leave it at False'
    check(not fields['data.drop_remainder'], 'data.drop_remainder', want)


def _check_schedule(fields: dict[str, Any], check: Callable[[bool, str, str], None]) -> None:
    epochs, field = fields['optimizer.decay_epochs'], 'optimizer.decay_epochs'
    if fields['optimizer.schedule'] != 'steps':
        check(not epochs, field, "has an effect with optimizer.schedule='steps' only; set both")
    elif not all(type(epoch) in (int, float) for epoch in epochs):
        check(False, field, 'must hold numbers, as (120.0, 160.0)')
    else:
        bounds = (fields['optimizer.warmup_epochs'], *epochs, fields['epochs'])
        ok = bool(epochs) and all(a < b for a, b in itertools.pairwise(bounds))
        want = f'must hold rising numbers after the warm-up and below epochs={fields["epochs"]}'
        check(ok, field, want)
    field = 'optimizer.min_learning_rate'
    want = "has an effect with optimizer.schedule='cosine' only; set both"
    check(not fields[field] or fields['optimizer.schedule'] == 'cosine', field, want)
    want = 'needs optimizer.warmup_epochs=0: the first epoch would have a rate of 0'
    warms_up = fields['optimizer.warmup_epochs'] > 0
    check(not (fields['optimizer.by_epoch'] and warms_up), 'optimizer.by_epoch', want)
