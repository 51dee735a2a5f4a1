"""How far a digits recipe's accuracy depends on its seed: the real command, once a seed.

    python benchmarks/digits_seeds.py --config=configs/simclr_digits.py --seeds=10

Each seed is a run of its own in `runs/digits_seeds/RECIPE/SEED`, from scratch: what is there is
removed first. Its accuracies, in percent of the 500 test images, and its seconds become a row of
`benchmarks/results/digits.csv`, in place of an earlier row of that recipe and seed. The seconds are
as long as other work on the machine made them: measure them alone.

To choose between settings compare folds of the training split instead: this is the test split.
"""

import argparse
import csv
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks/results/digits.csv'
ACCURACIES = ('linear_all', 'linear_10', 'knn_all')
FIELDS = ('recipe', 'seed', *ACCURACIES, 'training_seconds', 'command_seconds')


def run(config: str, seed: int, workdir: pathlib.Path) -> dict[str, str]:
    """Returns the row of one run of the command."""
    shutil.rmtree(workdir, ignore_errors=True)
    command = [sys.executable, 'run.py', f'--config={config}', f'--config.seed={seed}']
    command += [f'--workdir={workdir}']
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(done.stdout)
    result = json.loads((workdir / 'result.json').read_text())
    linear, knn = result['linear_eval']['encoder'], result['knn']['encoder']
    found = (linear['all'], linear['10'], knn['all'])
    percent = [f'{accuracy["mean"] * 100:.2f}' for accuracy in found]
    return {
        'recipe': pathlib.Path(config).stem,
        'seed': str(seed),
        **dict(zip(ACCURACIES, percent, strict=True)),
        'training_seconds': f'{result["pretrain"]["seconds"]:.0f}',
        'command_seconds': f'{seconds:.0f}',
    }


def read() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open() as file:
        return list(csv.DictReader(file))


def write(row: dict[str, str]) -> None:
    """Writes the table with `row` in place of an earlier one of that recipe and seed."""
    rows = [old for old in read() if (old['recipe'], old['seed']) != (row['recipe'], row['seed'])]
    rows = sorted([*rows, row], key=lambda row: (row['recipe'], int(row['seed'])))
    with RESULTS.open('w') as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def summary(recipe: str) -> str:
    """Returns mean, standard deviation over seeds and least of each accuracy in the table."""
    rows = [row for row in read() if row['recipe'] == recipe]
    lines = [f'{recipe}, {len(rows)} seeds']
    for name in ACCURACIES:
        values = [float(row[name]) for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else float('nan')
        mean = statistics.mean(values)
        lines.append(f'  {name:10} {mean:.2f} +- {deviation:.2f}, least {min(values):.2f}')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--config', default='configs/simclr_digits.py')
    parser.add_argument('--seeds', type=int, default=10, help='seeds 0 to SEEDS - 1')
    parser.add_argument('--first', type=int, default=0, help='leave out the seeds before this one')
    arguments = parser.parse_args()
    recipe = pathlib.Path(arguments.config).stem
    for seed in range(arguments.first, arguments.seeds):
        row = run(arguments.config, seed, ROOT / 'runs/digits_seeds' / recipe / str(seed))
        write(row)
        print(', '.join(f'{name} {value}' for name, value in row.items()), flush=True)
    print(summary(recipe))


if __name__ == '__main__':
    main()
