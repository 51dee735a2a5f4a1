"""`--mode=transfer`: what an encoder is worth on other data sets, by the papers' protocol."""

import os
import pathlib
import shutil
import time
from typing import Any

import numpy as np
from jax.sharding import Mesh

import simclr_jax
from simclr_jax import interruption, parallel
from simclr_jax.command import command
from simclr_jax.config import ConfigError
from simclr_jax.data import label_lists, sources
from simclr_jax.evaluate import few_shot, metrics, subsets, transfer_sets
from simclr_jax.evaluate.parts import Parts
from simclr_jax.evaluate.rows import Rows
from simclr_jax.evaluate.transfer import STRENGTHS, Part, transfer_eval
from simclr_jax.modes import results
from simclr_jax.modes.picture_parts import check_colours, embed_missing, load, made_by_first
from simclr_jax.modes.transfer_data import (
    TEST,
    TRAIN,
    VALIDATION,
    Chosen,
    Pictures,
    choose,
    errors_name,
    open_pictures,
    slug,
)
from simclr_jax.progress import format_duration
from simclr_jax.report.transfer import format_transfer, write_transfer
from simclr_jax.weights import description
from simclr_jax.weights.description import Weights
from simclr_jax.weights.encoder import Encoder
from simclr_jax.workdir import agreement, lock

_GOES_ON = 'nothing is lost; the same command goes on where it was'
_HELD_OUT = 0.2  # of the training pictures, where nothing says what the strength is chosen on
_SEED = 0  # of what is held out


def main(*, encoder: str, data: str, workdir: str, labels: str | None = None) -> None:
    """Evaluates an encoder on several data sets; writes `result.json` and `transfer.html`.

    Figures of other data sets that are there already are kept. Features are kept in
    `WORKDIR/features/` until the figure is written: an interrupted command goes on where it was.

    Args:
      encoder: a workdir, an encoder file, or another library's weights.
      data: data sets and folders, with commas between them: `cifar10,dtd,~/pictures`.
      workdir: where the results go.
      labels: a table of the labels of the pictures, where `data` is one folder.

    Raises:
      ConfigError: one of these is wrong; nothing was written.
      RunError: a folder has gone, or the encoder makes no finite vectors.
    """
    interruption.install(_GOES_ON)
    chosen = choose(data, labels)
    loaded = load(encoder)
    about = _about(encoder, loaded.weights)
    _check_workdir(workdir, encoder, about)
    opened = {one.name: open_pictures(one, labels) for one in chosen}
    for parts in opened.values():
        check_colours(parts[0].listing, loaded, encoder)
        for note in parts[0].listing.class_notes:
            _say(note)
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    mesh = parallel.make_mesh()
    with lock.hold(workdir):
        agreement.check_shared(workdir)
        for one in chosen:
            _evaluate(one, opened[one.name], loaded, about, workdir, mesh)
    if parallel.is_main_process():
        entry = results.read(workdir)['transfer']
        print(f'\n{format_transfer(entry)}\n', flush=True)
        page = pathlib.Path(workdir) / 'transfer.html'
        write_transfer(page, entry, repr(loaded).strip('<>'), command())
        print(f'figures   {pathlib.Path(workdir) / "result.json"}\nreport    {page}', flush=True)


def _about(path: str, weights: Weights) -> dict[str, Any]:
    return {
        'path': path,
        'layout': weights.origin.get('layout', 'simclr_jax'),
        'checksum': description.checksum(weights),
        'architecture': weights.architecture.encoder,
        'preprocess': description.to_json(weights.preprocess),
    }


def _check_workdir(workdir: str, encoder: str, about: dict[str, Any]) -> None:
    if '://' in workdir:
        raise ConfigError(
            f'--workdir={workdir}: features are not kept in a bucket; name a folder on a disk'
        )
    if (pathlib.Path(workdir) / 'config.json').exists():
        raise ConfigError(
            f'--workdir={workdir}: holds a run, whose figures would be taken for those of '
            f'--encoder={encoder}; name another --workdir for the latter'
        )
    there = results.read(workdir).get('transfer', {}).get('weights')
    if there and there['checksum'] != about['checksum']:
        raise ConfigError(
            f'--workdir={workdir}: holds the figures of {there["path"]} (checksum '
            f'{there["checksum"][:12]}), not of --encoder={encoder}; name another --workdir'
        )


