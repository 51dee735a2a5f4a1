"""ImageNet-100 out of a made ImageNet: the right classes, the same bytes, labels of its own."""

import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

from simclr_jax.config import ConfigError
from simclr_jax.data import prepare, sources
from simclr_jax.data.imagenet100 import WNIDS

IMAGENET = pathlib.Path(imagenet_common.label_names_file()).read_text().split()
FIRST = 14  # label of the first picture; 15 is one of the hundred


class MadeImagenet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS's imagenet2012 with pictures of one colour: 60 of as many classes, and 10 of 5."""

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
            'train': self._generate_examples(60, 60),
            'validation': self._generate_examples(10, 5),
        }

    def _generate_examples(self, count, classes):
        for number in range(count):
            label = FIRST + number % classes
            yield number, {
                'image': io.BytesIO(jpeg(number)), 'label': label, 'file_name': f'{number}.JPEG'
            }  # fmt: skip


def jpeg(number: int) -> bytes:
    return tf.io.encode_jpeg(np.full((8 + number, 9, 3), 4 * number, np.uint8)).numpy()


def test_a_hundred_classes_of_imagenet():
    assert len(IMAGENET) == 1000
    assert len(WNIDS) == len(set(WNIDS)) == 100 and set(WNIDS) <= set(IMAGENET)


def test_it_is_made_of_the_imagenet_that_is_there(tmp_path):
    with pytest.raises(ConfigError, match=r'data\.prepare imagenet100 --data_dir'):
        sources.check_prepared('imagenet100', str(tmp_path))
    MadeImagenet(data_dir=str(tmp_path), file_format='array_record').download_and_prepare()
    prepare.main(['imagenet100', f'--data_dir={tmp_path}'])
    sources.check_prepared('imagenet100', str(tmp_path))
    for split, count, classes in (('train', 60, 60), ('validation', 10, 5)):
        want = {
            jpeg(number): IMAGENET[FIRST + number % classes]
            for number in range(count)
            if IMAGENET[FIRST + number % classes] in WNIDS
        }
        assert 0 < len(want) < count
        source = sources.open_source('imagenet100', str(tmp_path), split)
        assert source.label_names == WNIDS and source.image_shape == (None, None, 3)
        found = {}
        for record in source.read(range(source.num_examples)):
            feature = tf.train.Example.FromString(record).features.feature
            image = feature['image'].bytes_list.value[0]
            found[image] = WNIDS[feature['label'].int64_list.value[0]]
        assert found == want


def test_the_way_into_a_bucket_is_a_copy(tmp_path, monkeypatch, capsys):
    """ArrayRecord's writer knows no buckets; its error was found after hours of preparing."""
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    copy = f'`gcloud storage cp -r {tmp_path}/imagenet2012 gs://bucket/data/`'
    with pytest.raises(SystemExit) as error:
        prepare.main(['imagenet2012', '--data_dir=gs://bucket/data/'])
    assert error.value.code == 2 and copy in capsys.readouterr().err
    # A data set that is not in the bucket: a disk stands for it, since tests have no network.
    builder = tfds.builder
    monkeypatch.setattr(
        tfds, 'builder', lambda name, data_dir, **rest: builder(name, data_dir=tmp_path, **rest)
    )
    for name, folder in (('cifar10', 'cifar10'), ('imagenet100', 'imagenet100')):
        with pytest.raises(ConfigError) as error:
            sources.open_data(name, 'gs://bucket/data')
        assert f'data.dataset={name!r}: is not prepared under gs://bucket/data' in str(error.value)
        assert f'{tmp_path}/{folder} gs://bucket/data/`' in str(error.value)


def test_an_unknown_name_is_answered_with_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        prepare.main(['imagenet101', f'--data_dir={tmp_path}'])
    assert error.value.code == 2 and 'imagenet101' in capsys.readouterr().err
