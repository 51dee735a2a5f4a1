"""Fine-tuning on scikit-learn's handwritten digits: from few labels to a classifier, on a laptop.

    python run.py --config=configs/finetune_digits.py --mode=finetune --encoder=runs/simclr_digits

`--config.finetune.labels=10` learns from ten labels a class, `--encoder=scratch` from labels alone.
"""

import dataclasses

from simclr_jax.augment.recipe import DIGITS
from simclr_jax.config import default, set_views

# Crops, turns and shifts of brightness; no blur, which hides strokes.
_VIEW = dataclasses.replace(DIGITS, blur_probability=0.0)


def get_config():
    config = default()
    config.method = 'finetune'
    config.batch_size = 128
    config.epochs = 30.0
    config.data.dataset = 'digits'
    config.data.image_size = 8
    config.data.drop_remainder = False
    set_views(config, _VIEW)
    # Views are made in the train step, from images in memory: no tf.data to start or to wait for.
    config.augment.backend = 'jax'
    config.data.cache = 'device'
    config.model.encoder = 'resnet_tiny'
    config.model.zero_init_last_scale = False
    config.finetune.min_steps = 200
    config.optimizer.name = 'sgd'
    config.optimizer.nesterov = True
    config.optimizer.learning_rate = 0.05
    config.optimizer.learning_rate_scaling = 'none'
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    config.log.every_steps = 20
    config.checkpoint.every_steps = 300
    return config
