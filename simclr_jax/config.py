"""Every field of a run, once, with its meaning; loading, overriding and checking it.

A recipe in `configs/` starts from `default()` and changes numbers. Everything here runs before JAX
and TensorFlow are imported, so that a mistake is answered within a second: `ConfigError` holds one
line a problem, each naming the field, the value and the way out.
"""

import ast
import dataclasses
import difflib
import importlib.util
import itertools
import json
import math
import pathlib
import traceback
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.augment.recipe import PRESETS, ViewRecipe

METHODS = ('simclr', 'byol', 'moco', 'moco_v3')
ENCODERS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'resnet_tiny')

# Sections that may change between two commands on one workdir: they do not touch the training.
FREE_FIELDS = ('data.data_dir', 'data.workers', 'log', 'checkpoint', 'eval', 'linear_eval', 'knn')


class ConfigError(ValueError):
    """One or more problems of a config, one line each."""


def default() -> ConfigDict:
    """Returns the defaults: SimCLR with a ResNet-18 on CIFAR-10."""
    config = ConfigDict()
    config.seed = 0  # names every random draw of the run
    config.method = 'simclr'  # one of METHODS; its own fields are in the section of that name
    config.batch_size = 256  # images a step over all devices; each gives two views
    config.epochs = 100.0  # passes over the training split

    config.data = ConfigDict()
    config.data.dataset = 'cifar10'  # a TFDS builder prepared as ArrayRecord, or 'digits'
    config.data.data_dir = (
        ''  # where TFDS keeps data; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
    )
    config.data.train_split = 'train'  # TFDS split, slices allowed: 'train[:90%]'
    config.data.test_split = 'test'  # only evaluated on, never trained or tuned on
    config.data.image_size = 32  # pixels, height and width of a view
    config.data.eval_crop = 1.0  # share of the shorter side in the centre that evaluation sees
    config.data.mean = (0.0,)  # subtracted from pixels in [0, 1]; one number, or one a channel
    config.data.std = (1.0,)  # divides them
    config.data.workers = 0  # parallel calls of the input pipeline; 0 leaves it to tf.data

    config.augment = ConfigDict()
    set_views(config, *PRESETS['simclr'])

    config.model = ConfigDict()
    config.model.encoder = 'resnet18'  # one of ENCODERS
    config.model.stem = (
        'auto'  # 'imagenet' 7x7/2 and pooling, 'small' 3x3; 'auto': small up to 32 px
    )
    config.model.padding = 'torch'  # 'torch', 'simclr' (SAME max-pooling) or 'same' (TensorFlow's)
    config.model.zero_init_last_scale = True  # the last scale of each residual block starts at 0
    config.model.dtype = 'float32'  # of the encoder's and heads' arithmetic: or 'bfloat16'

    config.simclr = ConfigDict()
    config.simclr.temperature = 0.1  # of NT-Xent, above 0
    config.simclr.num_layers = 2  # of the projection head: 2 in v1, 3 in v2
    config.simclr.hidden_dim = 512  # of the projection head; the paper's is the encoder's width
    config.simclr.output_dim = 128
    config.simclr.loss_scale = 1.0  # 2.0 is the original code's sum of both views' mean losses

    config.byol = ConfigDict()
    config.byol.hidden_dim = 4096  # of projector and predictor
    config.byol.output_dim = 256
    config.byol.base_decay = 0.996  # of the target's moving average; rises to 1 along a cosine

    config.moco = ConfigDict()
    config.moco.queue_size = 65536  # earlier keys to compare with; a multiple of batch_size
    config.moco.temperature = 0.2  # of InfoNCE, above 0; 0.07 in v1
    config.moco.decay = 0.999  # of the key network's moving average
    config.moco.num_layers = 2  # of the projection head: 1 in v1, 2 in v2
    config.moco.hidden_dim = 2048  # of the projection head; the paper's is the encoder's width
    config.moco.output_dim = 128

    config.moco_v3 = ConfigDict()
    config.moco_v3.temperature = 1.0  # of InfoNCE, above 0
    config.moco_v3.hidden_dim = 4096  # of projector and predictor
    config.moco_v3.output_dim = 256
    config.moco_v3.base_decay = 0.99  # of the keys' moving average; rises to 1 along a cosine

    config.optimizer = ConfigDict()
    config.optimizer.name = 'lars'  # 'lars', 'sgd' or 'adamw'
    config.optimizer.learning_rate = 0.3  # before scaling
    config.optimizer.learning_rate_scaling = (
        'linear'  # x batch / 256; 'sqrt': x sqrt(batch); 'none'
    )
    config.optimizer.warmup_epochs = 10.0  # linear from 0, then the schedule
    config.optimizer.schedule = 'cosine'  # to 0; or 'steps': x 0.1 at each of decay_epochs
    config.optimizer.decay_epochs = ()  # 'steps', such as (120.0, 160.0)
    config.optimizer.weight_decay = 1e-6
    config.optimizer.momentum = 0.9  # 'lars' and 'sgd'
    config.optimizer.nesterov = False  # 'sgd'
    config.optimizer.trust_coefficient = 1e-3  # 'lars'
    config.optimizer.rate_inside_momentum = True  # 'lars': True as SimCLR, False as BYOL
    config.optimizer.b1 = 0.9  # 'adamw'
    config.optimizer.b2 = 0.999  # 'adamw'
    config.optimizer.exclude_bias_and_norm = True  # from weight decay and from LARS' adaptation

    config.probe = ConfigDict()
    config.probe.learning_rate = 1e-2  # Adam's, of the online linear probe; 0 turns the probe off

    config.log = ConfigDict()
    config.log.every_steps = 50  # steps between two lines of metrics
    config.log.tensorboard = True

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.keep = 3  # the last few that stay on disk

    config.eval = ConfigDict()
    config.eval.after_pretrain = ('linear_eval', 'knn')  # what pretraining ends with
    config.eval.batch_size = 500  # images a batch of feature extraction
    config.eval.baselines = True  # also the untrained encoder and raw pixels

    config.linear_eval = ConfigDict()
    config.linear_eval.labels_per_class = (10, 1)  # beside all labels
    config.linear_eval.draws = 5  # random subsets, for mean and standard deviation

    config.knn = ConfigDict()
    config.knn.k = 20  # neighbours
    config.knn.temperature = 0.07  # of a neighbour's weight exp(similarity / temperature)
    config.knn.labels_per_class = (10, 1)
    config.knn.draws = 5
    return config


