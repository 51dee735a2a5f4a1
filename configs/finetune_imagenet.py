"""Fine-tuning on 1 %, 10 % or all labels of ImageNet, as published for each method.

    python run.py --config=configs/finetune_imagenet.py:simclr_v2_1pct --mode=finetune \
        --encoder=runs/simclr_v2 --workdir=gs://bucket/run1

Needs ImageNet (configs/simclr_imagenet.py says how), or, for the recipes of 1 % and 10 %, the data
set of these pictures alone, those of the SimCLR repository's lists:
`python -m simclr_jax.data.prepare imagenet2012_subset/1pct`, or `/10pct`. The encoder file decides
on the encoder, which a recipe names for plans alone; it may be another library's (docs/weights.md).

Published top-1 and top-5 of a ResNet-50, or a ViT-B, pretrained by the method's own recipe; none
was run here yet:

    simclr_1pct     48.3  75.5   simclr_10pct     65.6  87.8
    simclr_v2_1pct  57.9         simclr_v2_10pct  68.4         simclr_v2_100pct  76.3
    byol_1pct       53.2  78.4   byol_10pct       68.8  89.0   byol_100pct       77.7  93.9
    barlow_1pct     55.0  79.2   swav_1pct        53.9  78.5   swav_10pct        70.2  89.9
    moco_v3_vit_b   83.2         mae_vit_b        83.6

Where the numbers are from, and what the sources leave open:

* simclr: appendix B.5 of https://arxiv.org/abs/2002.05709: Nesterov's momentum, a rate of
  0.05 x batch / 256, no decay, 60 epochs of 1 % and 30 of 10 %. That the rate falls along a cosine
  is its code's, and not said there.
* simclr_v2: the README's command for 1 % (google-research/simclr at 383d414): LARS that leaves out
  the classifier, 0.005 x sqrt(batch), the head's first layer kept. Of 10 % and 100 % the paper,
  https://arxiv.org/abs/2006.10029, says 30 epochs, and the head's input for 100 %; what else they
  have here is the command's, so these two are less certain.
* byol: appendix C.1 of https://arxiv.org/abs/2006.07733, which chose a rate out of five, and 30 or
  50 epochs, on 10,009 training pictures. Here `finetune.learning_rates` are the five, chosen on a
  tenth of the labels (of all labels, on as many pictures as there); 50 epochs are the default, and
  `--config.epochs=30` is to be tried by hand.
* vicreg: README and `evaluate.py` (facebookresearch/vicreg at 4e12602). Batch statistics there are
  those of a GPU's part of the batch, of an unknown size; here, and for barlow, of the whole batch.
* barlow: appendix B.2 of https://arxiv.org/abs/2103.03230. The README's command has a cosine and,
  by its date, 0.002 or 0.005 for the encoder.
* swav: README and `eval_semisup.py` (facebookresearch/swav at 06b1b7c). Its standard deviation of
  red, 0.228, is taken for a slip: here it is 0.229. Its classifier starts as PyTorch's layers do,
  uniform with a standard deviation of 0.0128; here it is normal, and 0.01.
* moco_v3_vit_b: 150 epochs of DeiT's defaults (https://arxiv.org/abs/2104.02057); these are of
  facebookresearch/deit, `main.py`, for its 16 GPUs. What is not here: three views of each picture
  in a batch, positions that are trained, rates that change once an epoch, a first rate of 1e-6.
* mae_vit_b: `FINETUNE.md` and `main_finetune.py` (facebookresearch/mae at efb2a80): 83.57 +- 0.08
  over four runs, each 7 hours on 32 V100.

Arithmetic is bfloat16; `--config.model.dtype=float32` is that of the ResNets' originals. Other ways
to use the labels are not run beside, and probabilities are not calibrated, since each takes as long
again: `finetune.compare` and `finetune.calibrate`.
"""

import dataclasses

from simclr_jax.augment.mixing_recipe import MAE_MIXING
from simclr_jax.augment.recipe import CROP_AND_FLIP, MAE_FINETUNE, PIL
from simclr_jax.config import default, set_views

