"""BYOL on CIFAR-10: solo-learn's views, heads and length, BYOL's optimizer at small scale.

    python run.py --config=configs/byol_cifar10.py --workdir=...

Needs CIFAR-10, once: `python -m simclr_jax.data.prepare cifar10`.

Paper: Grill et al. 2020, https://arxiv.org/abs/2006.07733, which has no CIFAR-10 run. Views, heads,
batch, epochs and target decay are solo-learn's (scripts/pretrain/cifar/byol.yaml, 92.58 % published
by its online classifier); its clipped LARS is not ours, so rate, trust coefficient and weight decay
are those of the original's ResNet-18 recipe for Imagenette (deepmind-research, byol/README.md). No
accuracy is published for this combination, and it has not been run
to its end here.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.method = 'byol'
    config.batch_size = 256
    config.epochs = 1000.0
    config.data.dataset = 'cifar10'
    config.data.image_size = 32
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    set_views(config, *VIEW_PRESETS['byol_cifar'])
    config.model.encoder = 'resnet18'
    config.model.zero_init_last_scale = False
    config.byol.hidden_dim = 4096
    config.byol.output_dim = 256
    config.byol.base_decay = 0.99
    config.optimizer.learning_rate = 2.0
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_inside_momentum = False
    config.checkpoint.every_steps = 2000
    return config
