"""Compiled programs that are kept, so that a run that starts again need not compile for minutes."""

import os
import pathlib

import jax

_CACHE = pathlib.Path('~/.cache/simclr_jax')


def keep_programs(workdir: str) -> str:
    """Has JAX keep compiled programs in a folder, and returns it; '' where none are kept.

    The folder is `$JAX_COMPILATION_CACHE_DIR`, else `$SIMCLR_JAX_CACHE`, else
    `~/.cache/simclr_jax`, or, where there are several processes, `compilation_cache` in the
    workdir: only the first one writes, so all have to see it. An empty variable turns it off.

    A program is found by a hash of itself, the devices, the flags and JAX' version, so that another
    one is never taken for it. What is loaded computes what was compiled, bit for bit; on a GPU it
    keeps more: compiling again may choose other kernels.

    On a CPU programs are kept only where one of the variables is set. They are machine code for the
    very processor, and a home directory may be shared by several kinds.
    """
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return os.environ['JAX_COMPILATION_CACHE_DIR']  # JAX has read it
    folder = os.environ.get('SIMCLR_JAX_CACHE')
    if folder is None:
        if jax.default_backend() == 'cpu':
            return ''
        folder = str(_CACHE)
        if jax.process_count() > 1:
            folder = f'{workdir.rstrip("/")}/compilation_cache'
    if folder:
        folder = os.path.expanduser(folder)
        jax.config.update('jax_compilation_cache_dir', folder)
    return folder
