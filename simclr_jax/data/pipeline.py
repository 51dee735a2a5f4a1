"""tf.data: read the records of each step, decode, make views, batch, prefetch.

Nothing here has state: the stream starts at any step, and what it yields is a function of
(seed, step) alone, whatever the number of workers or processes.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from simclr_jax.augment import tf_draws, tf_ops
from simclr_jax.augment.recipe import ViewRecipe
from simclr_jax.data import order
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
    parallel = workers or tf.data.AUTOTUNE
    channels = source.image_shape[-1]

    def read(step):
        indices = order.batch_indices(
            seed, int(step), batch_size, source.num_examples, drop_remainder
        )[rows]
        return indices, np.array(source.read(indices), object)

    def records(step):
        index, serialized = tf.numpy_function(read, [step], (tf.int64, tf.string))
        index.set_shape([len(rows)])
        serialized.set_shape([len(rows)])
        parameters = tuple(
            {name: tf.gather(values, rows) for name, values in drawn.items()}
            for drawn in draw_parameters(views, seed, step, batch_size)
        )
        return {'index': index, **_parse(serialized, source)}, parameters

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
        return {'image': _to_uint8(tf.stack(made, axis=1)), **batch}

    def views_of_one(example, parameters):
        encoded = example.pop('image')
        if len(views) > 1:  # whole, once: a window for each would take longer
            image = tf.io.decode_image(encoded, channels, expand_animations=False)
            image = tf.ensure_shape(image, [None, None, channels])
            height, width = tf.unstack(tf.shape(image)[:2])
        else:
            height, width = _encoded_size(encoded)
        made = []
        for recipe, drawn in zip(views, parameters, strict=True):
            drawn = {name: values[None] for name, values in drawn.items()}
            box = tf_draws.crop_boxes(recipe, drawn, height[None], width[None])[0]
            box = tf.cast(box, tf.int32)  # whole pixels, whatever the sampler
            if len(views) > 1:
                view = tf_ops.cut_and_resize(
                    image, box, image_size, recipe.interpolation, recipe.antialias
                )
            else:
                view = tf_ops.decode_crop_and_resize(
                    encoded, box, image_size, recipe.interpolation, channels, recipe.antialias
                )
            made.append(tf_ops.distort(view[None], recipe, drawn)[0])
        return {'image': _to_uint8(tf.stack(made)), **example}

    dataset = tf.data.Dataset.range(start_step, total_steps)
    dataset = dataset.map(records, parallel, deterministic=True)
    if _is_small(source):
        dataset = dataset.map(batch_of_views, parallel, deterministic=True)
    else:
        dataset = dataset.unbatch().map(views_of_one, parallel, deterministic=True)
        dataset = dataset.batch(len(rows), drop_remainder=True)
    return _iterate(dataset, workers, source)


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
    parallel = workers or tf.data.AUTOTUNE

    def read(step):
        indices = order.batch_indices(
            seed, int(step), batch_size, source.num_examples, drop_remainder
        )[rows]
        return indices.astype(np.int32), np.array(source.read(indices), object)

    def records(step):
        index, serialized = tf.numpy_function(read, [step], (tf.int32, tf.string))
        index.set_shape([local])
        serialized.set_shape([local])
        return {'index': index, **_parse(serialized, source)}

    def canvas_of_one(example):
        image, size = _decode_into(example.pop('image'), source.canvas_shape)
        return {'image': image, 'size': size, **example}

    dataset = tf.data.Dataset.range(start_step, total_steps)
    dataset = dataset.map(records, 2, deterministic=True)
    dataset = dataset.unbatch().map(canvas_of_one, parallel, deterministic=True)
    return _iterate(dataset.batch(local, drop_remainder=True), workers, source)


def decoded(source: Source, batch_size: int, workers: int = 0) -> Iterator[np.ndarray]:
    """Yields, without end, the sizes `[batch, 2]` of pictures decoded whole, and nothing else.

    It is what any pipeline is compared with.
    """

    def read(step):
        indices = np.arange(step * batch_size, (step + 1) * batch_size) % source.num_examples
        return np.array(source.read(indices), object)

    def records(step):
        serialized = tf.numpy_function(read, [step], tf.string)
        serialized.set_shape([batch_size])
        return _parse(serialized, source)['image']

    def size(encoded):
        return tf.shape(
            tf.io.decode_image(encoded, source.image_shape[-1], expand_animations=False)
        )

    dataset = tf.data.Dataset.range(2**62).map(records, 2, deterministic=True).unbatch()
    dataset = dataset.map(size, workers or tf.data.AUTOTUNE, deterministic=True)
    return _iterate(dataset.batch(batch_size), workers, source)


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
      antialias: whether what is made smaller is averaged over all its pixels.
      rows: which rows of the global batch to make; all where None.
      workers: parallel calls; 0 lets tf.data choose.
    """
    rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    local = len(rows)
    how = {'image_size': image_size, 'crop': crop}
    how |= {'interpolation': interpolation, 'antialias': antialias}

    def read(step):
        positions = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
        mask = (positions < source.num_examples).astype(np.float32)
        indices = np.minimum(positions, source.num_examples - 1)
        return indices, mask, np.array(source.read(indices), object)

    def batch_of(step):
        index, mask, serialized = tf.numpy_function(read, [step], (tf.int64, tf.float32, tf.string))
        for tensor in (index, mask, serialized):
            tensor.set_shape([local])
        batch = _parse(serialized, source)
        images = tf.map_fn(
            lambda encoded: _central_view(encoded, source.image_shape[-1], **how),
            batch.pop('image'),
            fn_output_signature=tf.uint8,
        )
        label = batch.get('label', tf.fill([local], -1))
        return {'image': images[:, None], 'index': index, 'mask': mask, 'label': label}

    num_batches = -(-source.num_examples // batch_size)
    dataset = tf.data.Dataset.range(num_batches)
    dataset = dataset.map(batch_of, workers or tf.data.AUTOTUNE, deterministic=True)
    return _iterate(dataset, workers, source)


def read_images(source: Source, indices: np.ndarray, **how) -> np.ndarray:
    """Returns the central views of a few examples, `[n, image_size, image_size, channel]` uint8.

    The other arguments are `eval_batches`'s: `image_size`, `crop`, `interpolation`, `antialias`.
    """
    encoded = _parse(tf.constant(source.read(indices)), source)['image']
    channels = source.image_shape[-1]
    return np.stack([_central_view(one, channels, **how) for one in encoded])


def read_whole_images(source: Source, indices: np.ndarray) -> list[np.ndarray]:
    """Returns a few examples as they are stored, each `[height, width, channel]` uint8."""
    encoded = _parse(tf.constant(source.read(indices)), source)['image']
    channels = source.image_shape[-1]
    return [tf.io.decode_image(one, channels, expand_animations=False).numpy() for one in encoded]


def _central_view(
    encoded: tf.Tensor,
    channels: int,
    image_size: int,
    crop: float = 1.0,
    interpolation: str = 'bicubic',
    antialias: bool = False,
) -> tf.Tensor:
    height, width = _encoded_size(encoded)
    side = tf.cast(tf.round(tf.cast(tf.minimum(height, width), tf.float32) * crop), tf.int32)
    box = tf.stack([(height - side) // 2, (width - side) // 2, side, side])
    return _to_uint8(
        tf_ops.decode_crop_and_resize(encoded, box, image_size, interpolation, channels, antialias)
    )


def _parse(serialized: tf.Tensor, source: Source) -> dict[str, tf.Tensor]:
    features = {'image': tf.io.FixedLenFeature([], tf.string)}
    if source.label_names is not None:
        features['label'] = tf.io.FixedLenFeature([], tf.int64)
    batch = tf.io.parse_example(serialized, features)
    if 'label' in batch:
        batch['label'] = tf.cast(batch['label'], tf.int32)
    return batch


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


def _encoded_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width of an encoded image; a JPEG's header tells, others are decoded."""
    shape = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.extract_jpeg_shape(encoded),
        lambda: tf.shape(tf.io.decode_image(encoded, expand_animations=False)),
    )
    return shape[0], shape[1]


def _decode_into(encoded: tf.Tensor, canvas: tuple[int, int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes into a canvas `[height, width, channel]`; returns it and the picture's size `[2]`."""
    height, width, channels = canvas

    def jpeg():
        def at(ratio):
            return lambda: tf.io.decode_jpeg(encoded, channels, ratio=ratio)

        # The largest reduction after which the picture is still too large, or just fits.
        times = tf.reduce_max(tf.math.floordiv(tf.io.extract_jpeg_shape(encoded)[:2], side))
        return tf.switch_case(
            tf.searchsorted([2, 4, 8], [times], side='right')[0], [at(r) for r in (1, 2, 4, 8)]
        )

    side = tf.constant([height, width])
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        jpeg,
        lambda: tf.io.decode_image(encoded, channels, expand_animations=False),
    )
    image = tf.ensure_shape(image, [None, None, channels])
    size = tf.shape(image)[:2]
    scale = tf.reduce_min(tf.cast(side, tf.float32) / tf.cast(size, tf.float32))

    def shrunk():
        fitting = tf.cast(tf.round(tf.cast(size, tf.float32) * scale), tf.int32)
        smaller = tf.image.resize(image, tf.maximum(fitting, 1), 'area')
        return _to_uint8(smaller / 255.0)

    image = tf.cond(scale < 1, shrunk, lambda: image)
    size = tf.shape(image)[:2]
    # Rows of bytes: of three dimensions, padding takes five times as long, as long as decoding.
    rows = tf.reshape(image, [size[0], size[1] * channels])
    rows = tf.pad(rows, [[0, height - size[0]], [0, (width - size[1]) * channels]])
    return tf.reshape(rows, canvas), size


def _to_uint8(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(images * 255.0), tf.uint8)


def _iterate(
    dataset: tf.data.Dataset, workers: int, source: Source
) -> Iterator[dict[str, np.ndarray]]:
    options = tf.data.Options()
    options.deterministic = True
    if workers:
        options.threading.private_threadpool_size = workers
    dataset = dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
    return _said_plainly(dataset.as_numpy_iterator(), source)


def _said_plainly(batches: Iterator, source: Source) -> Iterator:
    """Raises what ended the reading as it was, where TensorFlow wraps it in an error of its own."""
    try:
        yield from batches
    except tf.errors.OpError:
        if failure := source.failure():
            raise failure from None
        raise
