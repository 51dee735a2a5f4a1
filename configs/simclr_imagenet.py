"""SimCLR on ImageNet, as first published (`v1`) and as its README has it since version 2 (`v2`).

    python run.py --config=configs/simclr_imagenet.py:v1 --workdir=gs://bucket/run1

Needs ImageNet: its two archives in the `downloads/manual` folder of the TFDS data directory, then
`python -m simclr_jax.data.prepare imagenet2012`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709. ResNet-50, 100 epochs of batch 4096.

`v1` (the default) is the paper's, and the README's command of March 2020 (google-research/simclr
at 0075cc0): weight decay 1e-6, a head of two layers, brightness that is added. Published for it:
64.5 % linear top-1 and about 6 hours on 32 TPU v3 cores; 69.1 % after 1,000 epochs
(`--config.epochs=1000`). Not run here yet.

`v2` is the command that replaced it (at 383d414, README:100-109): weight decay 1e-4, a head of
three layers, brightness that multiplies, the square-root rule for the same peak rate. That README
still says 64.5 %, which was published before; no other figure is known for these settings.

The published figures are of float32 arithmetic; here it is bfloat16, whose factors a TPU's matrix
products have by default anyway. `--config.model.dtype=float32` is the original's.
The papers' classifier is `--config.linear_eval.protocol=simclr`.
"""

import dataclasses

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views

PRESETS = ('v1', 'v2')


def get_config(version='v1'):
    config = default()
    config.batch_size = 4096
    config.epochs = 100.0
    config.data.dataset = 'imagenet2012'
    config.data.drop_remainder = False
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.model.encoder = 'resnet50'
    config.model.padding = 'simclr'
    config.model.dtype = 'bfloat16'
    config.simclr.temperature = 0.1
    config.simclr.hidden_dim = 2048
    config.simclr.loss_scale = 2.0
    if version == 'v1':
        view = dataclasses.replace(VIEW_PRESETS['simclr'][0], brightness_mode='additive')
        set_views(config, view)
        config.simclr.num_layers = 2
        config.optimizer.learning_rate = 0.3
        config.optimizer.weight_decay = 1e-6
    else:
        set_views(config, *VIEW_PRESETS['simclr'])
        config.simclr.num_layers = 3
        config.optimizer.learning_rate = 0.075
        config.optimizer.learning_rate_scaling = 'sqrt'
        config.optimizer.weight_decay = 1e-4
    config.eval.batch_size = 1024
    config.eval.baselines = False  # raw pixels of 1.28 million images are 15 GB
    return config
