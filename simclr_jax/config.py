"""Every field of a run, once, with its meaning.

A recipe in `configs/` starts from `default()` and changes numbers; `config_loading.py` reads it and
`config_checks.py` says which values are possible. None of them imports JAX or TensorFlow.
"""

import dataclasses
import difflib
import json
import math
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.augment.mixing_recipe import Mixing
from simclr_jax.augment.recipe import PRESETS, ViewRecipe

METHODS = ('simclr', 'byol', 'moco', 'moco_v3')  # without labels
FINETUNE = 'finetune'  # the method of a run that learns from labels
DISTILL = 'distill'  # of one that learns from another classifier
CLASSIFIERS = (FINETUNE, DISTILL)  # methods that train a classifier
SEGMENT = 'segment'  # the method of a run that learns what is at each pixel
ONE_VIEW = (*CLASSIFIERS, SEGMENT)  # methods that see one view a picture
SCRATCH = 'scratch'  # in place of weights to start from: random ones
COMPARED = ('linear', 'knn', SCRATCH)  # other ways to use labels, beside fine-tuning
PROBES = {'linear_eval': 'linear', 'knn': 'k-NN'}  # functions of modes/probes.py: name in tables
LINEAR_PROTOCOLS = ('fast', 'simclr', 'simclr_cifar', 'byol', 'moco_v2', 'moco_v3')
RESNETS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'resnet200', 'resnet_tiny')
VITS = {'vit_ti16': 192, 'vit_s16': 384, 'vit_b16': 768, 'vit_l16': 1024}  # name: width
ENCODERS = (*RESNETS, *VITS)
# What an encoder to start from decides: its architecture, and how pixels are normalized.
ARCHITECTURE_FIELDS = (
    *('model.encoder', 'model.stem', 'model.padding', 'model.width', 'model.sk_ratio'),
    *('model.pooling', 'model.num_heads', 'model.patch_size', 'model.positions', 'model.epsilon'),
)
START_FIELDS = (*ARCHITECTURE_FIELDS, 'data.mean', 'data.std')
SMALL_IMAGE = 32  # pixels; up to this size model.stem='auto' is 'small'
# What `config.auto` can list.
AUTO_FIELDS = ('batch_size', 'data.image_size', 'model.encoder', 'model.dtype', 'augment.dtype')


class ConfigError(ValueError):
    """One or more problems of a config: a line each, with the field, the value and the fix."""


class RunError(RuntimeError):
    """Why a run cannot go on, and the fix: a line, and indented ones with details."""


