"""Settings for every test: eight virtual devices, no silent broadcasting, quick compiling."""

import os

import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Most programs of the tests run once or twice: to optimize their machine code takes longer.
jax.config.update('jax_disable_most_optimizations', True)
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # of the processes that tests start


def pytest_collection_modifyitems(items):
    """The files of the loop first: they are the longest, and would keep one worker at the end."""
    items.sort(key=lambda item: item.path.parent.name != 'train')
