"""SimCLR v2 on ImageNet (google-research/simclr, README's table of models).

    python run.py --config=configs/simclr_v2_imagenet.py:r50_1x --workdir=gs://bucket/run1

Needs ImageNet: its two archives in the `downloads/manual` folder of the TFDS data directory, then
`python -m simclr_jax.data.prepare imagenet2012`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2006.10029. 800 epochs of batch 4096 on 128 TPU
cores; hours are not published. A projection head of three layers; selective kernels come with
ResNet-D. Rate and warm-up are the paper's, 0.1 x sqrt(batch) after 5 % of the epochs; the
temperature is the code's default.

Evaluation sees the encoder, the code's default (`--ft_proj_selector=0`) and the paper's choice
where all labels are used. With few labels, fine-tuning starts from the first layer of the head
(`--ft_proj_selector=1` in the README's command): `--config.simclr.eval_layer=1` shows it to the
probes.

Published top-1, linear, and fine-tuned on 1 % and 10 % of the labels; not run here yet. They are of
the paper's queue of negatives, which is not in its code, and not here: without it the author had
71.1 instead of 71.7 (google-research/simclr issue 77).

    r50_1x      71.7   57.9   68.4     (the default)
    r50_1x_sk   74.6   64.5   72.1
    r50_2x_sk   77.7   70.6   77.0
    r101_2x_sk  79.0   73.2   78.8
    r152_3x_sk  79.8   74.9   80.1
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views

# preset -> encoder, width multiplier, ratio of the selective kernels
PRESETS = {
    'r50_1x': ('resnet50', 1, 0.0),
    'r50_1x_sk': ('resnet50', 1, 0.0625),
    'r50_2x_sk': ('resnet50', 2, 0.0625),
    'r101_2x_sk': ('resnet101', 2, 0.0625),
    'r152_3x_sk': ('resnet152', 3, 0.0625),
}


def get_config(preset='r50_1x'):
    encoder, width, sk_ratio = PRESETS[preset]
    config = default()
    config.batch_size = 4096
    config.epochs = 800.0
    config.data.dataset = 'imagenet2012'
    config.data.drop_remainder = False
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    set_views(config, *VIEW_PRESETS['simclr'])
    config.model.encoder = encoder
    config.model.width = width
    config.model.sk_ratio = sk_ratio
    config.model.padding = 'simclr'
    config.simclr.temperature = 0.1
    config.simclr.num_layers = 3
    config.simclr.hidden_dim = 2048 * width
    config.simclr.eval_layer = 0
    config.simclr.loss_scale = 2.0
    config.optimizer.learning_rate = 0.1
    config.optimizer.learning_rate_scaling = 'sqrt'
    config.optimizer.warmup_epochs = 40.0
    config.optimizer.weight_decay = 1e-4
    config.eval.batch_size = 1024
    config.eval.baselines = False  # raw pixels of 1.28 million images are 15 GB
    return config