def default() -> ConfigDict:
    """Returns the defaults: SimCLR with a ResNet-18 on CIFAR-10."""
    config = ConfigDict()
    config.seed = 0  # of data order, augmentation and initialization
    # Fields that are chosen by what the machine has, where they are not given: config_auto.py.
    config.auto = ()
    # One of METHODS, 'finetune', 'distill' or 'segment'; its own fields are in the section of that
    # name.
    config.method = 'simclr'
    # Images a step over all devices; each gives two views, or one where a classifier is trained.
    config.batch_size = 256
    config.epochs = 100.0  # passes over the training split

    config.data = ConfigDict()
    config.data.dataset = 'cifar10'  # a prepared TFDS builder, 'digits' or 'folder'
    config.data.path = ''  # the folder of pictures, where the dataset is 'folder'
    # A table of its pictures' labels, .csv, .tsv or .parquet: file, label and, maybe, split. Where
    # there is none, sub-folders may be classes.
    config.data.labels = ''
    config.data.several_labels = False  # whether a picture may have several in a table
    config.data.max_bad_fraction = 0.01  # largest tolerated share of unreadable files
    config.data.data_dir = (
        ''  # where TFDS keeps data; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
    )
    # TFDS split, slices allowed: 'train[:90%]'. A folder has 'train', 'test' (a tenth) and 'all'.
    config.data.train_split = 'train'  # what is pretrained on; eval has what the probes see
    # An epoch ends with its last whole batch; False: batches run on over its end, as in tf.data.
    config.data.drop_remainder = True
    config.data.image_size = 32  # pixels, height and width of a view
    config.data.eval_crop = 1.0  # share of the shorter side in the centre that evaluation sees
    # How evaluation makes pictures smaller; 'bilinear' with antialiasing is torchvision's Resize.
    config.data.eval_interpolation = 'bicubic'  # or 'bilinear'
    config.data.eval_antialias = False  # averages over all pixels of what is made smaller
    config.data.mean = (0.0,)  # subtracted from pixels in [0, 1]; one number, or one a channel
    config.data.std = (1.0,)  # divides them
    config.data.workers = 0  # parallel calls of the input pipeline; 0 leaves it to tf.data

    # 'device': the data set lives in the accelerator's memory; needs augment.backend='jax'
    config.data.cache = 'none'
    # Side of the square that the 'jax' backend decodes pictures of different sizes into, in pixels;
    # 0: what the views need (`canvas_side`). It is at most that of a folder's largest picture.
    config.data.canvas = 0

    config.augment = ConfigDict()
    config.augment.backend = 'tf'  # views are made on the host; 'jax': inside the train step
    config.augment.dtype = 'float32'  # or 'bfloat16': of the 'jax' backend's resizing and blurring
    set_views(config, *PRESETS['simclr'])
    # Mixup and cutmix, where labels are learned from: the fields of augment/mixing_recipe.py.
    config.augment.mixing = ConfigDict(dataclasses.asdict(Mixing()))

    config.model = ConfigDict()
    config.model.encoder = 'resnet18'  # one of ENCODERS
    config.model.stem = (
        'auto'  # 'imagenet' 7x7/2 and pooling, 'small' 3x3; 'auto': small up to 32 px
    )
    # Padding, initial kernels and first shortcuts as in 'torch'vision, 'simclr', or BYOL ('same').
    config.model.padding = 'torch'
    config.model.zero_init_last_scale = True  # the last scale of each residual block starts at 0
    config.model.width = 1  # multiplies the filters of a ResNet; published: 1, 2 and 4
    config.model.sk_ratio = 0.0  # selective kernels and ResNet-D; 0.0625 in SimCLR v2, 0 without
    config.model.norm_scope = (
        'global'  # batch statistics over the global batch, 'groups' of rows, or each 'device'
    )
    config.model.norm_group_size = 32  # rows a group of 'groups'; SimCLR's count both views
    # Of a ViT: the class 'token'; the 'mean' of the patches, without such a token; of the 'patches'
    # beside it, and then a LayerNorm.
    config.model.pooling = 'token'
    config.model.num_heads = 0  # of a ViT; 0: 3, 12, 12 and 16 from Ti to L. timm's ViT-S has 6
    config.model.patch_size = 16  # of a ViT, in pixels
    config.model.positions = 'sincos'  # of a ViT: fixed, or 'learned' for one picture size
    config.model.epsilon = 1e-6  # of a ViT's LayerNorm
    config.model.freeze_patch_projection = True  # a ViT's stays random, as MoCo v3 has it
    config.model.remat = 'none'  # recompute activations: 'blocks', or 'full' for the least memory
    config.model.dtype = 'float32'  # of the encoder's and heads' arithmetic: or 'bfloat16'

    # What the encoder goes on from. Its architecture and its normalization of pixels come with it:
    # START_FIELDS are set from the file, unless they are given on the command line.
    config.start = ConfigDict()
    # An encoder file, a workdir, other weights; '': it starts at random, which has to be called
    # 'scratch' where it is to be fine-tuned.
    config.start.encoder = ''
    config.start.checksum = ''  # of what it held when the run began, which writes it here
    config.start.given = ()  # those of START_FIELDS that it does not set: the command line's

    config.simclr = ConfigDict()
    config.simclr.temperature = 0.1  # of NT-Xent, above 0
    config.simclr.num_layers = 2  # of the projection head: 2 in v1, 3 in v2
    config.simclr.hidden_dim = 512  # of the projection head; the paper's is the encoder's width
    config.simclr.output_dim = 128
    config.simclr.loss_impl = 'auto'  # 'dense', 'tiled' (never the whole matrix); 'auto': by size
    config.simclr.loss_scale = 1.0  # 2.0 is the original code's sum of both views' mean losses
    config.simclr.eval_layer = 0  # evaluation reads the encoder; n: the head's n-th layer, 1 in v2

    config.byol = ConfigDict()
    config.byol.hidden_dim = 4096  # of projector and predictor
    config.byol.output_dim = 256
    config.byol.base_decay = 0.996  # of the target's moving average; rises to 1 along a cosine

    config.moco = ConfigDict()
    config.moco.queue_size = 65536  # earlier keys to compare with; a multiple of batch_size
    config.moco.temperature = 0.2  # of InfoNCE, above 0; 0.07 in v1
    config.moco.decay = 0.999  # of the key network's moving average
    config.moco.num_layers = 2  # of the projection head: 1 in v1, 2 in v2
    config.moco.hidden_dim = 2048  # of the projection head; the paper's is the encoder's width
    config.moco.output_dim = 128
    config.moco.shuffle = False  # keys, before their batch statistics; needs a norm_scope

    config.moco_v3 = ConfigDict()
    config.moco_v3.temperature = 1.0  # of InfoNCE, above 0
    config.moco_v3.hidden_dim = 4096  # of projector and predictor
    config.moco_v3.output_dim = 256
    config.moco_v3.base_decay = 0.99  # of the keys' moving average; rises to 1 along a cosine
    config.moco_v3.num_layers = 2  # of the projector: 2 behind a ResNet, 3 behind a ViT
    config.moco_v3.predictor_norm = False  # a last batch normalization: behind a ViT

    # Fine-tuning: an encoder with a classifier learns from labels. The views are augment.view1's.
    config.finetune = ConfigDict()
    # 'all'; 'head': the classifier alone; 'block3': of a ViT the third block, of a ResNet the third
    # stage, what follows it, and the classifier. SimCLR's fine_tune_after_block=2 is 'block3'.
    config.finetune.trained = 'all'
    # Batch normalization before the first block that is trained: 'running' averages, which stay as
    # they are, or those of the 'batch', as in SimCLR.
    config.finetune.frozen_norm = 'running'
    config.finetune.head_layers = 0  # of the projection head that are kept; 1 in SimCLR v2
    # The classifier's; 'normal': N(0, 0.01), 'timm': N(0, 0.02), 'trunc_normal': N(0, 2e-5), MAE's;
    # 'linear': solved on the features of the encoder that the run starts from ('zero' of a random
    # one), so that training begins where linear evaluation ends.
    config.finetune.head_init = 'zero'
    # Of a ViT's outputs: its 'own', or the mean of the 'patches' and a new LayerNorm, as in MAE, in
    # place of the class token and the last LayerNorm.
    config.finetune.pooling = 'own'
    # Of the classifier, scaled as optimizer.learning_rate, that of the encoder; 0: the same.
    config.finetune.head_learning_rate = 0.0
    # To choose from, as these two: the best ones on held-out labels of the run; () for no choice.
    config.finetune.learning_rates = ()
    config.finetune.head_learning_rates = ()
    config.finetune.held_out = 0.2  # share of each class's labels that the choice is made by
    # Whether probabilities are calibrated: that takes one more training, before, on the labels that
    # are not held out; the others give the temperature.
    config.finetune.calibrate = True
    config.finetune.layer_decay = 1.0  # each block's rate, as a share of that of the block after it
    config.finetune.drop_path = 0.0  # of a ViT's last block; falls to 0 at the first one
    config.finetune.label_smoothing = 0.0
    # 'all'; a share of each class, as '0.1'; a number a class, as '10'; or a file that lists the
    # names of the pictures, one a line, as SimCLR's 1percent.txt.
    config.finetune.labels = 'all'
    config.finetune.draw = 0  # which of the random choices of so many labels
    # Steps of the run at least, where few labels would make it short; its epochs then are longer.
    config.finetune.min_steps = 0
    # What a run ends with: the same labels, and fewer, used in this way and in others.
    config.finetune.compare = COMPARED  # () for no comparison
    config.finetune.labels_per_class = (10, 1)  # beside all labels of the run
    # Of 'scratch', as optimizer.learning_rate, which is chosen for a pretrained encoder; 0: that.
    config.finetune.scratch_learning_rate = 0.0
    config.finetune.draws = 5  # random choices of so few, for mean and standard deviation

    # Distillation: a student learns what a teacher says of pictures, which need no labels. What of
    # it is trained, its head and its labels are those of `finetune`; the views are augment.view1's.
    config.distill = ConfigDict()
    config.distill.teacher = ''  # a classifier's file, or a workdir with one
    config.distill.checksum = ''  # of what it held when the run began, which writes it here
    # Divides the logits of both; above 0. SimCLR v2 has 0.1 where the teacher has the student's
    # architecture, and 1.0 where it is larger.
    config.distill.temperature = 1.0
    # Share of the loss that is the teacher's, in (0, 1]; the rest is that of finetune.labels.
    config.distill.alpha = 1.0
    # Whether the run ends with the same training of the same student on finetune.labels alone.
    config.distill.labels_alone = False

    # Segmentation: what is at each pixel, from pictures with masks. data.path has folders train/,
    # val/, test/, each with images/ and masks/; or data.labels is a table of file and mask.
    # data.image_size is the side of the crops, and of the windows that test pictures are seen in.
    config.segment = ConfigDict()
    # 'probes': linear classifiers of each place of frozen maps, DINOv2's with batch normalization
    # and STEGO's without; 'all': the encoder and BYOL's small convolutional head.
    config.segment.trained = 'probes'
    config.segment.layers = 1  # of the encoder, the last ones, whose maps are concatenated
    # Of a ResNet, the last stages that keep the size of their maps: 1 has a stride of 16 pixels, 2
    # one of 8, in place of 32.
    config.segment.dilated = 0
    config.segment.ignore = (255,)  # values of masks that are no class
    config.segment.names = ()  # of the classes, in the order of their values; () reads classes.txt
    # Of the shorter side, in pixels, before a crop or windows are taken; 0 leaves pictures as large
    # as they are.
    config.segment.resize = 0
    config.segment.scale = (0.5, 2.0)  # of a crop's picture, at random
    config.segment.flip = True
    config.segment.distort = True  # brightness, contrast, saturation and hue at random
    # The largest share of a crop's labelled pixels that one class may have. A crop with more is
    # drawn again, up to ten times; 1 takes every crop.
    config.segment.most_of_one = 0.75
    config.segment.step = 0  # pixels from a window to the next; 0: two thirds of its side
    config.segment.plain_learning_rate = 5e-3  # Adam's, of STEGO's probe; the other has `optimizer`
    config.segment.baselines = True  # also probes of the untrained encoder and of raw pixels
    # Places of training pictures that retrieval compares with; 0: no retrieval.
    config.segment.memory = 102_400
    config.segment.neighbours = 30  # of a place, in retrieval
    config.segment.temperature = 0.02  # of a neighbour's weight exp(similarity / temperature)

    config.optimizer = ConfigDict()
    config.optimizer.name = 'lars'  # 'lars', 'sgd' or 'adamw'
    config.optimizer.learning_rate = 0.3  # before scaling
    config.optimizer.learning_rate_scaling = (
        'linear'  # x batch / 256; 'sqrt': x sqrt(batch); 'none'
    )
    config.optimizer.warmup_epochs = 10.0  # from 0: linear, with 'one_cycle' half a cosine
    # 'cosine' falls to min_learning_rate, 'one_cycle' and 'linear' to 0; 'steps': x decay_factor at
    # decay_epochs
    config.optimizer.schedule = 'cosine'
    config.optimizer.decay_epochs = ()  # 'steps', such as (120.0, 160.0)
    config.optimizer.decay_factor = 0.1  # 'steps'
    config.optimizer.min_learning_rate = 0.0  # 'cosine'; it is not scaled
    # The rate changes between epochs alone, as in many of PyTorch's scripts; without a warm-up.
    config.optimizer.by_epoch = False
    config.optimizer.weight_decay = 1e-6
    config.optimizer.momentum = 0.9  # 'lars' and 'sgd'
    config.optimizer.nesterov = False  # 'sgd'
    config.optimizer.trust_coefficient = 1e-3  # 'lars'
    config.optimizer.rate_inside_momentum = True  # 'lars': True as SimCLR, False as BYOL
    config.optimizer.b1 = 0.9  # 'adamw'
    config.optimizer.b2 = 0.999  # 'adamw'
    config.optimizer.accumulation_steps = 1  # micro-batches of a step; all negatives are kept
    config.optimizer.exclude_bias_and_norm = True  # from weight decay and from LARS' adaptation

    config.probe = ConfigDict()
    config.probe.learning_rate = 1e-2  # Adam's, of the online linear probe; 0 turns the probe off

    config.log = ConfigDict()
    config.log.every_steps = 50  # steps between two lines of metrics
    config.log.every_seconds = 30.0  # at most between two lines, where a step is over; 0: no limit
    config.log.tensorboard = True

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.every_minutes = 10.0  # also, about so often; 0: by steps alone
    config.checkpoint.keep = 3  # the last few that stay on disk

    config.health = ConfigDict()
    config.health.on_nonfinite = 'stop'  # or 'skip': leave out up to max_skips updates
    config.health.max_skips = 10
    config.health.loss_band = 3.0  # stop where the loss is this many times the first; 0 is never
    config.health.min_std = 0.1  # of the normalized embedding, 1 where uniform; below: collapse
    config.health.min_rank = 2.0  # effective rank of the embedding; below: collapse
    config.health.patience = 0.03  # how long below, as a share of all steps, before the alarm
    config.health.on_collapse = 'warn'  # or 'stop'
    config.health.on_memory = 'stop'  # before the first step, where it will not fit; 'warn': try it

    config.eval = ConfigDict()
    # What the probes are trained and tested on. Pictures of the test split are never among those
    # of the training split: where the two overlap, they are taken out of the latter.
    config.eval.dataset = ''  # '' is data.dataset; else a prepared TFDS builder, or 'folder'
    config.eval.path = ''  # another folder of pictures, with labels
    config.eval.labels = ''  # a table of the labels of its pictures, or others of data.path's
    config.eval.train_split = ''  # '' is data.train_split if it has labels, 'train' of a folder
    config.eval.test_split = ''  # '' is 'test', or 'validation' where 'test' has no labels
    config.eval.after_pretrain = tuple(PROBES)  # what pretraining ends with; () for none
    config.eval.batch_size = 512  # images a batch of feature extraction
    config.eval.baselines = True  # also the untrained encoder and raw pixels

    config.linear_eval = ConfigDict()
    config.linear_eval.protocol = 'fast'  # regression on features; a paper's: evaluate/published.py
    config.linear_eval.epochs = 0.0  # of a paper's protocol; 0 is its own number
    config.linear_eval.batch_size = 0  # likewise
    config.linear_eval.learning_rates = ()  # likewise, before scaling; () are its own
    config.linear_eval.labels_per_class = (10, 1)  # beside all labels
    config.linear_eval.draws = 5  # random subsets, for mean and standard deviation

    config.knn = ConfigDict()
    config.knn.k = 20  # neighbours
    config.knn.temperature = 0.07  # of a neighbour's weight exp(similarity / temperature)
    config.knn.labels_per_class = (10, 1)
    config.knn.draws = 5
    return config


