"""A TFDS builder for ImageNet-100: 100 classes of ImageNet, about 127,000 training images.

    python -m simclr_jax.data.prepare imagenet2012
    python -m simclr_jax.data.prepare imagenet100

The second command reads the first one's records, which have to be under the same data directory,
once, and writes those of the classes, as they are, beside them (about 16 GB).
"""

import io

import tensorflow_datasets as tfds

# Drawn by Tian et al. for "Contrastive Multiview Coding" (https://arxiv.org/abs/1906.05849):
# `imagenet100.txt` of https://github.com/HobbitLong/CMC. A label is the place in this list.
_WNIDS = """
  n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890 n03062245
  n01773797 n01735189 n07831146 n07753275 n03085013 n04485082 n02105505 n01983481 n02788148
  n03530642 n04435653 n02086910 n02859443 n13040303 n03594734 n02085620 n02099849 n01558993
  n04493381 n02109047 n04111531 n02877765 n04429376 n02009229 n01978455 n02106550 n01820546
  n01692333 n07714571 n02974003 n02114855 n03785016 n03764736 n03775546 n02087046 n07836838
  n04099969 n04592741 n03891251 n02701002 n03379051 n02259212 n07715103 n03947888 n04026417
  n02326432 n03637318 n01980166 n02113799 n02086240 n03903868 n02483362 n04127249 n02089973
  n03017168 n02093428 n02804414 n02396427 n04418357 n02172182 n01729322 n02113978 n03787032
  n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029 n03837869
  n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630 n03584829 n02123045
  n04229816 n02100583 n03642806 n04336792 n03259280 n02116738 n02108089 n03424325 n01855672
  n02090622
"""
WNIDS = tuple(_WNIDS.split())


class Imagenet100(tfds.core.GeneratorBasedBuilder):
    """The images of `imagenet2012` whose class is one of `WNIDS`, in its two splits."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'The classes of Contrastive Multiview Coding.'}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='100 classes of ILSVRC 2012, as drawn for Contrastive Multiview Coding.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(encoding_format='jpeg'),
                    'label': tfds.features.ClassLabel(names=WNIDS),
                }
            ),
            supervised_keys=('image', 'label'),
            homepage='https://github.com/HobbitLong/CMC',
            citation='Tian, Krishnan and Isola (2020), arXiv:1906.05849',
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in ('train', 'validation')}

    def _generate_examples(self, split: str):
        imagenet = tfds.builder('imagenet2012', data_dir=self._data_dir_root, try_gcs=False)
        places = {wnid: place for place, wnid in enumerate(WNIDS)}
        labels = [places.get(wnid) for wnid in imagenet.info.features['label'].names]
        encoded = {'image': tfds.decode.SkipDecoding()}
        for index, record in enumerate(imagenet.as_data_source(split, decoders=encoded)):
            label = labels[record['label']]
            if label is not None:
                yield index, {'image': io.BytesIO(record['image']), 'label': label}
