"""Records with random access: a TFDS builder prepared as ArrayRecord."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax.config import ConfigError

BUILT_HERE = ('digits',)  # data sets that this package makes where they are missing


@dataclasses.dataclass(frozen=True)
class Source:
    """A split: serialized `tf.train.Example`s with an encoded `image` and, maybe, a `label`.

    Attributes:
      read: records of the given indices, in their order; safe to call from several threads.
      num_examples: how many records there are.
      image_shape: `(height, width, channel)`; None for a size that differs between images.
      label_names: name of each class; None where there are no labels.
    """

    read: Callable[[Sequence[int]], list[bytes]]
    num_examples: int
    image_shape: tuple[int | None, int | None, int]
    label_names: tuple[str, ...] | None

    @property
    def num_classes(self) -> int:
        return len(self.label_names or ())


def check_prepared(dataset: str, data_dir: str) -> None:
    """Checks that a data set can be read, without importing TensorFlow.

    Raises:
      ConfigError: it is not there, or not prepared as ArrayRecord; it says how to prepare it.
    """
    if dataset in BUILT_HERE or '://' in data_dir:  # a bucket is looked at when it is opened
        return
    builder = dataset.partition(':')[0]  # without a version
    name = builder.partition('/')[0]  # without a builder's config
    folder = default_data_dir(data_dir) / name
    infos = sorted(folder.glob('**/dataset_info.json'))
    if name == 'imagenet100':  # TFDS does not know it; it is made of imagenet2012
        builder = pathlib.Path(__file__).with_name('imagenet100.py')
    prepare = f'tfds build {builder} --file_format=array_record --data_dir={folder.parent}'
    if not infos:
        raise ConfigError(
            f'data.dataset={dataset!r}: is not prepared under {folder.parent}; prepare it with '
            f'`{prepare}`, name its place in data.data_dir, or take digits, which needs no download'
        )
    formats = {json.loads(info.read_text()).get('fileFormat') for info in infos}
    if 'array_record' not in formats:
        raise ConfigError(
            f'data.dataset={dataset!r}: {folder} is prepared as {", ".join(map(str, formats))}, '
            f'which has no random access; prepare it again with `{prepare}`'
        )


def default_data_dir(data_dir: str) -> pathlib.Path:
    """Returns `data_dir`, or where TFDS keeps data by default."""
    default = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
    return pathlib.Path(data_dir or default).expanduser()


def subset(source: Source, indices: np.ndarray) -> Source:
    """Returns the source of those records alone, in the order of `indices` `[n]`."""
    return dataclasses.replace(
        source, read=lambda chosen: source.read(indices[chosen]), num_examples=len(indices)
    )


def open_source(dataset: str, data_dir: str, split: str) -> Source:
    """Opens a split of a TFDS builder; makes the data set first if it is one of `BUILT_HERE`.

    Raises:
      ConfigError: the data set or the split is not there.
    """
    import tensorflow_datasets as tfds

    data_dir = data_dir if '://' in data_dir else str(default_data_dir(data_dir))
    if dataset in BUILT_HERE:
        from simclr_jax.data.digits import Digits

        builder = Digits(data_dir=data_dir, file_format='array_record')
        tfds.disable_progress_bar()  # a second of work, announced as a download of unknown size
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(FileExistsError):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
        tfds.enable_progress_bar()
        # Read anew, since another process may have been the one that made it.
        builder = Digits(data_dir=data_dir, file_format='array_record')
    else:
        builder = tfds.builder(dataset, data_dir=data_dir, try_gcs=False)
    try:
        records = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f'data split {split!r} of {dataset}: is not one of {", ".join(builder.info.splits)} '
            'or a slice of them'
        ) from error
    features = builder.info.features
    label = features['label'] if 'label' in list(features) else None
    return Source(
        read=lambda indices: records.__getitems__([int(i) for i in indices]),
        num_examples=len(records),
        image_shape=tuple(features['image'].shape),
        label_names=tuple(label.names) if label is not None else None,
    )
