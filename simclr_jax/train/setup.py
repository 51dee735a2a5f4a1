"""From a config to the parts of a run: what every mode that touches a train state starts with."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax import parallel
from simclr_jax.augment import erasing, jax_ops
from simclr_jax.data import sources
from simclr_jax.data.deep import WHOLE
from simclr_jax.data.factory import open_split
from simclr_jax.methods.base import Method, Tree, is_classifier, is_dense, is_supervised
from simclr_jax.methods.distill import Teacher
from simclr_jax.methods.factory import create_method
from simclr_jax.models.vit import PATCH_PROJECTION
from simclr_jax.optim.factory import create_optimizer
from simclr_jax.optim.groups import Groups, Probes
from simclr_jax.train.probe import OnlineProbe
from simclr_jax.train.state import TrainState, encoder_part, init_state
from simclr_jax.train.step import Augment, Erase, make_train_step
from simclr_jax.weights.description import Weights
from simclr_jax.workdir.checkpoint import abstract_like
from simclr_jax.workdir.claim import Held


def _augment(batch: dict[str, jax.Array], step: jax.Array, **options) -> jax.Array:
    return jax_ops.make_views(batch, step=step, **options)


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of one run."""

    config: ConfigDict
    mesh: Mesh
    source: sources.Source  # the training split
    length: config_lib.Length
    method: Method
    tx: optax.GradientTransformation
    schedule: optax.Schedule  # the learning rate at each step
    probe: OnlineProbe | None
    start: Weights | None = None  # what its encoder goes on from
    teacher: Weights | None = None  # what it learns from
    groups: Groups | Probes | None = None  # of the parameters that are fine-tuned
    # Makes the classifier that its first state has, of the run and that state with another one.
    head: Callable[['Run', TrainState], Tree] | None = None
    frozen: Tree | None = None  # numpy: variables that the step takes in place of a teacher's

    @property
    def views_shape(self) -> tuple[int, ...]:
        """`(batch, view, height, width, channel)`."""
        config, size = self.config, self.config.data.image_size
        views = len(config_lib.view_recipes(config))
        return config.batch_size, views, size, size, self.source.image_shape[-1]

    def _init_state(self, start: Tree = None) -> TrainState:
        config = self.config
        return init_state(self.method, self.tx, self.probe, config.seed, self.views_shape, start)

    @functools.cached_property
    def _jitted_init(self):
        # It runs once or twice: on a CPU optimizing it takes five seconds and gains none.
        on_cpu = self.mesh.devices.flat[0].platform == 'cpu'
        return jax.jit(
            self._init_state,
            out_shardings=parallel.replicated(self.mesh),
            compiler_options={'xla_backend_optimization_level': 1} if on_cpu else None,
        )

    @functools.cached_property
    def augment(self) -> Augment | None:
        """What makes views inside the train step; None where the host makes them."""
        if self.config.augment.backend == 'tf':
            return None
        return functools.partial(
            _augment,
            recipes=config_lib.view_recipes(self.config),
            seed=self.config.seed,
            image_size=self.config.data.image_size,
            dtype=self.config.augment.dtype,
        )

    @functools.cached_property
    def erase(self) -> Erase | None:
        """What erases parts of the views; None where no recipe does."""
        recipes = config_lib.view_recipes(self.config)
        if not any(recipe.erase_probability > 0 for recipe in recipes):
            return None
        return functools.partial(erasing.erase_views, recipes=recipes, seed=self.config.seed)

    def init(self) -> TrainState:
        """Returns the state at step 0 on the mesh, the same each time."""
        if self.start is None and self.config.start.encoder not in ('', config_lib.SCRATCH):
            raise config_lib.ConfigError(
                f'start.encoder={self.config.start.encoder!r}: is not there, nor its copy in the '
                'workdir, and there is no checkpoint to go on from; bring one of them back'
            )
        if self.start is None:
            return self.init_at_random()
        variables = self.start.variables
        if not is_classifier(self.method):
            variables = encoder_part(variables)
        state = self._jitted_init(variables)
        if self.head is None:
            return state
        classifier = parallel.put_everywhere(self.head(self, state), self.mesh)
        return state.replace(params={**state.params, 'classifier': classifier})

    def init_at_random(self) -> TrainState:
        """Returns what `init` does where there is nothing to start from."""
        return self._jitted_init(None)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and types of the parts of a batch that the train step takes."""
        count = self.config.batch_size
        image = (count, *self.source.canvas_shape) if self.augment else self.views_shape
        shapes = {'image': jax.ShapeDtypeStruct(image, jnp.uint8)}
        if self.augment:
            shapes['size'] = jax.ShapeDtypeStruct((count, 2), jnp.int32)
        if self.augment or self.erase:
            shapes['index'] = jax.ShapeDtypeStruct((count,), jnp.int32)
        if self.probe or is_supervised(self.method):
            pixels = self.views_shape[2:4] if is_dense(self.method) else ()
            shapes['label'] = jax.ShapeDtypeStruct((count, *pixels), jnp.int32)
        return shapes

    @functools.cached_property
    def fixed(self) -> tuple[Tree, ...]:
        """What the train step takes beside state and batch: variables that stay as they are.

        They lie whole on every device, and are no part of the state: no checkpoint has them.
        """
        if self._unchanged is None:
            return ()
        return (parallel.put_everywhere(self._unchanged, self.mesh),)

    @property
    def _unchanged(self) -> Tree | None:
        return self.teacher.variables if self.teacher else self.frozen

    def lower_step(self) -> jax.stages.Lowered:
        """Returns the train step for the mesh; `compile()` makes it a program."""
        return self.trace_step().lower()

    def trace_step(self) -> jax.stages.Traced:
        """Returns the train step with the run's shapes."""
        config = self.config
        step = make_train_step(
            self.method,
            self.tx,
            self.probe,
            self.mesh,
            seed=config.seed,
            mean=config.data.mean,
            std=config.data.std,
            skip_nonfinite=config.health.on_nonfinite == 'skip',
            augment=self.augment,
            erase=self.erase,
        )
        fixed = [] if self._unchanged is None else [_shapes(self._unchanged)]
        return step.trace(self.abstract_state(), self.abstract_batch(), *fixed)

    def abstract_state(self) -> TrainState:
        """Returns the shapes, types and shardings of the state, computing nothing."""
        return abstract_like(jax.eval_shape(self._init_state), parallel.replicated(self.mesh))


