"""MoCo v3 on CIFAR-10: solo-learn's optimizer, temperature and length.

    python run.py --config=configs/moco_v3_cifar10.py --workdir=...

Needs CIFAR-10, once: `python -m simclr_jax.data.prepare cifar10`.

Paper: Chen et al. 2021, https://arxiv.org/abs/2104.02057, which pretrains on ImageNet only. Rate,
weight decay, trust coefficient, temperature, target decay and epochs are solo-learn's
(scripts/pretrain/cifar/mocov3.yaml, 93.10 % published by its online classifier). What differs: its
LARS clips the adapted rate and ours does not; heads are the original's, 4096 and 256; views are
those of its asymmetric recipe, which its BYOL has (that its MoCo v3 has them too is from memory,
not read in code). No accuracy is published for this combination, and it has not been run here yet.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.method = 'moco_v3'
    config.batch_size = 256
    config.epochs = 1000.0
    config.data.dataset = 'cifar10'
    config.data.image_size = 32
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    set_views(config, *VIEW_PRESETS['byol_cifar'])
    config.model.encoder = 'resnet18'
    config.moco_v3.temperature = 0.2
    config.moco_v3.hidden_dim = 4096
    config.moco_v3.output_dim = 256
    config.moco_v3.base_decay = 0.99
    config.optimizer.learning_rate = 0.3
    config.optimizer.weight_decay = 1e-6
    config.optimizer.trust_coefficient = 0.02
    config.optimizer.rate_inside_momentum = False
    config.checkpoint.every_steps = 2000
    return config
