"""BYOL on ImageNet for 40, 100, 300 or 1,000 epochs (deepmind-research, byol/configs/byol.py).

    python run.py --config=configs/byol_imagenet.py:100 --workdir=gs://bucket/run1

Needs ImageNet: its two archives in the `downloads/manual` folder of the TFDS data directory, then
`python -m simclr_jax.data.prepare imagenet2012`.

Paper: Grill et al. 2020, https://arxiv.org/abs/2006.07733. ResNet-50, batch 4096; its README says
about 8 hours on 512 Cloud TPU v3 for 1,000 epochs. Published linear top-1 for 1,000 epochs (the
default): 74.3 % in the paper, about 74.4 % for the README's checkpoint. For 40 epochs the authors
name 61.5 % +- 0.5 (google-deepmind/deepmind-research issue 76). Not run here yet. Each block's last
scale starts at 1, as in the paper; the published code takes Haiku's 0.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views

# epochs -> learning rate, weight decay, the target's base decay
PRESETS = {
    '40': (0.45, 1e-6, 0.97),
    '100': (0.45, 1e-6, 0.99),
    '300': (0.3, 1e-6, 0.99),
    '1000': (0.2, 1.5e-6, 0.996),
}


def get_config(epochs='1000'):
    config = default()
    config.method = 'byol'
    config.batch_size = 4096
    config.epochs = float(epochs)
    config.data.dataset = 'imagenet2012'
    config.data.drop_remainder = False
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    set_views(config, *VIEW_PRESETS['byol'])
    config.model.encoder = 'resnet50'
    config.model.padding = 'same'
    config.model.zero_init_last_scale = False
    config.byol.hidden_dim = 4096
    config.byol.output_dim = 256
    config.optimizer.rate_inside_momentum = False
    learning_rate, weight_decay, base_decay = PRESETS[epochs]
    config.optimizer.learning_rate = learning_rate
    config.optimizer.weight_decay = weight_decay
    config.byol.base_decay = base_decay
    config.eval.batch_size = 1024
    config.eval.baselines = False  # raw pixels of 1.28 million images are 15 GB
    return config
