"""SimCLR on a folder of your own pictures.

    python run.py --config=configs/simclr_folder.py --config.data.path=DIR --workdir=runs/mine

JPEG, PNG, GIF, BMP and WebP in nested folders, without labels; where every picture is in one of two
or more sub-folders, their names are the labels of the probes. `--config.eval.path=DIR` evaluates on
another, labelled folder. See docs/data.md.

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709, whose views, loss and optimizer these
are. Batch, encoder and length are ours, for some ten thousand pictures; they are not tuned, and no
accuracy is promised. Views are made on the accelerator.

Encoder, picture size, batch and number format follow from the machine, unless they are given: a
small encoder at 64 pixels on a CPU, a ResNet-18 or 50 on a GPU by its memory, a ResNet-50 at 224
pixels with 256 pairs on a TPU (`simclr_jax/config_auto.py`). The run's first line says which.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import AUTO_FIELDS, default, set_views


def get_config():
    config = default()
    config.batch_size = 256
    config.auto = AUTO_FIELDS  # what they are below is for a TPU or a large GPU
    config.epochs = 200.0
    config.data.dataset = 'folder'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    set_views(config, *VIEW_PRESETS['simclr'])
    config.augment.backend = 'jax'
    config.augment.dtype = 'bfloat16'
    config.model.encoder = 'resnet50'
    config.model.dtype = 'bfloat16'
    config.simclr.temperature = 0.1
    config.simclr.hidden_dim = 2048
    config.optimizer.learning_rate = 0.075
    config.optimizer.learning_rate_scaling = 'sqrt'
    config.optimizer.weight_decay = 1e-4
    return config
