"""ImageNet-100 out of a made ImageNet: the right classes, the same bytes, labels of its own."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

from simclr_jax.config import ConfigError
from simclr_jax.data import sources
from simclr_jax.data.imagenet100 import WNIDS

ROOT = pathlib.Path(__file__).parents[2]
IMAGENET = pathlib.Path(imagenet_common.label_names_file()).read_text().split()


class MadeImagenet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS's imagenet2012 with pictures of one colour: 30 of 30 classes for training, 10 of 5."""

    name = 'imagenet2012'
    VERSION = tfds.core.Version('5.1.0')

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(encoding_format='jpeg'),
                    'label': tfds.features.ClassLabel(names=IMAGENET),
                    'file_name': tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            'train': self._generate_examples(30, 30),
            'validation': self._generate_examples(10, 5),
        }

    def _generate_examples(self, count, classes):
        for number in range(count):
            label = number % classes
            yield number, {
                'image': io.BytesIO(jpeg(number)), 'label': label, 'file_name': f'{number}.JPEG'
            }  # fmt: skip


def jpeg(number: int) -> bytes:
    return tf.io.encode_jpeg(np.full((8 + number, 9, 3), 8 * number, np.uint8)).numpy()


def test_a_hundred_classes_of_imagenet():
    assert len(IMAGENET) == 1000
    assert len(WNIDS) == len(set(WNIDS)) == 100 and set(WNIDS) <= set(IMAGENET)


def test_the_command_of_the_docstring_makes_it_of_the_imagenet_that_is_there(tmp_path):
    with pytest.raises(ConfigError, match=r'tfds build \S*data/imagenet100\.py --file_format'):
        sources.check_prepared('imagenet100', str(tmp_path))
    MadeImagenet(data_dir=str(tmp_path), file_format='array_record').download_and_prepare()
    command = 'build simclr_jax/data/imagenet100.py --file_format=array_record'
    subprocess.run(
        [
            *(sys.executable, '-m', 'tensorflow_datasets.scripts.cli.main', *command.split()),
            f'--data_dir={tmp_path}',
        ],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    sources.check_prepared('imagenet100', str(tmp_path))
    for split, count, classes in (('train', 30, 30), ('validation', 10, 5)):
        want = {
            jpeg(number): IMAGENET[number % classes]
            for number in range(count)
            if IMAGENET[number % classes] in WNIDS
        }
        assert split == 'validation' or want
        source = sources.open_source('imagenet100', str(tmp_path), split)
        assert source.label_names == WNIDS and source.image_shape == (None, None, 3)
        found = {}
        for record in source.read(range(source.num_examples)):
            feature = tf.train.Example.FromString(record).features.feature
            image = feature['image'].bytes_list.value[0]
            found[image] = WNIDS[feature['label'].int64_list.value[0]]
        assert found == want
