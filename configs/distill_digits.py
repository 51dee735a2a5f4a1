"""Distillation on scikit-learn's handwritten digits: a student of a few-label classifier.

    python run.py --config=configs/distill_digits.py --mode=distill --teacher=runs/finetune_digits \
        --encoder=runs/simclr_digits

The student sees no label: all 1,297 training pictures, with what the teacher says of them. Measured
over five draws of a teacher's ten labels a class, top-1 on the test split: teacher 97.7 +- 0.5 %,
this student 97.8 +- 0.4 %; one that starts at random (`--encoder=scratch`) 97.4 +- 0.7 %, where the
labels alone give it 94.1 +- 1.6 %. docs/distilling.md has how that was measured, and on which
pictures settings were chosen.
"""

import dataclasses

from simclr_jax.augment.recipe import DIGITS
from simclr_jax.config import default, set_views

# Crops, turns and shifts of brightness; no blur, which hides strokes.
_VIEW = dataclasses.replace(DIGITS, blur_probability=0.0)


def get_config():
    config = default()
    config.method = 'distill'
    config.batch_size = 128
    config.epochs = 60.0
    config.data.dataset = 'digits'
    config.data.image_size = 8
    config.data.drop_remainder = False
    set_views(config, _VIEW)
    # Views are made in the train step, from images in memory: no tf.data to start or to wait for.
    config.augment.backend = 'jax'
    config.data.cache = 'device'
    config.model.encoder = 'resnet_tiny'
    config.model.zero_init_last_scale = False
    config.distill.temperature = 1.0
    config.optimizer.name = 'sgd'
    config.optimizer.nesterov = True
    config.optimizer.learning_rate = 0.05
    config.optimizer.learning_rate_scaling = 'none'
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    config.log.every_steps = 20
    config.checkpoint.every_steps = 300
    return config