def prepare(
    config: ConfigDict,
    held: Held | None = None,
    start: Weights | None = None,
    source: sources.Source | None = None,
    teacher: Weights | None = None,
) -> Run:
    """Checks what needs devices and data, cheapest first, and builds the parts.

    Args:
      config: of the run.
      held: what its data held when it began; None for one that begins.
      start: what its encoder goes on from; None for a random one.
      source: what it is trained on; None opens `data.train_split`.
      teacher: the classifier that it learns from, if any.

    Raises:
      ConfigError: a batch does not divide, the data set is not there, or channels do not match.
    """
    mesh = parallel.make_mesh()
    parallel.check_batch_size('batch_size', config.batch_size, mesh)
    parallel.check_batch_size('eval.batch_size', config.eval.batch_size, mesh)
    if source is None:
        data = config.data
        sources.check_prepared(data.dataset, data.data_dir, data.path, data.labels)
        source = open_split(config, config.data.train_split, held)
    named = ('start.encoder', config.start.encoder, start)
    for field, path, weights in (named, ('distill.teacher', config.distill.teacher, teacher)):
        if weights and weights.preprocess.channels != (channels := source.image_shape[-1]):
            raise config_lib.ConfigError(
                f'{field}={path!r}: takes pictures of {weights.preprocess.channels} channel(s), '
                f'but those of {config.data.dataset} have {channels}'
            )
    deep = teacher and source.intensity != WHOLE
    if deep and source.intensity != teacher.preprocess.intensity:
        raise config_lib.ConfigError(
            f'distill.teacher={config.distill.teacher!r}: takes black and white to be '
            f'{teacher.preprocess.intensity} in pictures of more than 8 bits, but those of '
            f'{config.data.dataset} have {source.intensity}; distill on pictures of the range that '
            'it was trained on'
        )
    return assemble(config, mesh, source, start, teacher)


