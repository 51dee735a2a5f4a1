"""SimCLR on CIFAR-10, as first published (`v1`) and as its README has it since version 2 (`v2`).

    python run.py --config=configs/simclr_cifar10.py:v1 --workdir=...

Needs CIFAR-10, once: `python -m simclr_jax.data.prepare cifar10`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix B.9. ResNet-18 with the small
stem, 1,000 epochs of batch 512. Lightly reports 331 minutes for 800 epochs of its own recipe on one
GPU.

`v1` (the default) is the README's command of March 2020 (google-research/simclr at be133b3): weight
decay 1e-6, a head of two layers, brightness that is added. Published for it: about 91 % linear; run
here for 103 epochs only (docs/scaling.md).

`v2` is the command that replaced it (at 383d414, README:78-84): weight decay 1e-4, a head of three
layers, brightness that multiplies. That README still says 91 %, which was published before; these
settings had not been tested on CIFAR-10 by its authors (google-research/simclr issue 47).

The README's classifier, 100 epochs of batch 512 without weight decay, is
`--config.linear_eval.protocol=simclr_cifar`.
"""

import dataclasses

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views

PRESETS = ('v1', 'v2')


def get_config(version='v1'):
    config = default()
    config.batch_size = 512
    config.epochs = 1000.0
    config.data.dataset = 'cifar10'
    config.data.drop_remainder = False
    config.data.image_size = 32
    config.model.encoder = 'resnet18'
    config.model.padding = 'simclr'
    config.simclr.temperature = 0.5
    config.simclr.hidden_dim = 512
    config.simclr.loss_scale = 2.0
    config.optimizer.learning_rate = 1.0
    if version == 'v1':
        view = dataclasses.replace(VIEW_PRESETS['simclr_cifar'][0], brightness_mode='additive')
        set_views(config, view)
        config.simclr.num_layers = 2
        config.optimizer.weight_decay = 1e-6
    else:
        set_views(config, *VIEW_PRESETS['simclr_cifar'])
        config.simclr.num_layers = 3
        config.optimizer.weight_decay = 1e-4
    config.checkpoint.every_steps = 2000
    return config
