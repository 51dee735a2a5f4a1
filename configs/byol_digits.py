"""BYOL on digits."""

from simclr_jax.augment.recipe import ViewRecipe
from simclr_jax.config import default, set_views


def get_config():
    config = default()
    config.method = 'byol'
    config.batch_size = 128
    config.epochs = 60.0
    config.data.dataset = 'digits'
    config.data.image_size = 8
    config.model.encoder = 'resnet_tiny'
    set_views(
        config,
        ViewRecipe(
            crop_area=(0.4, 1.0),
            crop_sampler='continuous',
            flip_probability=0.0,
            jitter_probability=0.8,
            brightness=0.4,
            contrast=0.4,
            saturation=0.0,
            hue=0.0,
            grayscale_probability=0.0,
            blur_kernel_fraction=0.4,
            blur_sigma=(0.3, 1.0),
        ),
    )
    config.byol.hidden_dim = 256
    config.byol.output_dim = 64
    config.byol.base_decay = 0.99
    config.optimizer.name = 'adamw'
    config.optimizer.learning_rate = 4e-3
    config.optimizer.learning_rate_scaling = 'none'
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-4
    config.log.every_steps = 10
    config.checkpoint.every_steps = 100
    return config