def assemble(
    config: ConfigDict,
    mesh: Mesh,
    source: sources.Source,
    start: Weights | None = None,
    teacher: Weights | None = None,
) -> Run:
    """Builds the parts of a run on `source`, of which only the description is looked at.

    Args:
      config: of the run.
      mesh: the devices.
      source: the training split.
      start: what its encoder goes on from; None for a random one.
      teacher: the classifier that it learns from, if any.

    Raises:
      ConfigError: channels do not match, or the batch is larger than the split.
    """
    channels = source.image_shape[-1]
    for field in ('mean', 'std'):
        if len(config.data[field]) not in (1, channels):
            raise config_lib.ConfigError(
                f'data.{field}={config.data[field]}: has {len(config.data[field])} numbers, but '
                f'the images of {config.data.dataset} have {channels} channel(s)'
            )
    micro_batch = config.batch_size // config.optimizer.accumulation_steps
    if micro_batch % mesh.devices.size:
        raise config_lib.ConfigError(
            f'optimizer.accumulation_steps={config.optimizer.accumulation_steps}: micro-batches of '
            f'{micro_batch} do not divide over the {mesh.devices.size} devices; take fewer'
        )
    length = config_lib.resolve_length(config, source.num_examples)
    classifies = config.method in config_lib.CLASSIFIERS
    segments = config.method == config_lib.SEGMENT
    method = create_method(
        config,
        length.total_steps,
        mesh,
        classes=len(teacher.classifier.names) if teacher else source.num_classes,
        projector=start.architecture.module(config.model.dtype).projector if start else None,
        teacher=_teacher(config, teacher) if teacher else None,
        start_size=start.preprocess.size if start else 0,
    )
    groups = _groups(config) if classifies else None
    if segments:
        groups = Probes(config.segment.plain_learning_rate)
    tx, schedule = create_optimizer(
        config.optimizer,
        config.batch_size,
        length.steps_per_epoch,
        length.total_steps,
        frozen=(PATCH_PROJECTION,)
        if config.model.freeze_patch_projection and not (classifies or segments)
        else (),
        groups=groups,
    )
    probe = None
    if source.num_classes and config.probe.learning_rate and not (classifies or segments):
        probe = OnlineProbe(source.num_classes, config.probe.learning_rate)
    return Run(config, mesh, source, length, method, tx, schedule, probe, start, teacher, groups)


def _teacher(config: ConfigDict, weights: Weights) -> Teacher:
    """Returns the teacher, with how it sees the views that the run normalizes for the student."""
    seen = weights.preprocess
    mean, std, own_mean, own_std = (
        np.asarray(x, np.float64) for x in (config.data.mean, config.data.std, seen.mean, seen.std)
    )
    # A pixel in [0, 1] is std * normalized + mean.
    return Teacher(
        weights.network(config.model.dtype),
        tuple((std / own_std).tolist()),
        tuple(((mean - own_mean) / own_std).tolist()),
        seen.size,
        seen.interpolation,
        seen.antialias,
    )


def _shapes(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.float32), tree)


def _groups(config: ConfigDict) -> Groups:
    finetune, rate = config.finetune, config.optimizer.learning_rate
    return Groups(
        first_trained=config_lib.first_trained(finetune.trained),
        frozen_encoder=finetune.trained == 'head',
        head_rate=finetune.head_learning_rate / rate if finetune.head_learning_rate else 1.0,
        layer_decay=finetune.layer_decay,
        # SimCLR's LARS leaves out the classifier, `head_supervised` in `model.py`, where it is
        # fine-tuned, but not where it is distilled (`distillation_self_training.ipynb`).
        head_decayed=config.optimizer.name != 'lars' or config.method == config_lib.DISTILL,
    )