def _evaluate(
    one: Chosen,
    pictures: list[Pictures],
    encoder: Encoder,
    about: dict[str, Any],
    workdir: str,
    mesh: Mesh,
) -> None:
    """Writes the figures of one data set, unless they are there."""
    digest = ' '.join(part.listing.digest for part in pictures)
    done = made_by_first(lambda: results.read(workdir).get('transfer', {}).get('sets', {}))
    if done.get(one.name, {}).get('data', {}).get('digest') == digest:
        _say(f'{one.name}: its figures are there already, of the same pictures')
        return
    folders = [
        pathlib.Path(workdir) / 'features' / f'{slug(one, part)}-{about["checksum"][:12]}'
        for part in pictures
    ]
    features, labels, role, bad = _features(pictures, folders, encoder, about)
    counted, listing = None, pictures[0].listing
    names = listing.several.label_names if listing.several else listing.label_names
    if not names:
        labels, counted = _label_lists(one, pictures, labels)
    classes = len(names) if names else one.known.classes
    with errors_name(one):
        splits = _splits(one, features, labels, counted, role)
        start = time.monotonic()
        metric = one.known.metric if one.known and not listing.several else _metric(labels)
        found = transfer_eval(
            *splits, num_classes=classes, metric=metric, strengths=STRENGTHS, mesh=mesh
        )
        entry = {'metric': metric, **found}
        if labels.ndim == 1:
            entry['few_shot'] = _few_shot(splits, classes)
    train, validation, test = (len(part.labels) for part in splits)
    entry['data'] = {
        'place': one.place,
        'classes': classes,
        'train_pictures': train,
        'validation_pictures': validation,
        'test_pictures': test,
        'bad_pictures': bad,
        'validation': _words(role, VALIDATION),
        'test': _words(role, TEST),
        'digest': digest,
    }
    if one.known:
        entry['data']['note'] = one.known.note
        entry['published'] = _published(one, encoder.weights, train + validation, test)
    if parallel.is_main_process():
        there = results.read(workdir).get('transfer', {}).get('sets', {})
        entry = {'weights': about, 'sets': there | {one.name: entry}}
        results.write(workdir, 'transfer', entry)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    _say(
        f'{one.name}: {metric} {100 * found["value"]:.2f} of {test:,} test pictures, l2 '
        f'{found["l2"]:.3g}; fitted in {format_duration(time.monotonic() - start)}'
    )


