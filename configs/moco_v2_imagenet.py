"""MoCo v2 on ImageNet for 200 or 800 epochs (facebookresearch/moco, README: `--mlp --aug-plus`).

    python run.py --config=configs/moco_v2_imagenet.py:200 --workdir=gs://bucket/run1

Needs ImageNet: its two archives in the `downloads/manual` folder of the TFDS data directory, then
`python -m simclr_jax.data.prepare imagenet2012`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2003.04297. ResNet-50, batch 256; 200 epochs (the
default) took 53 hours on 8 V100s. Published linear top-1: 67.5 % +- 0.1 (200 epochs), 71.1 % (800);
not run here yet. The original changes the rate once an epoch, here it falls at every step. Batch
statistics are those of 32 images each, and keys are shuffled before them, as on the original's GPUs
(`methods/moco.py`). In what the views differ from PIL's is in `augment/recipe.py`.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views

PRESETS = ('200', '800')  # epochs


def get_config(epochs='200'):
    config = default()
    config.method = 'moco'
    config.batch_size = 256
    config.epochs = float(epochs)
    config.data.dataset = 'imagenet2012'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.eval_interpolation = 'bilinear'
    config.data.eval_antialias = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    set_views(config, *VIEW_PRESETS['moco_v2'])
    config.model.encoder = 'resnet50'
    config.model.zero_init_last_scale = False
    config.model.norm_scope = 'groups'  # of 32 images, as on each of the original's 8 GPUs
    config.model.norm_group_size = 32
    config.moco.queue_size = 65536
    config.moco.temperature = 0.2
    config.moco.decay = 0.999
    config.moco.num_layers = 2
    config.moco.hidden_dim = 2048
    config.moco.output_dim = 128
    config.moco.shuffle = True
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.03
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.exclude_bias_and_norm = False
    config.eval.batch_size = 1024
    config.eval.baselines = False  # raw pixels of 1.28 million images are 15 GB
    return config
