"""Distillation: a student learns what a teacher says of pictures (SimCLR v2, section 2)."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from simclr_jax.augment import mixing
from simclr_jax.methods.base import Aux, Tree, in_micro_batches, merge_views, split_views
from simclr_jax.methods.finetune import FineTune


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A classifier that stays as it is, and how it sees what the student sees.

    Attributes:
      network: gives features and logits; a `models.classifier.ClassifierNetwork`.
      scale: from the student's normalized pixels to the teacher's, one number or one a channel:
        `scale * pixels + shift`.
      shift: likewise.
      size: height and width of its pictures, in pixels.
      interpolation: by which the student's views are resized, where they are of another size.
      antialias: whether all pixels count where they are made smaller.
    """

    network: nn.Module
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    size: int
    interpolation: str = 'bicubic'
    antialias: bool = False

    def logits(self, variables: Tree, images: jax.Array) -> jax.Array:
        """The student's pictures, float `[n, height, width, channel]`, to logits `[n, classes]`.

        Batch normalization uses its running averages.
        """
        if any(x != 1 for x in self.scale) or any(x != 0 for x in self.shift):
            scale, shift = (
                jnp.asarray(x, jnp.float32)[None, None, None] for x in (self.scale, self.shift)
            )
            images = images * scale + shift
        if images.shape[1] != self.size:
            shape = (len(images), self.size, self.size, images.shape[-1])
            images = jax.image.resize(images, shape, self.interpolation, self.antialias)
        return self.network.apply(variables, images, train=False)[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill(FineTune):
    """The student's cross-entropy to the teacher's softmax, both of the student's view.

    With the logits `t` and `s` of teacher and student, temperature T, labels y, over a batch of n:

        alpha T^2 / n sum_i -sum_c softmax(t_i / T)_c log softmax(s_i / T)_c
          + (1 - alpha) / n sum_(i with a label) -log softmax(s_i)_(y_i)

    These are SimCLR v2's equations 2 and 3, each sum of them over the batch instead of the data,
    with the factor T^2 of its code (`colabs/distillation_self_training.ipynb`). It keeps the size
    of the gradient where T is larger than the logits (Hinton et al. 2015, section 2); below 1 the
    gradient is about T times as large, which LARS hardly minds, but SGD does. The second sum has
    the labelled pictures alone, so its weight falls with their share, as in equation 3.

    Attributes:
      teacher: what is learned from; None where nothing is trained.
      temperature: above 0.
      alpha: share of the teacher, in (0, 1].
    """

    taught: ClassVar[bool] = True

    teacher: Teacher | None = None
    temperature: float = 1.0
    alpha: float = 1.0

    @property
    def supervised(self) -> bool:
        return self.alpha < 1

    def loss(
        self,
        params,
        variables,
        extra,
        views,
        rng,
        step,
        teacher: Tree,
        labels: jax.Array | None = None,
    ) -> tuple[jax.Array, Aux]:
        """`views` are `[batch, 1, height, width, channel]`, `labels` `[batch]` int32.

        `teacher` are what `self.teacher.network` is applied with.
        """

        def listen(nothing: Tree, views: jax.Array):
            return self.teacher.logits(teacher, merge_views(views)), nothing

        said, _ = in_micro_batches(listen, (), views, self.accumulation_steps)
        (features, logits), variables = self.forward(params, variables, views, rng)
        temperature = self.temperature
        losses = optax.softmax_cross_entropy(
            logits / temperature, jax.nn.softmax(said / temperature)
        )
        loss = self.alpha * temperature**2 * losses.mean()
        agree = (logits.argmax(-1) == said.argmax(-1)).astype(jnp.float32)
        metrics = {'agreement': (agree.sum(), jnp.float32(len(agree)))}
        if labels is not None:
            targets = mixing.smooth_targets(labels, self.classes, self.label_smoothing)
            of_labels, metrics['accuracy'] = self.of_targets(logits, targets)
            loss += (1 - self.alpha) * of_labels / len(views)
        return loss, Aux(variables, split_views(features, 1), metrics)

    def chance_loss(self, batch_size: int) -> float | None:
        if self.supervised:
            return None  # depends on how many pictures have a label
        return self.temperature**2 * math.log(self.classes)
