"""BYOL on ImageNet-100, the 100 classes of Contrastive Multiview Coding, with a ResNet-18.

    python run.py --config=configs/byol_imagenet100.py --workdir=...

Needs ImageNet and then, once, `python -m simclr_jax.data.prepare imagenet100`; where the classes
are from is in `simclr_jax/data/imagenet100.py`.

Paper: Grill et al. 2020, https://arxiv.org/abs/2006.07733, which has no ImageNet-100 run. Encoder,
batch, epochs, weight decay and target decay are solo-learn's
(scripts/pretrain/imagenet-100/byol.yaml: 80.16 % online, 80.32 % offline, hours not published), and
so are the views, which are BYOL's own. What differs: its clipped LARS is not ours, so rate and
trust coefficient are those of the original's ResNet-18 recipe for Imagenette; its predictor is
8192 wide, here both heads are 4096. No accuracy is published for this combination, and it has not
been run here yet.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.method = 'byol'
    config.batch_size = 256
    config.epochs = 400.0
    config.data.dataset = 'imagenet100'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    set_views(config, *VIEW_PRESETS['byol'])
    config.model.encoder = 'resnet18'
    config.model.padding = 'same'
    config.model.zero_init_last_scale = False
    config.byol.hidden_dim = 4096
    config.byol.output_dim = 256
    config.byol.base_decay = 0.99
    config.optimizer.learning_rate = 2.0
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_inside_momentum = False
    config.linear_eval.batch_size = 256
    return config