def _features(
    pictures: list[Pictures], folders: list[pathlib.Path], encoder: Encoder, about: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Returns vectors `[n, dim]`, labels and roles `[n]` of the good pictures.

    Where a table gives several labels, they are `[n, class]`, -1 where it gives none. The last
    value is how many pictures are bad, which have no row.
    """
    count = sum(len(part.listing) for part in pictures)
    vectors = np.empty((count, encoder.dim), np.float32)
    labels, roles, end, bad = [], np.empty(count, object), 0, 0
    for part, folder in zip(pictures, folders, strict=True):
        listing = part.listing
        parts = Parts(folder, len(listing))
        claim = {
            'encoder': about['checksum'],
            'data': listing.digest,
            'dim': encoder.dim,
            'version': simclr_jax.__version__,
        }
        missing = made_by_first(lambda p=parts, c=claim: _begin(p, c))
        embed_missing(listing, encoder, parts, missing)
        parallel.wait_for_all()
        bad, rows = bad + len(listing.odd), []
        for done in parts.all():
            place = slice(end, end + len(done.rows))
            vectors[place], end = done.vectors, place.stop
            rows.append(done.rows)
            labels.append(done.labels)
            roles[place] = [part.role(row) for row in done.rows.tolist()]
            bad += len(done.bad)
        if listing.several:
            labels = [listing.several.matrix(np.concatenate(rows))]  # of its one listing
    return vectors[:end], np.concatenate(labels), roles[:end], bad


def _begin(parts: Parts, about: dict[str, Any]) -> list[int]:
    os.makedirs(parts.folder, exist_ok=True)
    parts.claim(about, start_over=True)
    return parts.missing()


def _label_lists(
    one: Chosen, pictures: list[Pictures], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for part in pictures:
        source = sources.open_source(one.place, '', part.split)
        found.append(
            label_lists.read_label_lists(source.read, source.num_examples, one.known.classes)
        )
    targets, counted = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if len(targets) != len(labels):
        raise ConfigError(
            f'--data={one.name}: {len(targets) - len(labels)} of its pictures cannot be read, so '
            'labels and pictures do not go together; prepare it again'
        )
    return targets, counted


def _splits(
    one: Chosen,
    features: np.ndarray,
    labels: np.ndarray,
    counted: np.ndarray | None,
    role: np.ndarray,
) -> tuple[Part, Part, Part]:
    """Returns training, validation and test examples; what is missing is held out of the first."""
    labelled = labels >= 0 if labels.ndim == 1 else (labels >= 0).all(axis=1)
    train, validation, test = (
        np.flatnonzero(labelled & (role == name)) for name in (TRAIN, VALIDATION, TEST)
    )
    if not len(test):
        train, test = _hold_out(train, labels, _HELD_OUT)
    if not len(validation):
        share = one.known.held_out if one.known and not one.known.validation else _HELD_OUT
        train, validation = _hold_out(train, labels, share)
    return tuple(
        Part(Rows(features, index), labels[index], None if counted is None else counted[index])
        for index in (train, validation, test)
    )


def _hold_out(index: np.ndarray, labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples at random, always alike; of every class about `share` is held out."""
    strata = labels[index] if labels.ndim == 1 else np.zeros(len(index), np.int64)
    kept, held_out = subsets.holdout_split(strata, share, _SEED)
    return index[kept], index[held_out]


def _few_shot(splits: tuple[Part, Part, Part], classes: int) -> dict[str, dict[str, float]]:
    """Of all pictures that are not tested; more labels a class than any has are left out."""
    train, validation, test = splits
    index = np.concatenate([train.features.index, validation.features.index])
    labels = np.concatenate([train.labels, validation.labels])
    most = np.bincount(labels).max()
    return few_shot.few_shot_eval(
        Rows(train.features.values, index),
        labels,
        test.features,
        test.labels,
        num_classes=classes,
        shots=[shots for shots in few_shot.SHOTS if shots <= most],
    )


def _metric(labels: np.ndarray) -> str:
    return metrics.SEVERAL if labels.ndim == 2 else 'top_1'


def _words(role: np.ndarray, name: str) -> str:
    return f'split {name}' if (role == name).any() else 'held out of the training pictures'


def _published(one: Chosen, weights: Weights, fitted: int, tested: int) -> dict[str, Any]:
    """Returns the published figures; why they are left out, where the recipe is another one."""
    rows = transfer_sets.published(one.known.name)
    if not rows:
        return {'left_out': 'the papers have no such figure'}
    architecture, see = weights.architecture, weights.preprocess
    reasons = {
        'they are of a ResNet-50 and its own features': architecture.encoder == 'resnet50'
        and architecture.width == 1
        and not architecture.sk_ratio
        and not architecture.head_layers,
        'they are of pictures whose shorter side is 224 pixels, bicubic, whole': see.size == 224
        and see.crop == 1.0
        and see.interpolation == 'bicubic',
        'they are of other numbers of pictures': transfer_sets.same_pictures(
            one.known, fitted, tested
        ),
    }
    for reason, same in reasons.items():
        if not same:
            return {'left_out': reason}
    return {'percent': rows}


def _say(line: str) -> None:
    if parallel.is_main_process():
        print(line, flush=True)
