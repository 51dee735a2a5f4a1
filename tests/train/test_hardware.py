"""How much memory there is, read from files like the kernel's."""

import pathlib

import jax
import pytest

from simclr_jax.config_auto import GIB
from simclr_jax.train import hardware


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    meminfo = tmp_path / 'meminfo'
    meminfo.write_text('MemTotal:  33554432 kB\nMemFree: 1024 kB\nMemAvailable:  16777216 kB\n')
    monkeypatch.setattr(hardware, '_MEMINFO', meminfo)
    monkeypatch.setattr(hardware, '_left_in_cgroups', lambda: [])
    assert hardware.host_memory() == 16 * GIB
    monkeypatch.setattr(hardware, '_left_in_cgroups', lambda: [3.0 * GIB, 40.0 * GIB])
    assert hardware.host_memory() == 3 * GIB


def test_control_groups_of_version_2(tmp_path):
    own, root = tmp_path / 'cgroup', tmp_path / 'fs'
    own.write_text('0::/jobs/mine\n')
    write(root / 'jobs/memory.max', f'{8 * GIB}\n')
    write(root / 'jobs/memory.current', f'{5 * GIB}\n')
    write(root / 'jobs/memory.stat', f'anon 7\ninactive_file {2 * GIB}\n')
    write(root / 'jobs/mine/memory.max', 'max\n')
    write(root / 'jobs/mine/memory.current', f'{GIB}\n')
    assert hardware._left_in_cgroups(root, own) == [5 * GIB]  # the cache can be given back


def test_control_groups_of_version_1_seen_from_inside_a_container(tmp_path):
    own, root = tmp_path / 'cgroup', tmp_path / 'fs'
    own.write_text('9:name=systemd:/\n4:memory:/docker/0123\n1:cpu,cpuacct:/\n0::/\n')
    write(root / 'memory/memory.limit_in_bytes', f'{4 * GIB}\n')
    write(root / 'memory/memory.usage_in_bytes', f'{GIB}\n')
    assert hardware._left_in_cgroups(root, own) == [3 * GIB]


def test_no_files_say_nothing(tmp_path):
    assert hardware._left_in_cgroups(tmp_path / 'fs', tmp_path / 'none') == []


def test_this_machine_says_what_it_has():
    assert 0.1 * GIB < hardware.host_memory() < 2**50
    found = hardware.find()
    assert (found.platform, found.memory, found.bfloat16) == ('cpu', None, False)
    assert found.devices == 8


class Device:
    def __init__(self, platform, capability=None):
        self.platform = platform
        if capability:
            self.compute_capability = capability

    def memory_stats(self):
        return {'bytes_limit': 12 * GIB}


@pytest.mark.parametrize(
    ('device', 'bfloat16', 'memory'),
    [
        (Device('cpu'), False, None),
        (Device('tpu'), True, 12 * GIB),
        (Device('gpu', '7.5'), False, 12 * GIB),  # T4
        (Device('gpu', '8.0'), True, 12 * GIB),
        (Device('gpu', '10.0'), True, 12 * GIB),
        (Device('gpu', 'gfx90a'), True, 12 * GIB),  # AMD
    ],
)
def test_which_devices_compute_bfloat16(device, bfloat16, memory):
    assert hardware.computes_bfloat16(device) == bfloat16
    assert hardware.device_memory(device) == memory


def test_a_gpu_that_jax_does_not_use_is_told(tmp_path, monkeypatch):
    driver = tmp_path / 'version'
    monkeypatch.setenv('JAX_PLATFORMS', '')
    assert jax.default_backend() == 'cpu'
    assert hardware.unused_gpu(driver) is None
    driver.write_text('NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15')
    assert "'jax[cuda12]'" in hardware.unused_gpu(driver)
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert hardware.unused_gpu(driver) is None