def canvas_side(config: ConfigDict) -> int:
    """Returns `data.canvas`, or what the views need where it is 0, in pixels.

    Of a square picture that fills it about four of five random crops, or more, are then not
    enlarged. It is 512 for SimCLR's crops, of 8 % of the area or more, and 224 pixels.
    """
    if config.data.canvas:
        return config.data.canvas
    least = min(recipe.crop_area[0] for recipe in view_recipes(config))
    side = config.data.image_size / math.sqrt(least + (1 - least) / 8)
    return 32 * math.ceil(side / 32)


def set_views(config: ConfigDict, view1: ViewRecipe, view2: ViewRecipe | None = None) -> None:
    """Writes both views' recipes into `config.augment`; without `view2` both are `view1`."""
    config.augment.view1 = ConfigDict(dataclasses.asdict(view1))
    config.augment.view2 = ConfigDict(dataclasses.asdict(view2 or view1))


def view_recipes(config: ConfigDict) -> tuple[ViewRecipe, ...]:
    """Returns the recipe of each view: of two, or of one where the method sees one.

    Raises:
      ConfigError: a parameter is out of its range.
    """
    recipes = []
    for view in ('view1',) if config.method in ONE_VIEW else ('view1', 'view2'):
        try:
            recipes.append(ViewRecipe(**config.augment[view].to_dict()))
        except ValueError as error:
            raise ConfigError(f'augment.{view}.{error}') from error
    return tuple(recipes)


