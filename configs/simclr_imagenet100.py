"""SimCLR on ImageNet-100, the 100 classes of Contrastive Multiview Coding, with a ResNet-18.

    python run.py --config=configs/simclr_imagenet100.py --workdir=...

Needs ImageNet and then, once, `python -m simclr_jax.data.prepare imagenet100`; where the classes
are from is in `simclr_jax/data/imagenet100.py`.

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709, which has no ImageNet-100 run. Encoder,
batch, epochs, temperature and weight decay are solo-learn's
(scripts/pretrain/imagenet-100/simclr.yaml: 77.64 % online, hours not published); its clipped LARS
is not ours, so the rate is the original's square-root rule for ImageNet, and views and head are the
original's too. No accuracy is published for this combination, and it has not been run here yet.
"""

from simclr_jax.augment.recipe import PRESETS as VIEW_PRESETS
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.batch_size = 256
    config.epochs = 400.0
    config.data.dataset = 'imagenet100'
    config.data.image_size = 224
    config.data.eval_crop = 0.875
    set_views(config, *VIEW_PRESETS['simclr'])
    config.model.encoder = 'resnet18'
    config.model.padding = 'simclr'
    config.simclr.temperature = 0.2
    config.simclr.hidden_dim = 512
    config.simclr.loss_scale = 2.0
    config.optimizer.learning_rate = 0.075
    config.optimizer.learning_rate_scaling = 'sqrt'
    config.optimizer.weight_decay = 1e-4
    config.linear_eval.batch_size = 256
    return config
