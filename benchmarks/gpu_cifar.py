"""CIFAR-10 in minutes: a ResNet-18 by SimCLR and BYOL, the pictures in device memory.

    python benchmarks/gpu_cifar.py --data=DIR --out=DIR --seconds=400

runs `run.py` with the recipes that ship, for as many epochs as the time allows, without TensorFlow,
and evaluates them as every run does: linear and k-NN accuracy on the test split. `DIR` has
`train/<class>/*` and `test/<class>/*`. The second run starts where the first has done its
training, so its start falls into the first one's evaluation.

Written: a row a method in `gpu_cifar.csv`; loss and the online probe's accuracy (of training
batches, as they are augmented) over time in `gpu_cifar_curve.csv`; each run's log, `result.json`
and `metrics.jsonl`.
"""

import argparse
import csv
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).parents[1]
PICTURES = 50_000
START, END = 30, 75  # seconds that reading and compiling, and evaluating, have taken on an H200
# A pair costs a BYOL run more: the target network embeds all views too, and a batch is smaller.
COST = {'simclr': 1.0, 'byol': 2.0}
COLUMNS = ('method', 'encoder', 'batch_size', 'epochs', 'training_seconds', 'command_seconds')
COLUMNS += ('pairs_per_second', 'input_wait', 'linear_all', 'linear_10', 'knn_all', 'probe')
COLUMNS += ('device', 'command')


def command(method: str, data: str, workdir: pathlib.Path, epochs: float, more: list[str]):
    """The command of a run; `more` are fields that are set last."""
    return [
        sys.executable,
        'run.py',
        f'--config=configs/{method}_cifar10.py',
        f'--workdir={workdir}',
        '--config.data.dataset=folder',
        f'--config.data.path={data}',
        '--config.data.cache=device',
        '--config.augment.backend=jax',
        '--config.model.dtype=bfloat16',
        f'--config.epochs={epochs:g}',
        f'--config.optimizer.warmup_epochs={min(10.0, epochs / 10):g}',
        '--config.eval.baselines=False',
        *(f'--config.{field}' for field in more),
    ]


def wait_for_training(process: subprocess.Popen, workdir: pathlib.Path, deadline: float) -> None:
    """Returns when the run has trained, has ended, or has no time left."""
    while process.poll() is None and time.monotonic() < deadline:
        if (workdir / 'result.json').exists():
            return
        time.sleep(0.2)


def stop(process: subprocess.Popen, grace: float = 5.0) -> None:
    """Ends a process that this one has started, and what that one has."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                continue


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    path = workdir / 'metrics.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def record(method: str, arguments: list[str], seconds: float, workdir: pathlib.Path, out) -> dict:
    """Copies what a run has left, and returns its row."""
    rows = read_metrics(workdir)
    for name in ('result.json', 'metrics.jsonl', 'report.html'):
        if (workdir / name).exists():
            shutil.copy(workdir / name, out / f'cifar_{method}_{name}')
    with (out / 'gpu_cifar_curve.csv').open('a', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        if not file.tell():
            writer.writerow(('method', 'seconds', 'epoch', 'loss', 'probe'))
        for row in rows:
            numbers = row['seconds'], row['epoch'], row['loss'], row.get('probe_accuracy', math.nan)
            writer.writerow((method, *(f'{number:.4f}' for number in numbers)))
    path = workdir / 'result.json'
    result = json.loads(path.read_text()) if path.exists() else {}
    config = json.loads((workdir / 'config.json').read_text()) if rows else {}

    def accuracy(probe: str, labels: str) -> str:
        found = result.get(probe, {}).get('encoder', {}).get(labels)
        return f'{100 * found["mean"]:.2f}' if found else ''

    pretrain = result.get('pretrain', {})
    recent = [row['probe_accuracy'] for row in rows[-5:] if 'probe_accuracy' in row]
    return {
        'method': method,
        'encoder': config.get('model.encoder', ''),
        'batch_size': config.get('batch_size', ''),
        'epochs': f'{rows[-1]["epoch"]:.1f}' if rows else '0',
        'training_seconds': f'{pretrain.get("seconds", rows[-1]["seconds"] if rows else 0):.1f}',
        'command_seconds': f'{seconds:.1f}',
        'pairs_per_second': f'{pretrain.get("images_per_second", 0):.0f}',
        'input_wait': f'{pretrain.get("input_wait", 0):.3f}',
        'linear_all': accuracy('linear_eval', 'all'),
        'linear_10': accuracy('linear_eval', '10'),
        'knn_all': accuracy('knn', 'all'),
        'probe': f'{100 * sum(recent) / len(recent):.2f}' if recent else '',
        'command': ' '.join(['python', *arguments[1:]]),
    }


def rate_of(out: pathlib.Path) -> float | None:
    """Pairs a second of SimCLR's step, with its views, as `gpu_step.py` has measured it here."""
    path = out / 'gpu_step.csv'
    if not path.exists():
        return None
    rates = [r for r in csv.DictReader(path.open()) if r['case'] == 'resnet18_512_views']
    return float(rates[-1]['pairs_per_second']) if rates else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', required=True)
    parser.add_argument('--out', default='.')
    parser.add_argument('--seconds', type=float, default=400, help='of all runs together')
    parser.add_argument('--methods', default='simclr,byol')
    parser.add_argument('--epochs', default='', help='of each method; what the time allows')
    parser.add_argument('--rate', type=float, default=0, help='pairs a second; as measured')
    parser.add_argument('--device', default='', help='its name, for the table')
    parser.add_argument('--runs', default='', help='folder of the workdirs')
    parser.add_argument('--set', action='append', default=[], help='FIELD=VALUE of the config')
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    runs = pathlib.Path(arguments.runs or out / 'runs').absolute()
    methods, begin = arguments.methods.split(','), time.monotonic()
    deadline = begin + arguments.seconds
    rate = arguments.rate or 0.9 * (rate_of(out) or 20_000)
    started, failed = [], 0
    given = [float(number) for number in arguments.epochs.split(',') if number]
    training = arguments.seconds - START * len(methods) - END
    for i, method in enumerate(methods):
        epochs = training / len(methods) * rate / COST[method] / PICTURES
        epochs = given[i] if given else max(1.0, float(int(epochs)))
        workdir = runs / f'{method}_{int(time.time())}'
        line = command(method, arguments.data, workdir, epochs, arguments.set)
        print(f'{method}: {epochs:g} epochs', flush=True)
        log = (out / f'cifar_{method}.log').open('a')
        # Two runs share the device's memory for a while.
        environment = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '.4'} | os.environ
        process = subprocess.Popen(
            line,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended: list[float] = []
        waits = threading.Thread(
            target=lambda p=process, e=ended: (p.wait(), e.append(time.time()))
        )
        waits.start()
        started.append((method, process, workdir, line, time.time(), ended, waits))
        wait_for_training(process, workdir, deadline)
    for method, process, workdir, line, start, ended, waits in started:
        waits.join(max(0.1, deadline - time.monotonic()))
        if process.poll() is None:
            print(f'{method}: out of time', flush=True)
            stop(process)
            waits.join()
        failed += process.returncode != 0
        row = record(method, line, ended[0] - start, workdir, out)
        row['device'] = arguments.device
        with (out / 'gpu_cifar.csv').open('a', newline='') as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)
        if process.returncode:
            print((out / f'cifar_{method}.log').read_text()[-3000:], flush=True)
    return failed


if __name__ == '__main__':
    sys.exit(main())
