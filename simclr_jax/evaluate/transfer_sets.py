"""The data sets of the linear transfer protocol, and what was published on them.

Splits, classes, counts and measures: BYOL (arXiv 2006.07733), appendix D, table 10, and SimCLR
(arXiv 2002.05709), appendix B.8.1. Names are those of TensorFlow Datasets, which has neither
Birdsnap nor FGVC Aircraft: these are read as folders.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TransferSet:
    """A data set, and how it is used.

    Attributes:
      name: what the flag calls it, and what results call it.
      title: in the papers.
      classes: how many there are.
      metric: a name of `metrics.METRICS`.
      dataset: as TFDS names it; '' where it has none.
      train: its split that is fitted to.
      validation: the split that strengths are chosen on; '' where that is held out of `train`.
      test: the split that is tested.
      counts: pictures of the three in the papers; the second is held out where there is no split.
      several: whether a picture has several labels.
      note: what differs from the papers, or how to make a folder of it.
    """

    name: str
    title: str
    classes: int
    metric: str
    counts: tuple[int, int, int]
    dataset: str = ''
    train: str = 'train'
    validation: str = ''
    test: str = 'test'
    several: bool = False
    note: str = ''

    @property
    def held_out(self) -> float:
        """The share of `train` that is held out where there is no split for validation."""
        train, validation, _ = self.counts
        return validation / (train + validation)


_TOP_1, _PER_CLASS, _AP = 'top_1', 'mean_per_class', 'mean_average_precision_11'

SETS = {
    one.name: one
    for one in (
        TransferSet(
            'food101', 'Food-101', 101, _TOP_1, (68175, 7575, 25250), 'food101', test='validation'
        ),
        TransferSet('cifar10', 'CIFAR-10', 10, _TOP_1, (45000, 5000, 10000), 'cifar10'),
        TransferSet('cifar100', 'CIFAR-100', 100, _TOP_1, (44933, 5067, 10000), 'cifar100'),
        TransferSet(
            'birdsnap',
            'Birdsnap',
            500,
            _TOP_1,
            (42405, 4981, 2443),
            note='a folder train/CLASS, test/CLASS',
        ),
        TransferSet(
            'sun397',
            'SUN397',
            397,
            _TOP_1,
            (15880, 3970, 19850),
            'sun397/standard-part1-120k',
            note='the first of the official partitions',
        ),
        TransferSet('cars196', 'Stanford Cars', 196, _TOP_1, (6494, 1650, 8041), 'cars196'),
        TransferSet(
            'aircraft',
            'FGVC Aircraft',
            100,
            _PER_CLASS,
            (3334, 3333, 3333),
            validation='validation',
            note='a folder train/VARIANT, validation/VARIANT, test/VARIANT',
        ),
        TransferSet(
            'voc2007',
            'VOC 2007',
            20,
            _AP,
            (2501, 2510, 4952),
            'voc/2007',
            validation='validation',
            several=True,
        ),
        TransferSet(
            'dtd',
            'DTD',
            47,
            _TOP_1,
            (1880, 1880, 1880),
            'dtd',
            validation='validation',
            note='the first of the official splits',
        ),
        TransferSet(
            'pets', 'Oxford-IIIT Pets', 37, _PER_CLASS, (2940, 740, 3669), 'oxford_iiit_pet'
        ),
        TransferSet(
            'caltech101',
            'Caltech-101',
            102,
            _PER_CLASS,
            (2550, 510, 6084),
            'caltech101',
            note="30 training pictures a class, of TFDS's draw; its classes count the background",
        ),
        TransferSet(
            'flowers102',
            'Oxford Flowers-102',
            102,
            _PER_CLASS,
            (1020, 1020, 6149),
            'oxford_flowers102',
            validation='validation',
        ),
        TransferSet(
            'imagenet2012',
            'ImageNet',
            1000,
            _TOP_1,
            (1271158, 10009, 50000),
            'imagenet2012',
            test='validation',
        ),
        TransferSet(
            'places365',
            'Places365',
            365,
            _TOP_1,
            (1785426, 18034, 36500),
            'places365_small',
            test='validation',
            note='validation is a hundredth of the training pictures, which the papers leave open',
        ),
    )
}

# Linear transfer of a ResNet-50 that was trained on ImageNet, at 224 pixels, in percent of the
# set's own measure. The last two rows are BYOL's: its training of SimCLR, and with labels.
PUBLISHED_ON = (
    *('food101', 'cifar10', 'cifar100', 'birdsnap', 'sun397', 'cars196', 'aircraft', 'voc2007'),
    *('dtd', 'pets', 'caltech101', 'flowers102'),
)
PUBLISHED = {
    'BYOL': (75.3, 91.3, 78.4, 57.2, 62.2, 67.8, 60.6, 82.5, 75.5, 90.4, 94.2, 96.1),
    'SimCLR': (68.4, 90.6, 71.6, 37.4, 58.8, 50.3, 50.3, 80.5, 74.5, 83.6, 90.3, 91.2),
    'SimCLR, by BYOL': (72.8, 90.5, 74.4, 42.4, 60.6, 49.3, 49.8, 81.4, 75.7, 84.6, 89.3, 92.6),
    'supervised': (72.3, 93.6, 78.3, 53.7, 61.9, 66.7, 61.0, 82.8, 74.9, 91.5, 94.5, 94.7),
}


def find(name: str) -> TransferSet | None:
    """Returns the set that is called so here, or by TFDS; None where it is no set of the papers."""
    return SETS.get(name) or next(
        (one for one in SETS.values() if name and name in (one.dataset, _builder(one))), None
    )


def published(name: str) -> dict[str, float]:
    """Returns the published figures on a set, in percent, by what they are of; {} without any."""
    if name not in PUBLISHED_ON:
        return {}
    return {row: figures[PUBLISHED_ON.index(name)] for row, figures in PUBLISHED.items()}


def same_pictures(one: TransferSet, train: int, test: int) -> bool:
    """Whether there are as many pictures as in the papers, up to one in a thousand.

    Args:
      one: the set.
      train: pictures of training and validation together.
      test: of the test.
    """
    fitted, tested = sum(one.counts[:2]), one.counts[2]
    return abs(train - fitted) <= fitted / 1000 and abs(test - tested) <= tested / 1000


def _builder(one: TransferSet) -> str:
    """TFDS's name without the variant, where no other of the sets has it."""
    return one.dataset.partition('/')[0]
