"""BYOL on Imagenette, ten classes of ImageNet (deepmind-research, byol/README.md).

    python run.py --config=configs/byol_imagenette.py --workdir=...

Needs Imagenette, once: `python -m simclr_jax.data.prepare imagenette/160px-v2` (100 MB).

Paper: Grill et al. 2020, https://arxiv.org/abs/2006.07733, which has no Imagenette run; this is the
recipe for fast iteration of its repository: ResNet-18 at 128 pixels, 1,000 epochs of batch 256,
what else there is as for ImageNet. Published there: about 92.3 % for the online classifier, roughly
4 hours on one V100; not run here yet. Evaluation sees the central 128 / (128 + 32) of a picture, as
the README's recipe has it.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.method = 'byol'
    config.batch_size = 256
    config.epochs = 1000.0
    config.data.dataset = 'imagenette/160px-v2'
    config.data.drop_remainder = False
    config.data.image_size = 128
    config.data.eval_crop = 0.8
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    set_views(config, *VIEW_PRESETS['byol'])
    config.model.encoder = 'resnet18'
    config.model.padding = 'same'
    config.model.zero_init_last_scale = False
    config.byol.hidden_dim = 4096
    config.byol.output_dim = 256
    config.byol.base_decay = 0.996
    config.optimizer.learning_rate = 2.0
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_inside_momentum = False
    config.linear_eval.batch_size = 256
    return config
