"""How many labels one needs: what fine-tuning ends with, as a table.

    python benchmarks/few_labels.py --data=CIFAR-10 --about='SimCLR, 4 epochs' \
        --workdir=runs/few --config=... --encoder=...

runs `run.py --mode=finetune` with the arguments that are not its own, and puts the accuracies of
its comparison into `benchmarks/results/few_labels.csv`, in percent of the test pictures: a row
for each way and each number of labels, in place of earlier rows of the same data and encoder. A
comparison that was interrupted goes on where it was. `seconds` are of the whole command, as long as
other work on the machine made them; `load` is what waited for a core when it ended.
"""

import argparse
import csv
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks/results/few_labels.csv'
KEY = ('data', 'encoder')
FIELDS = (*KEY, 'way', 'labels', 'mean', 'std', 'draws', 'test_pictures', 'seconds', 'load')
FIELDS += ('machine', 'commit', 'command')
WAYS = ('fine_tuned', 'linear', 'knn', 'scratch')


def run(arguments: list[str]) -> float:
    """Returns how many seconds the command took.

    Raises:
      SystemExit: it failed; its output is on the screen.
    """
    start = time.monotonic()
    done = subprocess.run([sys.executable, 'run.py', '--mode=finetune', *arguments], cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)
    return time.monotonic() - start


def rows(result: dict, about: dict[str, str]) -> list[dict[str, str]]:
    """Returns a row for each way and number of labels of `result.json`."""
    entry = result['finetune']
    return [
        about
        | {
            'way': way,
            'labels': labels,
            'mean': f'{100 * figures["mean"]:.2f}',
            'std': f'{100 * figures["std"]:.2f}',
            'draws': str(len(figures['draws'])),
            'test_pictures': str(entry['data']['test_pictures']),
        }
        for way in WAYS
        for labels, figures in entry.get(way, {}).items()
    ]


def write(new: list[dict[str, str]]) -> None:
    """Writes the table with new rows in place of those of the same data and encoder."""
    kept = []
    if RESULTS.exists():
        with RESULTS.open() as file:
            kept = list(csv.DictReader(file))
    replaced = {tuple(row[name] for name in KEY) for row in new}
    kept = [row for row in kept if tuple(row[name] for name in KEY) not in replaced]
    with RESULTS.open('w') as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator='\n')
        writer.writeheader()
        writer.writerows([*kept, *new])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--data', required=True, help='what the data are called in the table')
    parser.add_argument('--about', required=True, help='how the encoder was pretrained')
    parser.add_argument('--workdir', required=True)
    known, rest = parser.parse_known_args()
    workdir = str(pathlib.Path(known.workdir).absolute())
    seconds = run([*rest, f'--workdir={workdir}'])
    commit = ['git', 'rev-parse', '--short', 'HEAD']
    about = {
        'data': known.data,
        'encoder': known.about,
        'seconds': f'{seconds:.0f}',
        'load': f'{os.getloadavg()[0]:.1f}',
        'machine': f'{os.cpu_count()} cores, {platform.machine()}',
        'commit': subprocess.check_output(commit, cwd=ROOT, text=True).strip(),
        # Folders are of one machine: their last part says enough.
        'command': ' '.join(['python run.py --mode=finetune', *map(_without_folders, rest)]),
    }
    new = rows(json.loads((pathlib.Path(workdir) / 'result.json').read_text()), about)
    write(new)
    for row in new:
        print(', '.join(row[name] for name in ('way', 'labels', 'mean', 'std')), flush=True)


def _without_folders(argument: str) -> str:
    name, equals, value = argument.partition('=')
    return f'{name}=DIR' if value.startswith(('/', '~')) else f'{name}{equals}{value}'


if __name__ == '__main__':
    main()
