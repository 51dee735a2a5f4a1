"""Fine-tuning on CIFAR-10, on all its labels or fewer.

    python run.py --config=configs/finetune_cifar10.py --mode=finetune \
        --encoder=runs/simclr_cifar10 --workdir=runs/classifier

`--config.finetune.labels=100` learns from a hundred labels a class, `--encoder=scratch` from labels
alone. The encoder file decides on the encoder: one of configs/simclr_cifar10.py, byol_cifar10.py,
moco_v2_cifar10.py or moco_v3_cifar10.py.

The numbers are SimCLR's for few labels of ImageNet (https://arxiv.org/abs/2002.05709, appendix B.5:
Nesterov's momentum, 0.05 x batch / 256, no decay, crops and flips, 30 epochs of a tenth of the
labels), with the batch of its fine-tuning on other data sets (B.8.2). No figure is published for
them on CIFAR-10. Ours is that few labels have 500 steps or more.

The run ends with a comparison with other ways to use 1,000, 100 and 10 labels a class, over three
draws. Its trainings from scratch take longest; `--config.finetune.compare="('linear','knn')"`
leaves them out.
"""

from simclr_jax.augment.recipe import CROP_AND_FLIP
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.method = 'finetune'
    config.batch_size = 256
    config.epochs = 30.0
    config.data.dataset = 'cifar10'
    config.data.image_size = 32
    config.data.drop_remainder = False
    set_views(config, CROP_AND_FLIP)
    # Views are made in the train step, from images in memory: no tf.data to start or to wait for.
    config.augment.backend = 'jax'
    config.data.cache = 'device'
    config.model.encoder = 'resnet18'
    config.finetune.min_steps = 500
    config.finetune.labels_per_class = (1000, 100, 10)
    config.finetune.draws = 3
    config.optimizer.name = 'sgd'
    config.optimizer.nesterov = True
    config.optimizer.learning_rate = 0.05
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    return config
