"""What accelerators can do, as their makers publish it."""

import dataclasses
import os

import jax

from simclr_jax.config_auto import GIB


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip.

    Attributes:
      flops: bfloat16 FLOP/s; float32's where the chip has no bfloat16.
      memory: bytes.
      memory_rate: bytes/s of that memory.
      link_rate: bytes/s of all links to other chips together, one way; None where it depends.
      per_host: chips a host of a slice of several hosts.
    """

    flops: float
    memory: float
    memory_rate: float
    link_rate: float | None = None
    per_host: int = 1


# JAX's device_kind -> chip. cloud.google.com/tpu/docs/system-architecture-tpu-vm; links are the
# published Gbit/s of a chip in both directions, halved. NVIDIA's data sheets, dense.
CHIPS = {
    'TPU v4': Chip(275e12, 32 * GIB, 1228e9, 150e9, 4),
    'TPU v5 lite': Chip(197e12, 16 * GIB, 819e9, 100e9, 4),
    'TPU v5': Chip(459e12, 95 * GIB, 2765e9, 300e9, 4),
    'TPU v6 lite': Chip(918e12, 32 * GIB, 1640e9, 224e9, 4),
    'Tesla T4': Chip(8.1e12, 16 * GIB, 320e9),
    'NVIDIA L4': Chip(121e12, 24 * GIB, 300e9),
    'NVIDIA A100-SXM4-40GB': Chip(312e12, 40 * GIB, 1555e9),
    'NVIDIA A100-SXM4-80GB': Chip(312e12, 80 * GIB, 2039e9),
    'NVIDIA H100 80GB HBM3': Chip(989e12, 80 * GIB, 3350e9),
    'NVIDIA H200': Chip(989e12, 141e9, 4800e9),
}


def devices_of(topology: str) -> list[jax.Device]:
    """Returns the chips of a slice of TPUs that need not be there, such as 'v5e:2x2'.

    Programs are compiled for them by libtpu (extra `tpu`), which raises errors of several kinds
    where it does not know the topology.
    """
    from jax.experimental import topologies

    os.environ |= {
        'TPU_SKIP_MDS_QUERY': '1',  # of the machine it is not on
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-4',  # any; libtpu warns without one
    }
    # The two cores of a v4 are one device to a program, which is not the compiler's default there.
    cores = {'chip_config_name': 'megacore'} if topology.startswith('v4:') else {}
    return list(
        topologies.get_topology_desc(platform='tpu', topology_name=topology, **cores).devices
    )
