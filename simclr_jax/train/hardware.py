"""What the processes of a run have found: devices, their memory, and the machine's own."""

import os
import pathlib

import jax

from simclr_jax.config_auto import Hardware

_CGROUPS = pathlib.Path('/sys/fs/cgroup')
_NVIDIA_DRIVER = pathlib.Path('/proc/driver/nvidia/version')
_MEMINFO = pathlib.Path('/proc/meminfo')


def find() -> Hardware:
    """Returns what JAX has found; starts its backend."""
    device = jax.local_devices()[0]
    return Hardware(
        platform=device.platform,
        kind=device.device_kind,
        devices=jax.device_count(),
        memory=device_memory(device),
        bfloat16=computes_bfloat16(device),
    )


def unused_gpu(driver: pathlib.Path = _NVIDIA_DRIVER) -> str | None:
    """Returns a warning where there is an NVIDIA GPU and JAX has fallen back to the CPU."""
    chosen = 'cpu' in os.environ.get('JAX_PLATFORMS', '').split(',')
    if chosen or jax.default_backend() != 'cpu' or not driver.exists():
        return None
    return (
        'this machine has an NVIDIA GPU, but JAX does not use it and runs on the CPU; install '
        "`pip install 'jax[cuda13]'` (a driver of 580 or later) or `pip install 'jax[cuda12]'`; "
        '`nvidia-smi` says which driver there is'
    )


def device_memory(device: jax.Device) -> float | None:
    """Returns the bytes that programs may use on a device, None where it does not say.

    A GPU's are the share that JAX takes of it, three quarters by default. A CPU device has none of
    its own: `host_memory`.
    """
    if device.platform == 'cpu':
        return None
    return (device.memory_stats() or {}).get('bytes_limit')


def computes_bfloat16(device: jax.Device) -> bool:
    """Whether a device has units for bfloat16: TPUs, and NVIDIA's GPUs from Ampere (8.0) on."""
    if device.platform == 'cpu':
        return False
    capability = str(getattr(device, 'compute_capability', ''))
    try:
        return float(capability) >= 8.0
    except ValueError:  # no NVIDIA GPU
        return True


def host_memory() -> float | None:
    """Returns the bytes that this process can still get from its machine, None where unknown.

    It is what the kernel calls available, or what a control group (a container, a batch system's
    job) leaves of its limit, whichever is less.
    """
    free = [size for size in (_available(), *_left_in_cgroups()) if size is not None]
    return min(free, default=None)


def _available() -> float | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith('MemAvailable:'):
                return 1024.0 * int(line.split()[1])
    except OSError:  # not Linux
        pass
    try:
        return float(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))
    except (ValueError, OSError):
        return None


def _left_in_cgroups(
    root: pathlib.Path = _CGROUPS, own: pathlib.Path = pathlib.Path('/proc/self/cgroup')
) -> list[float]:
    """Returns what each control group that this process is in leaves of its limit, v2 and v1.

    The page cache that the kernel would give back first counts as left.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if not controllers:
            base, names, cache = root, ('memory.max', 'memory.current'), 'inactive_file'
        elif 'memory' in controllers.split(','):
            base = root / 'memory'
            names = 'memory.limit_in_bytes', 'memory.usage_in_bytes'
            cache = 'total_inactive_file'
        else:
            continue
        group = base / path.strip('/')
        # A container sees its own group as the root, under a path that is its host's.
        for folder in {base, group, *(p for p in group.parents if p.is_relative_to(base))}:
            limit, usage = (_number(folder / name) for name in names)
            if limit is not None and usage is not None:
                left.append(max(0.0, limit - usage + (_stat(folder, cache) or 0.0)))
    return left


def _number(path: pathlib.Path) -> float | None:
    try:
        return float(int(path.read_text()))
    except (OSError, ValueError):  # no such file, or 'max'
        return None


def _stat(folder: pathlib.Path, name: str) -> float | None:
    try:
        for line in (folder / 'memory.stat').read_text().splitlines():
            key, _, value = line.partition(' ')
            if key == name:
                return float(value)
    except (OSError, ValueError):
        pass
    return None
