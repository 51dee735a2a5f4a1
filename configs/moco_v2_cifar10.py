"""MoCo v2 on CIFAR-10: solo-learn's optimizer, queue and length around MoCo's own method.

    python run.py --config=configs/moco_v2_cifar10.py --workdir=...

Needs CIFAR-10, once: `python -m simclr_jax.data.prepare cifar10`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2003.04297, which has no CIFAR-10 run. Rate, weight
decay, queue, temperature and epochs are those of solo-learn's MoCo v2+
(scripts/pretrain/cifar/mocov2plus.yaml, 92.94 % published by its online classifier), and so are the
batch statistics, which are global and not shuffled. What differs: v2+ takes both views as queries
(from memory, not read in code), here one is; its moving average rises from 0.99 to 0.999, here it
stays at 0.99, as Lightly's does; heads (as wide as the encoder, then 128) and views (without blur)
are MoCo v2's; weight decay is on every parameter, as in MoCo v2. No accuracy is published for this
combination, and it has not been run here yet.
"""

import dataclasses

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.method = 'moco'
    config.batch_size = 256
    config.epochs = 1000.0
    config.data.dataset = 'cifar10'
    config.data.image_size = 32
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    set_views(config, dataclasses.replace(VIEW_PRESETS['moco_v2'][0], blur_probability=0.0))
    config.model.encoder = 'resnet18'
    config.model.zero_init_last_scale = False
    config.moco.queue_size = 32768
    config.moco.temperature = 0.2
    config.moco.decay = 0.99
    config.moco.num_layers = 2
    config.moco.hidden_dim = 512
    config.moco.output_dim = 128
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.exclude_bias_and_norm = False
    config.checkpoint.every_steps = 2000
    return config
