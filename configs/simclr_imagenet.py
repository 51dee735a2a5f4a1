"""SimCLR on ImageNet, the command of the original README (google-research/simclr, README:100-109).

    python run.py --config=configs/simclr_imagenet.py --workdir=gs://bucket/run1

Needs ImageNet: its two archives in the `downloads/manual` folder of the TFDS data directory, then
`python -m simclr_jax.data.prepare imagenet2012`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709. ResNet-50, 100 epochs of batch 4096.
Published: about 6 hours on 32 TPU v3 cores, 64.5 % linear top-1 (69.1 % after 1,000 epochs); not
run here yet. The head is the paper's of two layers; the README's command leaves it at the second
version's three. The weight decay is the README's; the paper has 1e-6.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.batch_size = 4096
    config.epochs = 100.0
    config.data.dataset = 'imagenet2012'
    config.data.drop_remainder = False
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    set_views(config, *VIEW_PRESETS['simclr'])
    config.model.encoder = 'resnet50'
    config.model.padding = 'simclr'
    config.model.dtype = 'bfloat16'  # of the arithmetic, as a TPU's matrix products are anyway
    config.simclr.temperature = 0.1
    config.simclr.hidden_dim = 2048
    config.simclr.loss_scale = 2.0
    config.optimizer.learning_rate = 0.075
    config.optimizer.learning_rate_scaling = 'sqrt'
    config.optimizer.weight_decay = 1e-4
    config.eval.batch_size = 1024
    config.eval.baselines = False  # raw pixels of 1.28 million images are 15 GB
    return config