def pooling(config: ConfigDict) -> str:
    """Returns how a ViT's outputs become features: as fine-tuning wants, else as `model` says."""
    wanted = config.finetune.pooling
    return config.model.pooling if config.method not in CLASSIFIERS or wanted == 'own' else wanted


def first_trained(trained: str) -> int:
    """Returns k of `finetune.trained='blockk'`, and 0 of 'all' and 'head'.

    Raises:
      ValueError: it is none of these.
    """
    if trained in ('all', 'head'):
        return 0
    digits = trained.removeprefix('block')
    if not (digits.isdecimal() and trained.startswith('block') and int(digits)):
        raise ValueError("must be 'all', 'head', or the first block that is trained, as 'block3'")
    return int(digits)


def labels_wanted(text: str) -> int | float | str:
    """Returns what `finetune.labels` says: 'all', a share, a number a class, or a file's name.

    Raises:
      ValueError: it is none of these.
    """
    if text == 'all' or text.endswith('.txt'):
        return text
    try:
        number = int(text) if text.isdecimal() else float(text)
    except ValueError:
        number = 0
    if (isinstance(number, int) and number > 0) or 0 < number < 1:
        return number
    raise ValueError(
        "must be 'all', a share of each class, as 0.1, a whole number a class, as 10, or a file "
        'that ends in .txt and lists pictures'
    )