_FEW = {'1pct': 'imagenet2012_subset/1pct', '10pct': 'imagenet2012_subset/10pct'}
# preset of SGD -> scaling of the rate, batch, epochs, the rate, that of the classifier (0: alike)
_SGD = {
    'simclr_1pct': ('linear', 4096, 60.0, 0.05, 0.0),
    'simclr_10pct': ('linear', 4096, 30.0, 0.05, 0.0),
    'byol_1pct': ('none', 1024, 50.0, 0.02, 0.0),
    'byol_10pct': ('none', 1024, 50.0, 0.02, 0.0),
    'byol_100pct': ('none', 1024, 50.0, 0.02, 0.0),
    'vicreg_1pct': ('none', 256, 20.0, 0.03, 0.08),
    'vicreg_10pct': ('none', 256, 20.0, 0.01, 0.1),
    'barlow_1pct': ('none', 256, 20.0, 0.002, 0.5),
    'swav_1pct': ('none', 256, 20.0, 0.02, 5.0),
    'swav_10pct': ('none', 256, 20.0, 0.01, 0.2),
}
_SIMCLR_V2 = {  # preset -> epochs, layers of the head that are kept
    'simclr_v2_1pct': (60.0, 1),
    'simclr_v2_10pct': (30.0, 1),
    'simclr_v2_100pct': (30.0, 0),
}
_VITS = {  # preset -> epochs, rate x batch / 256, rate at the end
    'moco_v3_vit_b': (150.0, 2.5e-4, 1e-5),
    'mae_vit_b': (100.0, 5e-4, 1e-6),
}
PRESETS = (*_SIMCLR_V2, *_SGD, *_VITS)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def get_config(preset='simclr_v2_1pct'):
    method, _, labels = preset.rpartition('_')
    config = default()
    config.method = 'finetune'
    config.data.dataset = _FEW.get(labels, 'imagenet2012')
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.drop_remainder = False
    config.eval.batch_size = 1024
    config.model.encoder = 'resnet50'
    config.model.dtype = 'bfloat16'
    config.finetune.compare = ()
    config.finetune.calibrate = False
    config.finetune.calibrate = False  # as published; it takes as long again
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    if preset in _SIMCLR_V2:
        _simclr_v2(config, *_SIMCLR_V2[preset])
    elif preset in _SGD:
        _sgd(config, method, *_SGD[preset])
    else:
        _vit(config, preset, *_VITS[preset])
    return config


def _simclr_v2(config, epochs, head_layers):
    config.batch_size = 1024
    config.epochs = epochs
    set_views(config, CROP_AND_FLIP)
    config.model.padding = 'simclr'
    config.finetune.head_layers = head_layers
    config.optimizer.learning_rate = 0.005
    config.optimizer.learning_rate_scaling = 'sqrt'


def _sgd(config, method, scaling, batch_size, epochs, rate, head_rate):
    config.batch_size = batch_size
    config.epochs = epochs
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = rate
    config.optimizer.learning_rate_scaling = scaling
    config.finetune.head_learning_rate = head_rate
    if method == 'simclr':
        set_views(config, CROP_AND_FLIP)
        config.model.padding = 'simclr'
        config.optimizer.nesterov = True
        return
    config.data.mean, config.data.std = _MEAN, _STD
    if method == 'byol':
        set_views(config, dataclasses.replace(CROP_AND_FLIP, crop_sampler='byol'))
        config.model.padding = 'same'
        config.optimizer.nesterov = True
        config.finetune.learning_rates = (0.01, 0.02, 0.05, 0.1, 0.005)
        of_all = config.data.dataset == 'imagenet2012'
        config.finetune.held_out = 10_009 / 1_281_167 if of_all else 0.1
        return
    _as_torchvision(config)
    config.finetune.head_init = 'normal'
    if method == 'vicreg':
        config.optimizer.by_epoch = True
    else:
        config.optimizer.schedule = 'steps'
        config.optimizer.decay_epochs = (12.0, 16.0)
        config.optimizer.decay_factor = 0.2


def _as_torchvision(config):
    """`RandomResizedCrop` and a flip; `Resize(256)` and `CenterCrop(224)` to be tested."""
    fields = {'crop_sampler': 'torchvision', 'interpolation': 'bilinear', **PIL}
    set_views(config, dataclasses.replace(CROP_AND_FLIP, **fields))
    config.data.eval_interpolation = 'bilinear'
    config.data.eval_antialias = True


def _vit(config, preset, epochs, rate, end):
    config.batch_size = 1024
    config.epochs = epochs
    config.data.drop_remainder = True
    config.data.mean, config.data.std = _MEAN, _STD
    config.data.eval_antialias = True
    set_views(config, MAE_FINETUNE)
    config.augment.mixing.update(dataclasses.asdict(MAE_MIXING))
    config.model.encoder = 'vit_b16'
    config.finetune.drop_path = 0.1
    config.finetune.label_smoothing = 0.1
    config.finetune.head_init = 'timm'
    config.optimizer.name = 'adamw'
    config.optimizer.learning_rate = rate
    config.optimizer.min_learning_rate = end
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 0.05
    if preset == 'mae_vit_b':
        config.finetune.pooling = 'patches'
        config.finetune.head_init = 'trunc_normal'
        config.finetune.layer_decay = 0.65
