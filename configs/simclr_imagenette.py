"""SimCLR on Imagenette, ten classes of ImageNet: the recipe of Lightly's benchmark.

    python run.py --config=configs/simclr_imagenette.py --workdir=...

Needs Imagenette, once: `python -m simclr_jax.data.prepare imagenette/160px-v2` (100 MB).

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709, which has no Imagenette run. Numbers are
those of lightly-ai/lightly, docs/source/getting_started/benchmarks/imagenette_benchmark.py:
torchvision's ResNet-18 at 128 pixels, SGD without warm-up or exclusions, 800 epochs of batch 256,
temperature 0.5, colours at half of SimCLR's strength. Published there: 88.9 % by k-NN of 200
neighbours at temperature 0.1 (one run, the best epoch on the test images) in 194 minutes on one
A6000; not run here yet. Both views go through batch normalization together here, one after the
other there. In what the views differ from PIL's is in `augment/recipe.py`.
"""

import dataclasses

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.batch_size = 256
    config.epochs = 800.0
    config.data.dataset = 'imagenette/160px-v2'
    config.data.image_size = 128
    config.data.eval_interpolation = 'bilinear'
    config.data.eval_antialias = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    half, _ = VIEW_PRESETS['moco_v2']  # `cj_strength=0.5` of .8, .8, .8, .2 gives MoCo v2's colours
    set_views(config, dataclasses.replace(half, crop_area=(0.08, 1.0)))
    config.model.encoder = 'resnet18'
    config.model.zero_init_last_scale = False
    config.simclr.temperature = 0.5
    config.simclr.num_layers = 2
    config.simclr.hidden_dim = 512
    config.simclr.output_dim = 128
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.06
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 5e-4
    config.optimizer.exclude_bias_and_norm = False
    config.linear_eval.batch_size = 256
    config.knn.k = 200
    config.knn.temperature = 0.1
    return config
