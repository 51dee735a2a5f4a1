"""Data sets that TFDS has prepared, on a disk or in a bucket: found, and opened."""

import contextlib
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence

from simclr_jax.config import ConfigError, RunError

BUILT_HERE = ('digits',)  # data sets that this package makes where they are missing


def check(dataset: str, data_dir: str) -> None:
    """Checks that a data set can be read, without importing TensorFlow.

    Raises:
      ConfigError: it is not there, or prepared in another format; it says how to prepare it.
    """
    if dataset in BUILT_HERE or '://' in data_dir:  # a bucket is looked at when it is opened
        return
    builder, _, version = dataset.partition(':')
    name, _, variant = builder.partition('/')  # TFDS calls it the builder's config
    place = default_data_dir(data_dir) / name
    infos = [json.loads(info.read_text()) for info in sorted(place.glob('**/dataset_info.json'))]
    prepare = f'python -m simclr_jax.data.prepare {builder} --data_dir={place.parent}'
    if not infos:
        raise ConfigError(
            f'data.dataset={dataset!r}: is not prepared under {place.parent}; prepare it with '
            f'`{prepare}`, name its place in data.data_dir, or take digits, which needs no download'
        )
    prepared = sorted({_name_of(info) for info in infos})
    infos = [
        info
        for info in infos
        if (not variant or info.get('configName') == variant)
        and (not version or '*' in version or info.get('version') == version)
    ]
    if not infos:
        raise ConfigError(
            f'data.dataset={dataset!r}: is not prepared under {place.parent}, but '
            f'{", ".join(prepared)} is; name one of these, or prepare it with `{prepare}`'
        )
    formats = {info.get('fileFormat') for info in infos}
    if not formats & {'array_record', 'tfrecord'}:
        raise ConfigError(
            f'data.dataset={dataset!r}: {place} is prepared as {", ".join(map(str, formats))}, '
            f'which has no random access; prepare it again with `{prepare}`'
        )


def _name_of(info: dict) -> str:
    variant = f'/{info["configName"]}' if info.get('configName') else ''
    return f'{info.get("name")}{variant}:{info.get("version")}'


def default_data_dir(data_dir: str) -> pathlib.Path:
    """Returns `data_dir`, or where TFDS keeps data by default."""
    default = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
    return pathlib.Path(data_dir or default).expanduser()


def copy_command(dataset: str, bucket: str) -> str:
    """Returns the command that copies a prepared data set from the default place to a bucket."""
    name = re.split('[/:]', dataset)[0]
    return f'`gcloud storage cp -r {default_data_dir("")}/{name} {bucket.rstrip("/")}/`'


def array_records(builder, split: str) -> tuple[Callable[[Sequence[int]], list[bytes]], int]:
    """Returns what reads the records of a split, and how many there are."""
    import tensorflow_datasets as tfds

    records = builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    return lambda indices: records.__getitems__([int(i) for i in indices]), len(records)


def open_builder(dataset: str, data_dir: str):
    """Returns the builder; None where nothing of that name is there, or known to TFDS."""
    import tensorflow_datasets as tfds

    data_dir = data_dir if '://' in data_dir else str(default_data_dir(data_dir))
    if dataset not in BUILT_HERE:
        with contextlib.suppress(tfds.core.registered.DatasetNotFoundError):
            return tfds.builder(dataset, data_dir=data_dir, try_gcs=False)
        return None
    prepared = sorted(pathlib.Path(data_dir).glob(f'{dataset}/*/dataset_info.json'))
    if not prepared:
        _build_digits(data_dir)
        prepared = sorted(pathlib.Path(data_dir).glob(f'{dataset}/*/dataset_info.json'))
    return tfds.builder_from_directory(prepared[-1].parent)


def _build_digits(data_dir: str) -> None:
    import tensorflow_datasets as tfds

    from simclr_jax.data.digits import Digits

    tfds.disable_progress_bar()  # a second of work, announced as a download of unknown size
    try:
        # Another process may be the one that makes it.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(FileExistsError):
            Digits(data_dir=data_dir, file_format='array_record').download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except (OSError, RuntimeError) as error:  # the writer of ArrayRecord raises the latter
        raise RunError(
            f'data.data_dir={data_dir!r}: the digits cannot be written there: '
            f'{" ".join(str(error).split())[:300]}; make room, or name another place'
        ) from error
    finally:
        tfds.enable_progress_bar()
