"""MoCo v3 on ImageNet: a ResNet-50 for 100, 300 or 1,000 epochs, a ViT for 300 (CONFIG.md).

    python run.py --config=configs/moco_v3_imagenet.py:r50_100 --workdir=gs://bucket/run1

Needs ImageNet: its two archives in the `downloads/manual` folder of the TFDS data directory, then
`python -m simclr_jax.data.prepare imagenet2012`.

Paper: Chen et al. 2021, https://arxiv.org/abs/2104.02057. Batch 4096, on 16 V100s of 32 GB for the
ResNet-50, 32 for `vit_s` and 64 for `vit_b`; hours are not published. Published linear top-1:
68.9 % (100 epochs, the default), 72.8 % (300), 74.6 % (1,000); 73.2 % for `vit_s` and 76.7 % for
`vit_b`; not run here yet. The original's arithmetic is half precision where PyTorch deems it safe;
here it is float32. In what the views differ from PIL's is in `augment/recipe.py`.
"""

import dataclasses

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views

# preset -> encoder, epochs, learning rate, weight decay, base decay of the keys' moving average
PRESETS = {
    'r50_100': ('resnet50', 100.0, 0.6, 1e-6, 0.99),
    'r50_300': ('resnet50', 300.0, 0.3, 1e-6, 0.99),
    'r50_1000': ('resnet50', 1000.0, 0.3, 1.5e-6, 0.996),
    'vit_s': ('vit_s16', 300.0, 1.5e-4, 0.1, 0.99),
    'vit_b': ('vit_b16', 300.0, 1.5e-4, 0.1, 0.99),
}


def get_config(preset='r50_100'):
    encoder, epochs, learning_rate, weight_decay, base_decay = PRESETS[preset]
    config = default()
    config.method = 'moco_v3'
    config.batch_size = 4096
    config.epochs = epochs
    config.data.dataset = 'imagenet2012'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.eval_interpolation = 'bilinear'
    config.data.eval_antialias = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    set_views(config, *VIEW_PRESETS['moco_v3'])
    config.model.encoder = encoder
    config.model.zero_init_last_scale = True
    config.moco_v3.temperature = 1.0
    config.moco_v3.hidden_dim = 4096
    config.moco_v3.output_dim = 256
    config.moco_v3.base_decay = base_decay
    config.optimizer.learning_rate = learning_rate
    config.optimizer.weight_decay = weight_decay
    config.optimizer.rate_inside_momentum = False
    if encoder.startswith('vit'):
        views = (dataclasses.replace(v, crop_area=(0.08, 1.0)) for v in VIEW_PRESETS['moco_v3'])
        set_views(config, *views)
        config.model.pooling = 'token'
        config.model.freeze_patch_projection = True
        config.moco_v3.temperature = 0.2
        config.moco_v3.num_layers = 3
        config.moco_v3.predictor_norm = True
        config.optimizer.name = 'adamw'
        config.optimizer.warmup_epochs = 40.0
        config.optimizer.exclude_bias_and_norm = False
    config.eval.batch_size = 1024
    config.eval.baselines = False  # raw pixels of 1.28 million images are 15 GB
    return config
