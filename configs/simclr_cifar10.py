"""SimCLR on CIFAR-10, the command of the original README (google-research/simclr, README:78-84).

    python run.py --config=configs/simclr_cifar10.py --workdir=...

Needs CIFAR-10, once: `python -m simclr_jax.data.prepare cifar10`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix B.9. ResNet-18 with the small
stem, 1,000 epochs of batch 512. The README expects about 91 % linear (published there; not run
here yet). Lightly reports 331 minutes for 800 epochs of its own recipe on one GPU.
The head has three layers, as that command's default has it.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.batch_size = 512
    config.epochs = 1000.0
    config.data.dataset = 'cifar10'
    config.data.drop_remainder = False
    config.data.image_size = 32
    set_views(config, *VIEW_PRESETS['simclr_cifar'])
    config.model.encoder = 'resnet18'
    config.model.padding = 'simclr'
    config.simclr.temperature = 0.5
    config.simclr.num_layers = 3
    config.simclr.hidden_dim = 512
    config.simclr.loss_scale = 2.0
    config.optimizer.learning_rate = 1.0
    config.optimizer.weight_decay = 1e-4
    config.checkpoint.every_steps = 2000
    return config