def mixing_recipe(config: ConfigDict) -> Mixing:
    """Returns how pictures and their labels are mixed with each other.

    Raises:
      ConfigError: a parameter is out of its range, or nothing learns from the labels.
    """
    try:
        mixing = Mixing(**config.augment.mixing.to_dict())
    except ValueError as error:
        raise ConfigError(f'augment.mixing.{error}') from error
    if mixing.mixes and config.method != 'finetune':
        name = 'mixup_alpha' if mixing.mixup_alpha else 'cutmix_alpha'
        raise ConfigError(
            f'augment.mixing.{name}={getattr(mixing, name)}: mixes the labels of pictures, and '
            f'method={config.method!r} learns from none; leave it at 0'
        )
    return mixing


@dataclasses.dataclass(frozen=True)
class Length:
    """A run's length in steps."""

    steps_per_epoch: float  # whole where an epoch ends with its last whole batch
    total_steps: int

    def epoch(self, step: int) -> float:
        return step / self.steps_per_epoch


def resolve_length(config: ConfigDict, num_examples: int) -> Length:
    """Turns epochs into steps for a training split of `num_examples`.

    Where batches run on over the end of an epoch, the run has epochs x examples / batch steps,
    rounded down, as in BYOL (`configs/byol.py`); the original SimCLR adds one.

    Where labels are learned from, there are `finetune.min_steps` or more: an epoch is longer where
    it takes that. A batch may then be larger than the split, if batches run on.

    Raises:
      ConfigError: a batch is larger than the training split.
    """
    supervised = config.method in (FINETUNE, SEGMENT)
    if config.batch_size > num_examples and (config.data.drop_remainder or not supervised):
        raise ConfigError(
            f'batch_size={config.batch_size}: data.train_split={config.data.train_split!r} of '
            f'{config.data.dataset} has only {num_examples} examples; use at most that many'
        )
    if config.data.drop_remainder:
        steps_per_epoch = num_examples // config.batch_size
        total_steps = round(config.epochs * steps_per_epoch)
    else:
        steps_per_epoch = num_examples / config.batch_size
        # Rounded down, but not from 28.999999999999996.
        total_steps = math.floor(round(config.epochs * steps_per_epoch, 6))
    if config.method == FINETUNE and total_steps < config.finetune.min_steps:
        total_steps = config.finetune.min_steps
        steps_per_epoch = total_steps / config.epochs
    return Length(steps_per_epoch, max(1, total_steps))


