"""tf.data: read the records of each step, decode, make views, batch, prefetch.

Nothing here has state: the stream starts at any step, and what it yields is a function of
(seed, step) alone, whatever the number of workers or processes.
"""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from simclr_jax.augment import tf_draws, tf_ops
from simclr_jax.augment.recipe import ViewRecipe
from simclr_jax.data import decode, order, records, undecoded
from simclr_jax.data.iterate import iterate
from simclr_jax.data.sources import Source

# The accelerator belongs to JAX; TensorFlow would take its memory.
tf.config.set_visible_devices([], 'GPU')

# Images of a fixed size up to this are decoded whole and cropped as a batch: the overhead of an
# operation is then shared by the batch. Larger ones are made into views one by one.
_SMALL = 64 * 64

_VIEW_SEEDS = 2**20  # folds of a step's seed for its views start here, clear of small numbers


def train_batches(
    source: Source,
    views: tuple[ViewRecipe, ...],
    *,
    seed: int,
    batch_size: int,
    image_size: int,
    start_step: int,
    total_steps: int,
    rows: np.ndarray | slice | None = None,
    workers: int = 0,
    drop_remainder: bool = True,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of steps `start_step` to `total_steps - 1`.

    A batch holds `image` `[batch, view, image_size, image_size, channel]` uint8, `index` `[batch]`
    int64 and, where there are labels, `label` `[batch]` int32. Random draws are made for the whole
    batch and sliced, so a process gets the same `rows` however many processes there are.

    Args:
      source: the records.
      views: the recipe of each view.
      seed: of the order and of the views.
      batch_size: of the global batch.
      image_size: height and width of a view, in pixels.
      start_step: the first step; nothing before it is read.
      total_steps: where the stream ends.
      rows: which rows of the global batch to make; all where None.
      workers: parallel calls; 0 lets tf.data choose.
      drop_remainder: whether an epoch ends with its last whole batch (`order.py`).
    """
    rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    local = len(rows)
    parallel = workers or tf.data.AUTOTUNE
    channels = source.image_shape[-1]

    def indices_of(step):
        total = source.num_examples
        return order.batch_indices(seed, step, batch_size, total, drop_remainder)[rows]

    def parameters_of(step):
        return tuple(
            {name: tf.gather(values, rows) for name, values in drawn.items()}
            for drawn in draw_parameters(views, seed, step, batch_size)
        )

    def batch_of_views(batch, parameters):
        images = _decode_small(batch.pop('image'), source.image_shape)
        shape = tf.fill([tf.shape(images)[0]], images.shape[1])
        made = []
        for recipe, drawn in zip(views, parameters, strict=True):
            boxes = tf_draws.crop_boxes(
                recipe, drawn, shape, tf.fill(tf.shape(shape), images.shape[2])
            )
            how = image_size, recipe.interpolation, recipe.antialias
            view = tf_ops.crop_and_resize(images, boxes, *how) / 255.0
            made.append(tf_ops.distort(view, recipe, drawn))
        return {'image': decode.to_uint8(tf.stack(made, axis=1)), **batch}

    def views_of_one(example, parameters):
        stored = decode.stored(example)
        if len(views) > 1:  # whole, once: a window for each would take longer
            picture = decode.whole(stored, channels, source.intensity)
        made = []
        for recipe, drawn in zip(views, parameters, strict=True):
            drawn = {name: values[None] for name, values in drawn.items()}

            def box_of(height, width, recipe=recipe, drawn=drawn):
                box = tf_draws.crop_boxes(recipe, drawn, height[None], width[None])[0]
                return tf.cast(box, tf.int32)  # whole pixels, whatever the sampler

            if len(views) > 1:
                box = box_of(*picture.size())
            else:
                picture = decode.window(stored, box_of, channels, source.intensity)
                box = picture.everything()
            view = picture.view(box, image_size, recipe.interpolation, recipe.antialias)
            made.append(tf_ops.distort(view[None], recipe, drawn)[0])
        return {'image': decode.to_uint8(tf.stack(made)), **example}

    def stream(start):
        steps = tf.data.Dataset.range(start, total_steps)
        if _is_small(source):
            dataset = records.together(steps, source, indices_of, local, parallel, parameters_of)
            return dataset.map(batch_of_views, parallel, deterministic=True)
        dataset = records.one_by_one(steps, source, indices_of, local, parallel, parameters_of)
        dataset = dataset.map(views_of_one, parallel, deterministic=True)
        return dataset.batch(local, drop_remainder=True)

    return _batches(stream, source, indices_of, start_step, workers)


def draw_parameters(
    views: tuple[ViewRecipe, ...], seed: int, step: int | tf.Tensor, batch_size: int
) -> tuple[tf_draws.Parameters, ...]:
    """Returns what `train_batches` draws for every view of the batch at `step`."""
    # The type of what is folded in changes the draws, so a plain number is made one of tf.data's.
    step_seed = tf.random.experimental.stateless_fold_in(
        tf.constant([seed, 0], tf.int64), tf.cast(step, tf.int64), alg='philox'
    )
    return tuple(
        tf_draws.sample_parameters(
            recipe,
            tf.random.experimental.stateless_fold_in(step_seed, _VIEW_SEEDS + view, alg='philox'),
            batch_size,
        )
        for view, recipe in enumerate(views)
    )


def canvas_batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
    rows: np.ndarray | slice | None = None,
    workers: int = 0,
    drop_remainder: bool = True,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches that `jax_ops.make_views` takes; the arguments are `train_batches`'s.

    A batch holds `image` `[batch, *source.canvas_shape]` uint8, each picture decoded once into the
    upper left of its canvas, `size` `[batch, 2]` int32, its height and width there, `index`
    `[batch]` int32 and, where there are labels, `label`. A picture that is larger than the canvas
    is made smaller: a JPEG while it is decoded, as far as that leaves it as large as the canvas.
    """
    rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    local = len(rows)

    def indices_of(step):
        total = source.num_examples
        return order.batch_indices(seed, step, batch_size, total, drop_remainder)[rows]

    def canvas_of_one(example):
        picture = decode.shrunk(decode.stored(example), source.canvas_shape, source.intensity)
        return {
            'image': decode.into_canvas(picture, source.canvas_shape),
            'size': tf.shape(picture)[:2],
            **example,
            'index': tf.cast(example['index'], tf.int32),
        }

    def stream(start):
        steps = tf.data.Dataset.range(start, total_steps)
        dataset = records.one_by_one(steps, source, indices_of, local, 2)
        dataset = dataset.map(canvas_of_one, workers or tf.data.AUTOTUNE, deterministic=True)
        return dataset.batch(local, drop_remainder=True)

    return _batches(stream, source, indices_of, start_step, workers)


def decoded(source: Source, batch_size: int, workers: int = 0) -> Iterator[np.ndarray]:
    """Yields, without end, the sizes `[batch, 2]` of pictures decoded whole, and nothing else.

    It is what any pipeline is compared with.
    """

    channels = source.image_shape[-1]

    def indices_of(step):
        return np.arange(step * batch_size, (step + 1) * batch_size) % source.num_examples

    def size(example):
        return tf.shape(decode.whole(decode.stored(example), channels, source.intensity).pixels)

    dataset = records.one_by_one(tf.data.Dataset.range(2**62), source, indices_of, batch_size, 2)
    dataset = dataset.map(size, workers or tf.data.AUTOTUNE, deterministic=True)
    return iterate(dataset.batch(batch_size), workers)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    crop: float = 1.0,
    interpolation: str = 'bicubic',
    antialias: bool = False,
    rows: np.ndarray | slice | None = None,
    workers: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once, in order, as one central view.

    A batch holds `image` `[batch, 1, image_size, image_size, channel]` uint8, `index`, `label` (-1
    where there is none) and `mask` `[batch]`: the last batch is filled up with copies, masked 0.

    Args:
      source: the records.
      batch_size: of the global batch.
      image_size: height and width, in pixels.
      crop: side of the central square, as a share of the image's shorter side.
      interpolation: 'bicubic' or 'bilinear'.
      antialias: whether what is made smaller is averaged over all its pixels; it always is where
        two pixels or more become one.
      rows: which rows of the global batch to make; all where None.
      workers: parallel calls; 0 lets tf.data choose.
    """
    rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    local = len(rows)
    parallel = workers or tf.data.AUTOTUNE
    how = {'image_size': image_size, 'crop': crop}
    how |= {'interpolation': interpolation, 'antialias': antialias}

    def positions_of(step):
        return np.arange(step * batch_size, (step + 1) * batch_size)[rows]

    def indices_of(step):
        return np.minimum(positions_of(step), source.num_examples - 1)

    def mask_of(step):
        mask = tf.numpy_function(
            lambda step: (positions_of(step) < source.num_examples).astype(np.float32),
            [step],
            tf.float32,
        )
        return tf.ensure_shape(mask, [local])

    def central(example, mask):
        image = _central_view(example, source, **how)
        label = example.get('label', tf.constant(-1))
        return {'image': image[None], 'index': example['index'], 'mask': mask, 'label': label}

    def central_views(batch, mask):
        images = tf.map_fn(
            lambda encoded: _central_view({'image': encoded}, source, **how),
            batch['image'],
            fn_output_signature=tf.uint8,
        )
        label = batch.get('label', tf.fill([local], -1))
        return {'image': images[:, None], 'index': batch['index'], 'mask': mask, 'label': label}

    def stream(start):
        steps = tf.data.Dataset.range(start, -(-source.num_examples // batch_size))
        if _is_small(source):
            dataset = records.together(steps, source, indices_of, local, parallel, mask_of)
            return dataset.map(central_views, parallel, deterministic=True)
        dataset = records.one_by_one(steps, source, indices_of, local, 2, mask_of)
        dataset = dataset.map(central, parallel, deterministic=True)
        return dataset.batch(local, drop_remainder=True)

    return _batches(stream, source, indices_of, 0, workers)


def read_images(source: Source, indices: np.ndarray, **how) -> np.ndarray:
    """Returns the central views of a few examples, `[n, image_size, image_size, channel]` uint8.

    The other arguments are `eval_batches`'s: `image_size`, `crop`, `interpolation`, `antialias`.
    """
    return np.stack(_one_by_one(source, indices, _central_view, **how))


def read_whole_images(source: Source, indices: np.ndarray) -> list[np.ndarray]:
    """Returns a few examples as they are stored, each `[height, width, channel]` uint8, upright."""

    def whole(example, source):
        channels = source.image_shape[-1]
        return decode.whole(decode.stored(example), channels, source.intensity).upright()

    return _one_by_one(source, indices, whole)


def _one_by_one(source: Source, indices: np.ndarray, function: Callable, **options) -> list:
    """Applies `function(example, source, **options)` to each; bad pictures are replaced."""
    made = []
    for index in indices:
        while True:
            try:
                example = records.parse(tf.constant(records.read(source, [index])[0]), source)
                made.append(function(example, source, **options).numpy())
                break
            except tf.errors.OpError as error:
                undecoded.set_aside(source, [index], error)
    return made


def _central_view(example: dict[str, tf.Tensor], source: Source, **how) -> tf.Tensor:
    return decode.central_view(
        decode.stored(example),
        channels=source.image_shape[-1],
        intensity=source.intensity,
        canvas=source.canvas_shape if source.through_canvas else None,
        **how,
    )


def _is_small(source: Source) -> bool:
    height, width, _ = source.image_shape
    return height is not None and width is not None and height * width <= _SMALL


def _decode_small(encoded: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    images = tf.map_fn(
        lambda one: tf.io.decode_image(one, shape[-1], expand_animations=False),
        encoded,
        fn_output_signature=tf.uint8,
    )
    return tf.ensure_shape(images, [None, *shape])


def _batches(
    stream: Callable[[int], tf.data.Dataset],
    source: Source,
    indices_of: records.IndicesOf,
    start: int,
    workers: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates `stream(start)`; past a picture that cannot be decoded, if something can be done."""
    batches = iterate(stream(start), workers)

    def generate(step, batches):
        while True:
            try:
                for batch in batches:
                    yield batch
                    step += 1
                return
            except tf.errors.OpError as error:
                if failure := source.failure():  # TensorFlow wraps it in an error of its own
                    raise failure from None
                undecoded.set_aside(source, indices_of(step), error)
                batches = iterate(stream(step), workers)

    return generate(start, batches)
