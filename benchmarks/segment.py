"""What encoders are worth for segmentation: rows of `results/segment.csv` from finished runs.

    python benchmarks/segment.py --data=CamVid --machine="2 cores of ..." \
        --run "SimCLR on clothes, 20 epochs=runs/a" --run "SimCLR on CamVid=runs/b"

Each run is a workdir of `--mode=segment`. The untrained encoder and raw pixels are those of the
first run that has them: they do not depend on the encoder that was given.
"""

import argparse
import csv
import json
import pathlib
import subprocess

RESULTS = pathlib.Path(__file__).parent / 'results' / 'segment.csv'
COLUMNS = (
    *('data', 'maps', 'way', 'miou', 'pixel_accuracy', 'encoder', 'crop', 'epochs'),
    *('train_pictures', 'test_pictures', 'seconds', 'commit', 'machine', 'command'),
)


def rows_of(name: str, workdir: pathlib.Path, common: dict, seen: set) -> list[dict]:
    """A row for each way and each of the maps that no earlier run had."""
    result = json.loads((workdir / 'result.json').read_text())
    config = json.loads((workdir / 'config.json').read_text())
    entry, rows = result['segment'], []
    about = {
        'encoder': config['model.encoder'],
        'crop': config['data.image_size'],
        'epochs': config['epochs'],
        'train_pictures': entry['data']['train_pictures'],
        'test_pictures': entry['data']['test_pictures'],
        'seconds': round(result['training']['seconds']),
        'command': f'--mode=segment, segment.trained={config["segment.trained"]}, '
        f'segment.memory={config["segment.memory"]}',
    }
    for way, by_maps in entry.items():
        if way in ('data', 'settings', 'weights'):
            continue
        for maps, figures in by_maps.items():
            shown = name if maps == 'encoder' else maps.replace('_', ' ')
            if (way, shown) in seen:
                continue
            seen.add((way, shown))
            scores = {key: round(figures[key], 4) for key in ('miou', 'pixel_accuracy')}
            rows.append(common | about | {'maps': shown, 'way': way} | scores)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', required=True, help='what the pictures are called')
    parser.add_argument('--machine', required=True, help='where the runs were')
    parser.add_argument('--run', action='append', required=True, help='name=workdir')
    flags = parser.parse_args()
    commit = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True
    ).stdout.strip()
    common, rows, seen = {'data': flags.data, 'commit': commit, 'machine': flags.machine}, [], set()
    for text in flags.run:
        name, _, workdir = text.rpartition('=')
        rows += rows_of(name, pathlib.Path(workdir), common, seen)
    with RESULTS.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    print(f'{len(rows)} rows in {RESULTS}')


if __name__ == '__main__':
    main()
