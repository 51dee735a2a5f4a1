"""Fine-tuning on a folder of your own pictures, with ten labels a class or thousands.

    python run.py --config=configs/finetune_folder.py --mode=finetune --config.data.path=DIR \
        --encoder=runs/mine --workdir=runs/classifier

The names of sub-folders are the labels, or a table gives them (`--config.data.labels=FILE`). A
tenth of the pictures, or those in `test/` or `val/`, tests the classifier. See docs/data.md and
docs/few_labels.md.

The encoder file decides on the encoder and on the size of the pictures; it may be another library's
(docs/weights.md). Batch and number format follow from the machine, unless they are given
(`simclr_jax/config_auto.py`). The run's first line says which.

The classifier starts as logistic regression solves it on the features of the encoder, so training
begins where linear evaluation ends. The rate is the best of three on a fifth of the labels, which
no training of the three has seen: which one suits depends on where the encoder is from. The
classifier is then trained on all labels. That takes about twice as long as one rate, which
`--config.finetune.learning_rates="()"` takes: with one rate, too, something is trained on a part of
the labels, for the probabilities, and of three rates the best one has been trained so.

The rest is SimCLR's way for few labels (https://arxiv.org/abs/2002.05709, appendix B.5): Nesterov's
momentum, no decay, crops and flips, 30 epochs; of few pictures more, so that there are 300 steps.
Crops are gentler than there: 0.7 to 1 of the picture's area. Start and crop were compared on 614 of
3,068 training photographs of clothes, held out, in 100 steps of a small encoder (resnet_tiny at 64
pixels, SimCLR of 20 epochs), one draw; by labels a class, in percent:

                                    30    all
    linear regression             37.5   53.3
    zero, 0.08 to 1, rate 0.1     34.4   45.4
    linear, 0.7 to 1, 0.005       39.3   52.6
    linear, 0.7 to 1, 0.02        42.2   56.0
    linear, 0.7 to 1, 0.1         42.0   23.5
    linear, 0.08 to 1, 0.02       36.8
    linear, no crop, 0.02         36.2

No accuracy is promised for other pictures. Where left and right differ, as in text or X-rays, give
`--config.augment.view1.flip_probability=0`.
"""

import dataclasses

from simclr_jax.augment.recipe import CROP_AND_FLIP
from simclr_jax.config import AUTO_FIELDS, default, set_views

_VIEW = dataclasses.replace(CROP_AND_FLIP, crop_area=(0.7, 1.0))


def get_config():
    config = default()
    config.method = 'finetune'
    config.batch_size = 256
    config.auto = AUTO_FIELDS  # what they are below is for a TPU or a large GPU
    config.epochs = 30.0
    config.data.dataset = 'folder'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.drop_remainder = False
    set_views(config, _VIEW)
    config.augment.backend = 'jax'
    config.augment.dtype = 'bfloat16'
    config.model.encoder = 'resnet50'
    config.model.dtype = 'bfloat16'
    config.finetune.head_init = 'linear'
    config.finetune.learning_rates = (0.005, 0.02, 0.05)
    config.finetune.min_steps = 300
    config.finetune.compare = ('linear', 'knn')  # which take seconds
    config.finetune.labels_per_class = (10,)
    config.optimizer.name = 'sgd'
    config.optimizer.nesterov = True
    config.optimizer.learning_rate = 0.02
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    return config
