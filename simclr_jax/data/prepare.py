"""Downloads a data set of TFDS and writes it as ArrayRecord, which has random access.

    python -m simclr_jax.data.prepare cifar10
    python -m simclr_jax.data.prepare imagenet2012 --data_dir=/disk/tensorflow_datasets

Not into a bucket: ArrayRecord is written to a disk, and copied from there.

As `tfds build NAME --file_format=array_record`, which imports Apache Beam, whether it is needed or
not, and does not know `imagenet100`.
"""

import argparse
from collections.abc import Sequence

import tensorflow_datasets as tfds

from simclr_jax.data.imagenet100 import Imagenet100
from simclr_jax.data.prepared import copy_command, default_data_dir


def main(argv: Sequence[str] | None = None) -> None:
    """Prepares the data set that the command line names; nothing happens where it is there."""
    parser = argparse.ArgumentParser(prog='python -m simclr_jax.data.prepare')
    parser.add_argument('name', help='as cifar10, imagenette/160px-v2, imagenet2012, imagenet100')
    parser.add_argument('--data_dir', default='', help='$TFDS_DATA_DIR or ~/tensorflow_datasets')
    flags = parser.parse_args(argv)
    if '://' in flags.data_dir:
        parser.error(
            f'--data_dir={flags.data_dir}: ArrayRecord cannot be written into a bucket. Name a '
            f'folder on a disk, and copy the result: {copy_command(flags.name, flags.data_dir)}'
        )
    data_dir = str(default_data_dir(flags.data_dir))
    options = {'data_dir': data_dir, 'file_format': 'array_record'}
    if flags.name == 'imagenet100':
        builder = Imagenet100(**options)
    else:
        try:
            builder = tfds.builder(flags.name, try_gcs=False, **options)
        except tfds.core.registered.DatasetNotFoundError as error:
            parser.error(f'{flags.name}: {str(error).splitlines()[0]}')
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )


if __name__ == '__main__':
    main()
