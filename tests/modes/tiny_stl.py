"""A TFDS builder of STL-10's shape: many pictures without labels, few with, and a test split."""

import numpy as np
import tensorflow_datasets as tfds

SIZES = {'unlabelled': 60, 'train': 40, 'test': 30}
CLASSES = ('airplane', 'bird', 'car', 'cat')


class TinyStl(tfds.core.GeneratorBasedBuilder):
    """Pictures of noise, 8 x 8, of which no two are alike; the label -1 stands for none."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(8, 8, 3), encoding_format='png'),
                    'label': tfds.features.ClassLabel(names=CLASSES),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split: str):
        random = np.random.default_rng(list(SIZES).index(split))
        for i in range(SIZES[split]):
            label = -1 if split == 'unlabelled' else i % len(CLASSES)
            yield i, {'image': random.integers(0, 256, (8, 8, 3), np.uint8), 'label': label}


def prepare(data_dir: str, file_format: str) -> None:
    """Writes the data set in two shards of a split, as 'array_record' or 'tfrecord'."""
    builder = TinyStl(data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=2)
    )
