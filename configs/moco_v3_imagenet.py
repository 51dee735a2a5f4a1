"""MoCo v3 with a ResNet-50 on ImageNet for 100, 300 or 1,000 epochs (moco-v3, CONFIG.md).

    python run.py --config=configs/moco_v3_imagenet.py:r50_100 --workdir=gs://bucket/run1

Needs ImageNet: its two archives in the `downloads/manual` folder of the TFDS data directory, then
`tfds build imagenet2012 --file_format=array_record`.

Paper: Chen et al. 2021, https://arxiv.org/abs/2104.02057. Batch 4096 on 16 V100s of 32 GB; hours
are not published. Published linear top-1: 68.9 % (100 epochs, the default), 72.8 % (300), 74.6 %
(1,000); not run here yet. What the views do not imitate is listed in `augment/recipe.py`.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views

# preset -> epochs, learning rate, weight decay, base decay of the keys' moving average
PRESETS = {
    'r50_100': (100.0, 0.6, 1e-6, 0.99),
    'r50_300': (300.0, 0.3, 1e-6, 0.99),
    'r50_1000': (1000.0, 0.3, 1.5e-6, 0.996),
}


def get_config(preset='r50_100'):
    epochs, learning_rate, weight_decay, base_decay = PRESETS[preset]
    config = default()
    config.method = 'moco_v3'
    config.batch_size = 4096
    config.epochs = epochs
    config.data.dataset = 'imagenet2012'
    config.data.test_split = 'validation'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    set_views(config, *VIEW_PRESETS['moco_v3'])
    config.model.encoder = 'resnet50'
    config.model.zero_init_last_scale = True
    config.moco_v3.temperature = 1.0
    config.moco_v3.hidden_dim = 4096
    config.moco_v3.output_dim = 256
    config.moco_v3.base_decay = base_decay
    config.optimizer.learning_rate = learning_rate
    config.optimizer.weight_decay = weight_decay
    config.optimizer.rate_inside_momentum = False
    config.eval.batch_size = 1024
    config.eval.baselines = False  # raw pixels of 1.28 million images are 15 GB
    return config
