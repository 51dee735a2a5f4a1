"""Data sets of TFDS with masks: the same features as theirs, written by TFDS, read without it."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax.config import ConfigError
from simclr_jax.data import masks, prepared

tfds = pytest.importorskip('tensorflow_datasets', reason='writes the records')
SPLITS = {'train': 12, 'test': 3}


def png(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, 'PNG')
    return stream.getvalue()


def trimap(number):
    values = np.full((8, 10, 1), 2, np.uint8)
    values[2:5, 2:6], values[4] = 1, 3
    values[0, 0] = 1 + number % 2
    return values


def instances(number):
    values = np.zeros((8, 10, 3), np.uint8)
    values[:4, :, 0], values[4:, :5, 0] = 7, 100
    values[..., 1] = number  # of an instance
    return values


class _Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for i in range(SPLITS[split]):
            number = i + 100 * (split == 'test')
            image = np.full((8, 10, 3), number, np.uint8)
            yield i, {'image': image, **self.rest(number)}


class OxfordIiitPet(_Made, skip_registration=True):
    name, VERSION = 'oxford_iiit_pet', tfds.core.Version('4.0.0')

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(encoding_format='jpeg'),
                'label': tfds.features.ClassLabel(num_classes=37),
                'species': tfds.features.ClassLabel(names=['Cat', 'Dog']),
                'file_name': tfds.features.Text(),
                'segmentation_mask': tfds.features.Image(shape=(None, None, 1), use_colormap=True),
                'head_bbox': tfds.features.BBoxFeature(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def rest(self, number):
        return {
            'label': 3,
            'species': 1,
            'file_name': f'{number}.jpg',
            'segmentation_mask': trimap(number),
            'head_bbox': tfds.features.BBox(0.0, 0.0, 0.0, 0.0),
        }


class SceneParse150(_Made, skip_registration=True):
    name, VERSION = 'scene_parse150', tfds.core.Version('1.0.0')

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(encoding_format='jpeg'),
                'annotation': tfds.features.Image(encoding_format='png'),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def rest(self, number):
        return {'annotation': io.BytesIO(png(instances(number)))}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp('tfds')
    for builder, kind in ((OxfordIiitPet, 'array_record'), (SceneParse150, 'tfrecord')):
        builder(data_dir=str(place), file_format=kind).download_and_prepare()
    return str(place)


def test_a_pet_is_told_from_its_background(data_dir):
    found = masks.open_masks(
        '', dataset='oxford_iiit_pet', data_dir=data_dir, splits=('train', 'val', 'test')
    )
    assert {name: s.num_examples for name, s in found.items()} == {'train': 11, 'val': 1, 'test': 3}
    train = found['train']
    assert train.names == ('pet', 'background') and train.classes.ignored == (255, 3)
    assert 'there is no validation split: 1 of the 12' in train.description
    numbers = []
    for source in found.values():
        for index in range(source.num_examples):
            picture, labels = source.read(index)
            number = int(picture.mean().round())
            numbers.append(number)
            want = trimap(number)[..., 0].astype(int) - 1
            np.testing.assert_array_equal(labels, np.where(want == 2, -1, want))
    assert sorted(numbers) == [*range(12), 100, 101, 102]
    assert found['test'].name(2) == 'test/2'
    held = train.held()
    assert (held.num_examples, held.label_names, held.pictures) == (11, train.names, None)


def test_red_is_the_class_of_a_scene(data_dir):
    how = {'dataset': 'scene_parse150', 'data_dir': data_dir}
    found = masks.open_masks('', splits=('train[:8]', 'train[8:]', 'test'), **how)
    assert [s.num_examples for s in found.values()] == [8, 4, 3]
    assert found['test'].names == ('7', '100')
    _, labels = found['train[8:]'].read(1)
    assert (labels[:4] == 0).all() and (labels[4:, :5] == 1).all() and (labels[4:, 5:] == -1).all()
    # A picture of two splits is left out of the first.
    overlap = masks.open_masks('', splits=('train', 'train[8:]'), **how)
    assert [s.num_examples for s in overlap.values()] == [8, 4]
    with pytest.raises(ConfigError, match=r"data.dataset='scene_parse150': split 'nothing'"):
        masks.open_masks('', splits=('train', 'nothing'), **how)


def test_data_sets_without_masks(data_dir, monkeypatch):
    with pytest.raises(ConfigError, match=r"'cifar10': has no masks .* take oxford_iiit_pet, scen"):
        masks.check('', dataset='cifar10')
    masks.check('', dataset='oxford_iiit_pet:4.0.0', data_dir=data_dir)
    with pytest.raises(ConfigError, match=r'is not prepared under .*data.prepare oxford_iiit_pet'):
        masks.check('', dataset='oxford_iiit_pet', data_dir=f'{data_dir}/none')
    monkeypatch.setattr(prepared, 'default_data_dir', lambda _: 1 / 0)  # not asked for
    with pytest.raises(ConfigError, match=r"data.path='nowhere': is not there"):
        masks.check('nowhere')
