"""What setup.cfg cannot say: configs/ is beside the package here, and inside it in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=['simclr_jax*']), 'simclr_jax.configs'],
    package_dir={'simclr_jax.configs': 'configs'},
)