def flatten(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
    """Returns `{dotted field: value}`."""
    fields = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            fields |= flatten(value, f'{prefix}{name}.')
        else:
            fields[prefix + name] = value
    return fields


def as_flags(fields: dict[str, Any]) -> str:
    """Returns `{dotted field: value}` as it is given on the command line."""
    return ' '.join(f'--config.{name}={value}' for name, value in fields.items())


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON, a field a line; what a workdir remembers of its run."""
    return json.dumps(flatten(config), indent=1)


_ALSO_CALLED = {'lr': 'learning_rate', 'base_lr': 'learning_rate', 'wd': 'weight_decay'}


def did_you_mean(word: str, candidates) -> str:
    """Returns `'; did you mean ...?'` for the nearest of `candidates`, or nothing."""
    candidates = [str(c) for c in candidates]
    section, dot, last = word.rpartition('.')
    last = _ALSO_CALLED.get(last, last)
    word = section + dot + last
    elsewhere = [c for c in candidates if c.rpartition('.')[2] == last]  # in another section
    # A section, or the rest of a file's name, tells them apart; else the first is the likeliest.
    close = difflib.get_close_matches(word, elsewhere, 1, 0.0) if '.' in word else elsewhere
    close = close or difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if not close:
        lasts = {c.rpartition('.')[2]: c for c in reversed(candidates)}
        close = [lasts[name] for name in difflib.get_close_matches(last, lasts, n=1)]
    return f'; did you mean {close[0]}?' if close else ''
