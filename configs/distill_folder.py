"""Distillation on a folder of your own pictures, which need no labels: a smaller network, say.

    python run.py --config=configs/distill_folder.py --mode=distill --config.data.path=DIR \
        --teacher=runs/classifier --encoder=scratch --workdir=runs/student

The teacher is what configs/finetune_folder.py has made, on a part of the pictures or on others.
`--config.model.encoder=resnet18` is the student; `--encoder=runs/small` starts it from an encoder
that was pretrained, which then decides on it. See docs/distilling.md.

Where the pictures have the teacher's labels, a tenth, or those in `test/` or `val/`, tests teacher
and student; `--config.eval.path=DIR` names other pictures that have. Without any, the run ends with
how often the two agree. Encoder, picture size, batch and number format follow from the machine,
unless they are given (`simclr_jax/config_auto.py`). The run's first line says which.

The optimizer, its rate and the warm-up are SimCLR v2's (configs/distill_imagenet.py). Batch and
length are ours, for some ten thousand pictures; they are not tuned, and no accuracy is promised.
Where left and right differ, as in text or X-rays, give
`--config.augment.view1.flip_probability=0`.
"""

from simclr_jax.augment.recipe import CROP_AND_FLIP
from simclr_jax.config import AUTO_FIELDS, default, set_views


def get_config():
    config = default()
    config.method = 'distill'
    config.batch_size = 256
    config.auto = AUTO_FIELDS  # what they are below is for a TPU or a large GPU
    config.epochs = 100.0
    config.data.dataset = 'folder'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    set_views(config, CROP_AND_FLIP)
    config.augment.backend = 'jax'
    config.augment.dtype = 'bfloat16'
    config.model.encoder = 'resnet50'
    config.model.dtype = 'bfloat16'
    config.finetune.head_init = 'normal'
    config.optimizer.learning_rate = 0.1
    config.optimizer.learning_rate_scaling = 'sqrt'
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-4
    return config
