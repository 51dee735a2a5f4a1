"""Real processes that are killed, told to end, and starved, and what they leave behind.

test_train.py has one kill and one SIGTERM for every run of the slow tests.
"""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from simclr_jax.workdir.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 40

pytestmark = pytest.mark.long
SHORT = (
    '--config=configs/simclr_digits.py',
    # The input with threads of its own; the recipe's is in test_device.py and test_processes.py.
    '--config.augment.backend=tf',
    '--config.data.cache=none',
    '--config.batch_size=64',
    '--config.epochs=2',
    '--config.optimizer.warmup_epochs=1',
    '--config.log.every_steps=1',
    '--config.log.tensorboard=False',
    '--config.eval.after_pretrain=()',
    '--config.eval.baselines=False',
)
TIMING = {'images_per_second', 'input_wait', 'seconds'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('resumption')


@pytest.fixture(scope='module')
def start(folder):
    """Starts a run; whatever is left of it at the end is killed."""
    processes = []

    def start(workdir, *arguments, devices=1, every=5) -> subprocess.Popen:
        environment = os.environ | {
            'JAX_PLATFORMS': 'cpu',
            'JAX_NUM_CPU_DEVICES': str(devices),
            # A run is seconds, but for compiling.
            'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
            'TFDS_DATA_DIR': str(folder / 'data'),
        }
        command = [sys.executable, 'run.py', *SHORT, f'--config.checkpoint.every_steps={every}']
        processes.append(
            subprocess.Popen(
                [*command, f'--workdir={workdir}', *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.stdout.close()
        process.wait()


def finish(process: subprocess.Popen, status: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


@pytest.fixture(scope='module')
def undisturbed(folder, start):
    finish(start(folder / 'undisturbed'))
    return folder / 'undisturbed'


def final_leaves(workdir) -> list[np.ndarray]:
    with ocp.CheckpointManager(workdir / 'checkpoints') as manager:
        assert manager.latest_step() == STEPS
        state = manager.restore(STEPS, args=ocp.args.StandardRestore())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def rows_of(workdir) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in TIMING}
        for row in read_metrics(workdir)
    ]


def assert_same_bits(workdir, undisturbed):
    for got, want in zip(final_leaves(workdir), final_leaves(undisturbed), strict=True):
        np.testing.assert_array_equal(got, want)
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == list(range(1, STEPS + 1))
    assert rows_of(workdir) == rows_of(undisturbed)


def wait_for(condition, process, seconds: float = 200) -> bool:
    """Returns whether the condition came before the process ended."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if condition():
            return True
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return False


def rows_at_least(workdir, number: int):
    def condition() -> bool:
        path = workdir / 'metrics.jsonl'
        return path.exists() and path.read_bytes().count(b'\n') >= number

    return condition


def at_a_random_moment(random, workdir, process, kind: int) -> None:
    """Waits: for a save under way (0), for a random step (1), or a random time (2)."""
    if kind == 2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0, 12))
        return
    wait_for(rows_at_least(workdir, random.randint(0, STEPS - 4)), process)
    if kind == 0:
        wait_for(lambda: any((workdir / 'checkpoints').glob('*.saving')), process)
        time.sleep(random.uniform(0, 0.06))
    else:
        time.sleep(random.uniform(0, 0.1))


@pytest.mark.parametrize('trial', range(30))
def test_killed_at_a_random_moment(trial, start, undisturbed, tmp_path):
    random = np.random.RandomState(trial)
    for _ in range(1 + trial % 2):
        process = start(tmp_path)
        at_a_random_moment(random, tmp_path, process, trial % 3)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL or trial % 3 == 2
    finish(start(tmp_path))
    assert_same_bits(tmp_path, undisturbed)


def assert_ends_in_peace_and_goes_on(trial, number, start, undisturbed, tmp_path):
    random = np.random.RandomState(100 + trial)
    process = start(tmp_path)
    at_a_random_moment(random, tmp_path, process, (1, 2, 0)[trial % 3])
    time.sleep(0.3)  # Python itself has started
    asked = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    # 0 where all was over by then.
    assert process.returncode in (0, 128 + number), output
    assert time.monotonic() - asked < 30
    last = rows_of(tmp_path)[-1]['step'] if rows_of(tmp_path) else 0
    if 'saved step' in output or 'nothing is lost' in output:
        assert process.returncode == 128 + number
    if 'saved step' in output:
        assert f'saved step {last} in {tmp_path}' in output and 'python run.py --config' in output
        assert (tmp_path / f'checkpoints/{last}').exists()
    else:
        assert 'nothing is lost' in output or last == STEPS, output
    output = finish(start(tmp_path))
    assert (
        f'going on from the checkpoint of step {last}' in output
        or 'nothing is' in output
        or not last
    )
    assert_same_bits(tmp_path, undisturbed)


@pytest.mark.parametrize('trial', range(20))
def test_sigterm_at_a_random_moment(trial, start, undisturbed, tmp_path):
    assert_ends_in_peace_and_goes_on(trial, signal.SIGTERM, start, undisturbed, tmp_path)


def test_ctrl_c_saves_and_the_same_command_goes_on(start, undisturbed, tmp_path):
    assert_ends_in_peace_and_goes_on(0, signal.SIGINT, start, undisturbed, tmp_path)


def test_a_second_ctrl_c_stops_at_once(start, undisturbed, tmp_path):
    process = start(tmp_path, '--config.epochs=60')
    assert wait_for(rows_at_least(tmp_path, 3), process)
    os.kill(process.pid, signal.SIGSTOP)  # both arrive before the next step ends
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert ('without saving' in output) != ('saved step' in output)


def test_a_second_process_is_refused_and_a_dead_one_leaves_no_lock(start, undisturbed, tmp_path):
    first = start(tmp_path)
    assert wait_for(rows_at_least(tmp_path, 2), first)
    os.kill(first.pid, signal.SIGSTOP)
    second = start(tmp_path)
    holder = f'is in use by process {first.pid} on {socket.gethostname()}'
    assert holder in finish(second, status=2)
    first.kill()
    first.communicate()
    finish(start(tmp_path))
    assert_same_bits(tmp_path, undisturbed)


@pytest.mark.parametrize('limit', ['tmpfs', 'file size'])
@pytest.mark.parametrize('forever', [False, True])
def test_a_disk_that_fills_up_in_the_middle(limit, forever, start, undisturbed, tmp_path):
    workdir = tmp_path / 'disk/run'
    workdir.parent.mkdir()
    mounted = False
    if limit == 'tmpfs':
        mount = ['mount', '-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', str(workdir.parent)]
        mounted = not subprocess.run(mount, check=False, capture_output=True).returncode
        if not mounted:
            pytest.skip('mounting a tmpfs takes root')
    try:
        process = start(workdir)
        assert wait_for(lambda: (workdir / 'checkpoints/5/checksums.sha256').exists(), process)
        os.kill(process.pid, signal.SIGSTOP)
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        filler = workdir.parent / 'filler'
        if mounted:
            with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
        else:
            size = (workdir / 'metrics.jsonl').stat().st_size
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 10, unlimited[1]))
        os.kill(process.pid, signal.SIGCONT)
        if forever:
            output = finish(process, status=1)
            assert (
                'third time in a row' in output and 'Traceback' not in output.split('error: ')[-1]
            )
        else:
            seen = ''
            while 'tries again at the next' not in seen:
                seen += process.stdout.readline()
        with contextlib.suppress(FileNotFoundError):
            filler.unlink()
        if not mounted and not forever:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        finish(start(workdir) if forever else process)
        assert_same_bits(workdir, undisturbed)
    finally:
        process.kill()
        process.communicate()
        if mounted:
            subprocess.run(['umount', '-l', str(workdir.parent)], check=True)


def two_processes(start, workdir, *arguments):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    flags = (f'--coordinator=127.0.0.1:{port}', '--num_processes=2', *arguments)
    return [start(workdir, *flags, f'--process_id={i}', every=20) for i in range(2)]


def train_until(number, workdir, processes) -> list[float]:
    assert wait_for(rows_at_least(workdir, number), processes[0])
    for process in processes:
        process.kill()
        process.communicate()
    return [row['loss'] for row in read_metrics(workdir)[:number]]


@pytest.mark.parametrize(('before', 'after'), [(1, 8), (8, 1), ('two', 1)])
def test_another_number_of_devices_or_processes(before, after, start, tmp_path):
    """The steps after the checkpoint, against those of a run that goes on as it began."""
    # A gentle start: at the shipped rates, let alone those of the short runs, a last bit of the
    # state at step 20 is worth more than 1e-4 twenty steps later.
    flags = (
        '--config.batch_size=128',
        '--config.epochs=180',
        '--config.optimizer.warmup_epochs=60',
    )
    one, other = tmp_path / 'one', tmp_path / 'other'
    if before == 'two':
        processes = two_processes(start, one, *flags)
    else:
        processes = [start(one, *flags, devices=before, every=20)]
    want = train_until(41, one, processes)
    (other / 'checkpoints').mkdir(parents=True)
    shutil.copy(one / 'config.json', other)
    shutil.copytree(one / 'checkpoints/20', other / 'checkpoints/20')
    shutil.copy(one / 'metrics.jsonl', other)
    process = start(other, *flags, devices=after, every=20)
    assert any('going on from the checkpoint of step 20' in line for line in process.stdout)
    assert any(line.startswith('41/') for line in process.stdout)
    got = train_until(41, other, [process])
    print('largest difference', np.abs(np.subtract(got, want)).max())
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize('told', [0, 1])
def test_sigterm_to_one_of_two_processes_saves_in_both(told, start, tmp_path):
    processes = two_processes(start, tmp_path, '--config.epochs=60')
    assert wait_for(rows_at_least(tmp_path, 5), processes[0])
    asked = time.monotonic()
    processes[told].send_signal(signal.SIGTERM)
    outputs = [finish(process, status=143) for process in processes]
    assert time.monotonic() - asked < 60
    last = rows_of(tmp_path)[-1]['step']
    assert f'saved step {last} in {tmp_path}' in outputs[0]
    assert (tmp_path / f'checkpoints/{last}/checksums.sha256').exists()


@pytest.mark.parametrize('dead', [0, 1])
def test_one_of_two_processes_dies_and_the_other_says_so(dead, start, tmp_path):
    processes = two_processes(start, tmp_path, '--config.epochs=60')
    assert wait_for(rows_at_least(tmp_path, 5), processes[0])
    processes[dead].kill()
    died = time.monotonic()
    output, _ = processes[1 - dead].communicate(timeout=120)
    print(output[-3000:], time.monotonic() - died)
    assert processes[1 - dead].returncode not in (0, None)
    assert time.monotonic() - died < 60
    # The coordinator is in the first process: its death is seen by JAX's own thread.
    assert 'error: another process' in output or 'another task died' in output


def test_the_first_batch_at_step_a_million_takes_as_long_as_at_step_0(folder):
    from simclr_jax.augment.recipe import DIGITS
    from simclr_jax.data import pipeline, sources

    source = sources.open_source('digits', str(folder / 'data'), 'train')

    def seconds(start_step: int) -> float:
        began = time.perf_counter()
        options = {'seed': 0, 'batch_size': 128, 'image_size': 8, 'total_steps': 2_000_000}
        next(pipeline.train_batches(source, (DIGITS, DIGITS), start_step=start_step, **options))
        return time.perf_counter() - began

    seconds(0)
    times = np.array([(seconds(0), seconds(1_000_000)) for _ in range(5)])
    print('least seconds at 0 and at 1,000,000:', times.min(axis=0))
    assert times[:, 1].min() < 1.1 * times[:, 0].min()