def set_views(config: ConfigDict, view1: ViewRecipe, view2: ViewRecipe | None = None) -> None:
    """Writes both views' recipes into `config.augment`; without `view2` both are `view1`."""
    config.augment.view1 = ConfigDict(dataclasses.asdict(view1))
    config.augment.view2 = ConfigDict(dataclasses.asdict(view2 or view1))


def view_recipes(config: ConfigDict) -> tuple[ViewRecipe, ViewRecipe]:
    """Returns the recipes of both views.

    Raises:
      ConfigError: a parameter is out of its range.
    """
    recipes = []
    for view in ('view1', 'view2'):
        try:
            recipes.append(ViewRecipe(**config.augment[view].to_dict()))
        except ValueError as error:
            raise ConfigError(f'augment.{view}.{error}') from error
    return recipes[0], recipes[1]


def load(path: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Loads `path`, a Python file with `get_config`, applies `overrides` and validates.

    Args:
      path: `configs/name.py`, or `configs/name.py:preset`, which calls `get_config('preset')`.
      overrides: field to the text given for it, `{'optimizer.learning_rate': '0.2'}`.

    Raises:
      ConfigError: the file, an override or a value is wrong.
    """
    path, _, preset = path.partition(':')
    if not pathlib.Path(path).is_file():
        names = sorted(str(p) for p in pathlib.Path('configs').glob('*.py'))
        raise ConfigError(f'--config: there is no file {path!r}{did_you_mean(path, names)}')
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if preset and not hasattr(module, 'PRESETS'):
            raise ConfigError(f'--config: {path} takes no preset, but {preset!r} was given')
        if preset and preset not in module.PRESETS:
            raise ConfigError(
                f'--config: {path} has no preset {preset!r}; it has {", ".join(module.PRESETS)}'
            )
        config = module.get_config(preset) if preset else module.get_config()
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's file raises, its line is what they need
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        place = f'{path}:{lines[-1]}' if lines else path
        text = str(error.args[0] if error.args else error).splitlines()[0]
        raise ConfigError(f'{place}: {type(error).__name__}: {text}') from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f'--config: get_config of {path} returns no ConfigDict')
    _check_fields(config, default(), '', path)
    for field, text in (overrides or {}).items():
        override(config, field, text)
    validate(config)
    return config


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets the dotted `field` from `text`, parsed as the type that the field has.

    Raises:
      ConfigError: there is no such field, or the text is not of its type.
    """
    fields = flatten(config)
    if field not in fields:
        sections = {name.rpartition('.')[0] for name in fields}
        if field in sections:
            raise ConfigError(f'--config.{field}={text}: {field} is a section; name a field of it')
        raise ConfigError(f'--config.{field}={text}: no such field{did_you_mean(field, fields)}')
    old = fields[field]
    value = text
    if not isinstance(old, str):
        try:
            value = ast.literal_eval({'true': 'True', 'false': 'False'}.get(text, text))
        except (ValueError, SyntaxError):
            value = text
        if isinstance(old, tuple) and not isinstance(value, tuple):
            value = tuple(value) if isinstance(value, list) else (value,)
    value = _as_type_of(value, old, f'--config.{field}')
    section, _, name = field.rpartition('.')
    parent = config
    for key in section.split('.') if section else ():
        parent = parent[key]
    parent[name] = value


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
    for field in ('linear_eval.labels_per_class', 'knn.labels_per_class'):
        ok = all(isinstance(n, int) and n > 0 for n in fields[field])
        check(ok, field, 'must hold whole numbers above 0, as (10, 1)')
    for mode in fields['eval.after_pretrain']:
        ok = mode in ('linear_eval', 'knn')
        check(ok, 'eval.after_pretrain', "must hold 'linear_eval', 'knn', both or nothing")
    for field in ('data.mean', 'data.std'):
        ok = len(fields[field]) in (1, 3) and all(isinstance(x, float) for x in fields[field])
        check(ok, field, 'must hold one number for gray or three for colour images')
    check(all(x != 0 for x in fields['data.std']), 'data.std', 'must not hold 0')
    check(
        fields['optimizer.warmup_epochs'] < fields['epochs'],
        'optimizer.warmup_epochs',
        f'must be below epochs={fields["epochs"]}; give fewer, or train longer',
    )
    _check_decay_epochs(fields, check)
    check(fields['batch_size'] >= 2, 'batch_size', 'must be 2 or more')
    if fields['method'] == 'moco' and fields['batch_size'] >= 2:
        size, batch = fields['moco.queue_size'], fields['batch_size']
        want = f'must be a multiple of batch_size={batch}; use {max(size // batch, 1) * batch}'
        check(size % batch == 0, 'moco.queue_size', want)
    try:
        view_recipes(config)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError('\n'.join(problems))


def _check_decay_epochs(fields: dict[str, Any], check: Callable[[bool, str, str], None]) -> None:
    epochs, field = fields['optimizer.decay_epochs'], 'optimizer.decay_epochs'
    if fields['optimizer.schedule'] != 'steps':
        check(not epochs, field, "has an effect with optimizer.schedule='steps' only; set both")
    elif not all(isinstance(epoch, (int, float)) for epoch in epochs):
        check(False, field, 'must hold numbers, as (120.0, 160.0)')
    else:
        bounds = (fields['optimizer.warmup_epochs'], *epochs, fields['epochs'])
        ok = bool(epochs) and all(a < b for a, b in itertools.pairwise(bounds))
        want = f'must hold rising numbers after the warm-up and below epochs={fields["epochs"]}'
        check(ok, field, want)


@dataclasses.dataclass(frozen=True)
class Length:
    """A run's length in steps."""

    steps_per_epoch: int
    total_steps: int

    def epoch(self, step: int) -> float:
        return step / self.steps_per_epoch


def resolve_length(config: ConfigDict, num_examples: int) -> Length:
    """Turns epochs into steps for a training split of `num_examples`.

    Raises:
      ConfigError: a batch is larger than the training split.
    """
    steps_per_epoch = num_examples // config.batch_size
    if not steps_per_epoch:
        raise ConfigError(
            f'batch_size={config.batch_size}: data.train_split={config.data.train_split!r} of '
            f'{config.data.dataset} has only {num_examples} examples; use at most that many'
        )
    return Length(steps_per_epoch, max(1, round(config.epochs * steps_per_epoch)))


def flatten(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
    """Returns `{dotted field: value}`."""
    fields = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            fields |= flatten(value, f'{prefix}{name}.')
        else:
            fields[prefix + name] = value
    return fields


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON, a field a line; what a workdir remembers of its run."""
    return json.dumps(flatten(config), indent=1)


def check_same_run(config: ConfigDict, saved_json: str, workdir: str) -> None:
    """Refuses to continue a run with another config.

    Raises:
      ConfigError: naming each field that differs, unless it is in `FREE_FIELDS`.
    """
    old, new = json.loads(saved_json), json.loads(to_json(config))
    changed = [
        f'  {field}: {old.get(field, "(absent)")!r} there, {new.get(field, "(absent)")!r} now'
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
        and not any(field == free or field.startswith(free + '.') for free in FREE_FIELDS)
    ]
    if changed:
        raise ConfigError(
            f'--workdir={workdir}: holds a run of another config; give another --workdir, or '
            'remove that one. What differs:\n' + '\n'.join(changed)
        )


def did_you_mean(word: str, candidates) -> str:
    """Returns `'; did you mean ...?'` for the nearest of `candidates`, or nothing."""
    candidates = [str(c) for c in candidates]
    last = word.rpartition('.')[2]
    close = [c for c in candidates if c.rpartition('.')[2] == last]  # in another section
    close = close or difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if not close:
        lasts = {c.rpartition('.')[2]: c for c in reversed(candidates)}
        close = [lasts[name] for name in difflib.get_close_matches(last, lasts, n=1)]
    return f'; did you mean {close[0]}?' if close else ''


def _check_fields(config: ConfigDict, defaults: ConfigDict, prefix: str, path: str) -> None:
    """Raises ConfigError where a config file made up a field or changed a field's type."""
    for name in config:
        if name not in defaults:
            hint = did_you_mean(prefix + name, flatten(default()))
            raise ConfigError(f'{path}: {prefix}{name}: no such field{hint}')
        value, old = config[name], defaults[name]
        if isinstance(old, ConfigDict) != isinstance(value, ConfigDict):
            raise ConfigError(f'{path}: {prefix}{name}={value!r}: {prefix}{name} is a section')
        if isinstance(old, ConfigDict):
            _check_fields(value, old, f'{prefix}{name}.', path)
        else:
            config[name] = _as_type_of(value, old, f'{path}: {prefix}{name}')
    for name in defaults:
        if name not in config:
            raise ConfigError(f'{path}: {prefix}{name}: is missing; start from config.default()')


def _as_type_of(value: Any, old: Any, field: str) -> Any:
    """Returns `value` with the type of `old`; an int may stand for a float."""
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and isinstance(value, (tuple, list)):
        floats = bool(old) and all(isinstance(x, float) for x in old)
        return tuple(float(x) if floats and type(x) is int else x for x in value)
    if type(value) is not type(old):
        name = type(old).__name__
        want = {'float': 'a number', 'int': 'a whole number', 'bool': 'True or False'}
        raise ConfigError(
            f'{field}={value!r}: must be {want.get(name, f"a {name}")}, as {old!r} is'
        )
    return value


_CHOICES = {
    'method': METHODS,
    'model.encoder': ENCODERS,
    'model.stem': ('auto', 'imagenet', 'small'),
    'model.padding': ('torch', 'simclr', 'same'),
    'model.dtype': ('float32', 'bfloat16'),
    'optimizer.name': ('lars', 'sgd', 'adamw'),
    'optimizer.learning_rate_scaling': ('linear', 'sqrt', 'none'),
    'optimizer.schedule': ('cosine', 'steps'),
}
_POSITIVE = (
    'epochs',
    'data.image_size',
    'data.eval_crop',
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
    'optimizer.trust_coefficient',
    'log.every_steps',
    'checkpoint.every_steps',
    'checkpoint.keep',
    'eval.batch_size',
    'linear_eval.draws',
    'knn.k',
    'knn.temperature',
    'knn.draws',
)
_NOT_NEGATIVE = (
    'seed',
    'data.workers',
    'optimizer.learning_rate',
    'optimizer.warmup_epochs',
    'optimizer.weight_decay',
    'probe.learning_rate',
)
_UNIT = (
    'byol.base_decay',
    'moco.decay',
    'moco_v3.base_decay',
    'optimizer.momentum',
    'optimizer.b1',
    'optimizer.b2',
    'data.eval_crop',
)
