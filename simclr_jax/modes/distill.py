"""`--mode=distill`: trains a student on what a classifier says of pictures, and tests both."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import parallel
from simclr_jax.config import FINETUNE, SCRATCH, ConfigError
from simclr_jax.data import sources, splits
from simclr_jax.data.factory import open_split
from simclr_jax.data.folder_index import describe_bad
from simclr_jax.data.sources import Source
from simclr_jax.evaluate import calibration
from simclr_jax.evaluate.predictions import Predictions, figures, of_logits
from simclr_jax.modes import labelled, results, start, teacher
from simclr_jax.modes.comparison import Compared
from simclr_jax.modes.distill_report import write_distill_report
from simclr_jax.modes.encoder_file import write_classifier
from simclr_jax.modes.eval_data import EvalData, open_eval_data
from simclr_jax.modes.finetune import train_classifier
from simclr_jax.modes.labelled import Labelled
from simclr_jax.modes.outputs import logits_of
from simclr_jax.modes.reporting import save_views
from simclr_jax.train.loop import train
from simclr_jax.train.memory import DoesNotFit
from simclr_jax.train.out_of_memory import EVALUATION, explained
from simclr_jax.train.setup import Run, prepare
from simclr_jax.weights.description import Weights
from simclr_jax.workdir.agreement import check_same_data, check_shared
from simclr_jax.workdir.claim import Held, check_claim, claim_workdir, release_workdir
from simclr_jax.workdir.lock import hold
from simclr_jax.workdir.programs import keep_programs

TEACHER, STUDENT, LABELS_ALONE = 'teacher', 'student', 'labels_alone'  # of result.json
_TRAINING = 'training'


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What a student learns from and is tested on.

    Attributes:
      train: the pictures of `data.train_split` that are no test pictures; those whose labels are
        not to be seen have none.
      few: those whose labels are seen; None where no label is learned from.
      split: what was opened as `data.train_split`.
      test: the test pictures, and what is to be said of them.
    """

    train: Source
    few: Source | None
    split: Source
    test: EvalData


def main(config: ConfigDict, workdir: str) -> None:
    """Trains, or goes on where the workdir's last checkpoint is, then tests student and teacher."""
    if not config.start.encoder:
        raise ConfigError(
            'start.encoder: name what the student starts from with --encoder=PATH, a workdir or a '
            f'file of weights; --encoder={SCRATCH} trains a random one'
        )
    with hold(workdir):
        check_shared(workdir)
        keep_programs(workdir)
        held, weights = check_claim(config, workdir), start.read(config, workdir)
        master = teacher.read(config, workdir)
        pictures = open_pictures(config, master, held)
        run = prepare(config, held, weights, pictures.train, master)
        of_fields = pictures.train, pictures.test.test
        for field, source in zip(('data.train', 'eval.test'), of_fields, strict=True):
            check_same_data(f'{field}_split', source.num_examples, source.label_names)
        start.keep(workdir, weights)
        teacher.keep(workdir, master)
        claim_workdir(config, workdir, pictures.split.held)
        _say(_describe(run, workdir, pictures))
        if pictures.split.description:
            _say(pictures.split.description)
        if not pictures.test.labelled:
            _say('\n'.join(pictures.test.notes))
        if run.source.bad:
            _say(describe_bad(run.source.bad))
        try:
            state, training, views = train(run, workdir)
        except DoesNotFit:
            release_workdir(workdir)
            raise
        if views is not None and parallel.is_main_process():
            save_views(workdir, views)
        if views is not None or _TRAINING not in results.read(workdir):
            results.write(workdir, _TRAINING, training)
        variables = state.all_variables()
        write_classifier(run, workdir, variables, master.classifier.names)
        _test(run, workdir, variables, pictures)


def open_pictures(config: ConfigDict, master: Weights, held: Held | None = None) -> Pictures:
    """Opens and checks what a student learns from and is tested on.

    Args:
      config: of the run.
      master: the teacher.
      held: what its data held when it began; None for one that begins.

    Raises:
      ConfigError: the data are not there, or their labels are not the teacher's.
    """
    data, settings = config.data, config.distill
    sources.check_prepared(data.dataset, data.data_dir, data.path, data.labels)
    split = open_split(config, data.train_split, held)
    test = open_eval_data(config, split, needed=False)
    if test.labelled:
        _check_names(f'eval.test_split={test.test_split!r}', test.test, config, master)
    kept = np.flatnonzero(~splits.shared(split, test.test))
    if not len(kept):
        raise ConfigError(
            f'data.train_split={data.train_split!r}: all its pictures are test pictures '
            f'(eval.test_split={test.test_split!r}); name two splits that differ'
        )
    train = split if len(kept) == split.num_examples else splits.subset(split, kept)
    if settings.alpha == 1 and not settings.labels_alone:
        return Pictures(train, None, split, test)
    field = 'distill.alpha' if settings.alpha < 1 else 'distill.labels_alone'
    field = f'{field}={settings[field.removeprefix("distill.")]}'
    labels = splits.read_labels(train)
    if not labels.counts():
        raise ConfigError(
            f'{field}: data.train_split={data.train_split!r} of {data.dataset} has no labels to '
            'learn from; leave it out, and the teacher alone is learned from'
        )
    _check_names(f'data.train_split={data.train_split!r}', train, config, master)
    few = train
    if labels.exact:
        few = splits.subset(train, np.flatnonzero(labels.values >= 0))
    known = labels.values[labels.values >= 0] if labels.exact else None
    few = labelled.choose(config, Labelled(few, known, split, test))
    if few.num_examples < train.num_examples:
        train = splits.hide_labels(train, ~splits.shared(train, few))
    return Pictures(train, few, split, test)


