"""SimCLR v2's third step on ImageNet: a student learns from a fine-tuned teacher, without labels.

    python run.py --config=configs/distill_imagenet.py:r50_1x --mode=distill \
        --teacher=runs/finetuned --encoder=scratch --workdir=gs://bucket/run1

Needs ImageNet (configs/simclr_imagenet.py says how); its labels are for the test alone. The teacher
is what configs/finetune_imagenet.py:simclr_v2_1pct or simclr_v2_10pct has made.

Paper: Chen et al. 2020, https://arxiv.org/abs/2006.10029, section 3: LARS, 400 epochs of crops and
flips, no labels; a temperature of 1.0 where the teacher is larger, and of 0.1 where it has the
student's architecture (`self_...`). Decay, momentum, cosine and the loss are also those of its
notebook, `colabs/distillation_self_training.ipynb` (google-research/simclr at 383d414). Batch, rate
and warm-up are here those of pretraining, configs/simclr_v2_imagenet.py. How the student starts is
not said; `--encoder=runs/simclr_v2` starts it from a pretrained encoder.

Published top-1 of a ResNet-50 (the paper's abstract), whose teacher is larger: 73.9 % with 1 % of
the labels, 77.5 % with 10 %, where fine-tuning alone has 57.9 and 68.4 %. Not run here yet.
"""

from simclr_jax.augment.recipe import CROP_AND_FLIP
from simclr_jax.config import default, set_views

PRESETS = {  # -> encoder, width multiplier, ratio of the selective kernels, temperature
    'r50_1x': ('resnet50', 1, 0.0, 1.0),
    'r50_1x_sk': ('resnet50', 1, 0.0625, 1.0),
    'r50_2x_sk': ('resnet50', 2, 0.0625, 1.0),
    'self_r50_1x': ('resnet50', 1, 0.0, 0.1),
    'self_r50_2x_sk': ('resnet50', 2, 0.0625, 0.1),
    'self_r152_3x_sk': ('resnet152', 3, 0.0625, 0.1),
}


def get_config(preset='r50_1x'):
    encoder, width, sk_ratio, temperature = PRESETS[preset]
    config = default()
    config.method = 'distill'
    config.batch_size = 4096
    config.epochs = 400.0
    config.data.dataset = 'imagenet2012'
    config.data.drop_remainder = False
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    set_views(config, CROP_AND_FLIP)
    config.model.encoder = encoder
    config.model.width = width
    config.model.sk_ratio = sk_ratio
    config.model.padding = 'simclr'
    config.finetune.head_init = 'normal'
    config.distill.temperature = temperature
    config.optimizer.learning_rate = 0.1
    config.optimizer.learning_rate_scaling = 'sqrt'
    config.optimizer.warmup_epochs = 20.0
    config.optimizer.weight_decay = 1e-4
    config.eval.batch_size = 1024
    return config
