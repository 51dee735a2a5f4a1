"""Self-supervised pretraining of image encoders in JAX: SimCLR, BYOL and what follows them."""

__version__ = '0.1.0'