def _check_names(field: str, source: Source, config: ConfigDict, master: Weights) -> None:
    names, own = master.classifier.names, source.label_names or ()
    if own == names:
        return
    new, gone = ([n for n in a if n not in b] for a, b in ((own, names), (names, own)))
    differ = [
        f'{text} {", ".join(map(repr, found[:3]))}{" ..." if len(found) > 3 else ""}'
        for text, found in (('the teacher does not know', new), ('they lack', gone))
        if found
    ]
    raise ConfigError(
        f'{field}: its {len(own)} classes are not the {len(names)} labels of '
        f'distill.teacher={config.distill.teacher!r}: '
        f'{"; ".join(differ) or "they have another order"}; pictures with the labels of the '
        'teacher are named with --config.eval.path and --config.eval.test_split'
    )


@explained('evaluation', EVALUATION)
def _test(run: Run, workdir: str, variables: Any, pictures: Pictures) -> None:
    """Writes accuracies and agreement of teacher and student, and a report."""
    config, test, master = run.config, pictures.test.test, run.teacher
    logits, labels = logits_of(run.method.network, variables, test, config, run.mesh)
    of_teacher, _ = logits_of(
        run.method.teacher.network, run.fixed[0], test, as_seen_by(master, config), run.mesh
    )
    own, said = of_logits(logits), of_logits(of_teacher)
    entry: dict[str, Any] = {'agreement': float(np.mean(own.classes[:, 0] == said.classes[:, 0]))}
    found = {TEACHER: said, STUDENT: own}
    if config.distill.labels_alone:
        found[LABELS_ALONE] = _of_labels_alone(run, workdir, pictures, test)
    if pictures.test.labelled:
        count, key = len(master.classifier.names), _labels_of(config, master)
        entry |= {way: {key: figures([each], labels, count)} for way, each in found.items()}
    sureness = calibration.figures(logits, labels, 1.0) if pictures.test.labelled else None
    if sureness:
        results.write(workdir, results.CALIBRATION, sureness)
    entry['weights'] = {'path': config.distill.teacher, 'checksum': config.distill.checksum}
    entry['parameters'] = {
        TEACHER: _count(master.variables['params']),
        STUDENT: _count(variables['params']),
    }
    entry['data'] = {
        'name': pictures.test.name,
        'train_split': config.data.train_split,
        'test_split': pictures.test.test_split,
        'train_pictures': pictures.train.num_examples,
        'test_pictures': int(np.sum(labels >= 0)) if pictures.test.labelled else len(labels),
    }
    entry['settings'] = config.distill.to_dict() | {
        name: config.finetune[name] for name in ('labels', 'draw')
    }
    results.write(workdir, results.DISTILL, entry)
    if parallel.is_main_process():
        print(f'\n{results.format_results(results.read(workdir))}\n', flush=True)
        print(f'teacher and student agree on {100 * entry["agreement"]:.1f} %', flush=True)
        print(f'figures   {epath.Path(workdir) / "result.json"}', flush=True)
        report = epath.Path(workdir) / 'report.html'
        compared = Compared(entry, labels, own)
        write_distill_report(report, run, workdir, pictures.test, compared, sureness)
        print(f'report    {report}', flush=True)


def as_seen_by(master: Weights, config: ConfigDict) -> ConfigDict:
    """Returns the config with the pictures as a classifier sees them."""
    config, seen = config.copy_and_resolve_references(), master.preprocess
    config.data.update(
        image_size=seen.size,
        eval_crop=seen.crop,
        eval_interpolation=seen.interpolation,
        eval_antialias=seen.antialias,
        mean=seen.mean,
        std=seen.std,
    )
    return config


def _of_labels_alone(run: Run, workdir: str, pictures: Pictures, test: Source) -> Predictions:
    """Trains the same student as long on the labels alone; goes on where it was, as the run does.

    Raises:
      RunError: the training diverged.
    """
    config = run.config.copy_and_resolve_references()
    config.method = FINETUNE
    config.finetune.min_steps = run.length.total_steps
    config.data.drop_remainder = False  # there may be fewer pictures than a batch has
    _say(f'\nthe same student on {pictures.few.num_examples:,} labels alone:')
    place = epath.Path(workdir) / LABELS_ALONE
    trained = train_classifier(config, str(place), pictures.few, run.start)
    network = trained.run.method.network
    return of_logits(logits_of(network, trained.variables, test, config, run.mesh)[0])


def _labels_of(config: ConfigDict, master: Weights) -> str:
    """Returns how many labels the teacher learned from, as far as is known."""
    of_teacher = master.origin.get('config', {})
    known = of_teacher if of_teacher.get('method') == FINETUNE else {}
    return str(known.get('finetune.labels', config.finetune.labels))


def _count(params: Any) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))


def _describe(run: Run, workdir: str, pictures: Pictures) -> str:
    config, names = run.config, run.teacher.classifier.names
    labels = 'no labels'
    if config.distill.alpha < 1:
        labels = f'{pictures.few.num_examples:,} labels (distill.alpha={config.distill.alpha:g})'
    return (
        f'distilling {run.teacher.architecture.encoder} into {config.model.encoder} on '
        f'{config.data.dataset}: {run.source.num_examples:,} pictures and {labels}, {len(names)} '
        f'classes, tested on {pictures.test.test.num_examples:,} pictures of '
        f'{pictures.test.test_split}; {run.length.total_steps} steps, '
        f'{run.mesh.devices.size} device(s); workdir {workdir}'
    )


def _say(text: str) -> None:
    if parallel.is_main_process():
        print(text, flush=True)
