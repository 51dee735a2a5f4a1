"""BYOL on a folder of your own pictures.

    python run.py --config=configs/byol_folder.py --config.data.path=DIR --workdir=runs/mine

The data as in simclr_folder.py; see docs/data.md.

Paper: Grill et al. 2020, https://arxiv.org/abs/2006.07733, whose views, heads and optimizer these
are, with the rates of 300 epochs. Batch, encoder and length are ours, for some ten thousand
pictures; they are not tuned, and no accuracy is promised. Views are made on the accelerator.

Encoder, picture size, batch and number format follow from the machine, as in simclr_folder.py.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import AUTO_FIELDS, default, set_views


def get_config():
    config = default()
    config.method = 'byol'
    config.batch_size = 256
    config.auto = AUTO_FIELDS  # what they are below is for a TPU or a large GPU
    config.epochs = 200.0
    config.data.dataset = 'folder'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    set_views(config, *VIEW_PRESETS['byol'])
    config.augment.backend = 'jax'
    config.augment.dtype = 'bfloat16'
    config.model.encoder = 'resnet50'
    config.model.dtype = 'bfloat16'
    config.model.zero_init_last_scale = False
    config.optimizer.learning_rate = 0.3
    config.optimizer.rate_inside_momentum = False
    config.optimizer.weight_decay = 1e-6
    return config
