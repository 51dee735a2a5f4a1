"""A TFDS builder for scikit-learn's handwritten digits: real images that need no download."""

import numpy as np
import tensorflow_datasets as tfds

_TEST_PER_CLASS = 50


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits of 8 x 8 pixels, split by class into 1,297 for training and 500 for testing."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'The test part of the UCI optical recognition data set.'}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Handwritten digits as scikit-learn ships them.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
                    'label': tfds.features.ClassLabel(names=[str(n) for n in range(10)]),
                }
            ),
            supervised_keys=('image', 'label'),
            homepage='https://archive.ics.uci.edu/dataset/80',
            citation='Alpaydin and Kaynak (1998), doi:10.24432/C50P49',
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing to download
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        test = test_indices(labels)
        train = np.setdiff1d(np.arange(len(labels)), test)
        pixels = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        return {
            'train': self._generate_examples(pixels, labels, train),
            'test': self._generate_examples(pixels, labels, test),
        }

    def _generate_examples(self, pixels: np.ndarray, labels: np.ndarray, indices: np.ndarray):
        for index in indices:
            yield int(index), {'image': pixels[index], 'label': int(labels[index])}


def test_indices(labels: np.ndarray) -> np.ndarray:
    """Returns the sorted indices of the test split: 50 of each class, the same on every machine."""
    random = np.random.RandomState(0)  # the one generator whose stream NumPy promises to keep
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:_TEST_PER_CLASS]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))
