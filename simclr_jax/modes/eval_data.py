"""Which pictures the probes are trained and tested on: opened and checked before anything slow."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.config import ConfigError
from simclr_jax.data import label_matching, sources, splits
from simclr_jax.data.factory import how_to_open
from simclr_jax.data.sources import Source
from simclr_jax.data.splits import Labels

_TEST_SPLITS = ('test', 'validation', 'val')  # the first one with labels is taken
_DRAWN = ('train', 'test', 'all')  # splits of a folder without sub-folders that are splits
_HELD_OUT = 0.1  # of the training split, where there is no test split
_LEAST = 3  # pictures that some class needs: of fewer, none can be held out


@dataclasses.dataclass(frozen=True)
class EvalData:
    """The training and test pictures of the probes, which share none.

    Attributes:
      name: of the data set, or the path of the folder.
      train_split: what is trained on, in words.
      test_split: what is tested on, in words.
      train: its source.
      test: its source.
      labelled: whether probes can run on them; if not, the report shows pictures of them.
      seen: how many test pictures the pretraining saw, without their labels; None where that is
        not known.
      notes: what a user should know before the training, a line each.
    """

    name: str
    train_split: str
    test_split: str
    train: Source
    test: Source
    labelled: bool = False
    seen: int | None = 0
    notes: tuple[str, ...] = ()


class _Opened(NamedTuple):
    split: str
    source: Source
    labels: Labels


def open_eval_data(config: ConfigDict, pretrained_on: Source | None, *, needed: bool) -> EvalData:
    """Opens and checks everything that an evaluation opens.

    Where nothing in `config.eval` says what to evaluate on, and the run's own data have no labels
    or no test split, the result is not `labelled` and its notes say why.

    Args:
      config: of the run.
      pretrained_on: the source of `data.train_split`; None where there is no run, and nobody knows
        what the encoder has seen.
      needed: whether a probe has to run, so that missing labels are an error in any case; without
        a run it has to.

    Raises:
      ConfigError: data or labels are missing that the config, or `needed`, asks for.
    """
    place = _Place(config, pretrained_on)
    try:
        data = place.open_labelled(pretrained_on)
    except ConfigError as error:
        if needed or place.named:
            raise
        data = place.open_unlabelled(pretrained_on, str(error))
    if pretrained_on is None:
        return data
    channels, expected = data.train.image_shape[-1], pretrained_on.image_shape[-1]
    if channels != expected:
        raise ConfigError(
            f'{place.field}={place.name!r}: its images have {channels} channel(s), but those of '
            f'{config.data.dataset}, which the encoder is for, have {expected}'
        )
    return data


class _Place:
    """The data set or folder that `config.eval` names, or the run's own."""

    def __init__(self, config: ConfigDict, pretrained_on: Source | None):
        data, settings = config.data, config.eval
        self._config = config
        self._dataset = sources.FOLDER if settings.path else settings.dataset or data.dataset
        self._path = settings.path or data.path
        same = self._dataset == data.dataset and self._path == data.path
        self._labels = settings.labels or (data.labels if same else '')
        self._own = same and self._labels == data.labels
        self._data = pretrained_on.data if pretrained_on and self._own else None
        self.name = self._path if self._dataset == sources.FOLDER else self._dataset
        self.field = 'eval.path' if settings.path else 'eval.dataset'
        # What is named has to be right; where nothing is, the data are taken as they are.
        self.named = bool(
            settings.dataset
            or settings.path
            or settings.labels
            or settings.train_split
            or settings.test_split
        )

    def open_labelled(self, pretrained_on: Source | None) -> EvalData:
        """Raises ConfigError where the splits have no labels that probes can be run on."""
        config, settings = self._config, self._config.eval
        with self._errors_name_eval():
            names = self._splits()
        own_split = config.data.train_split
        train = self._first_labelled(
            'eval.train_split',
            settings.train_split,
            (own_split, 'train') if self._own and self._dataset != sources.FOLDER else ('train',),
            (*names, own_split),
        )
        self._check_classes(train)
        try:
            test = self._first_labelled('eval.test_split', settings.test_split, _TEST_SPLITS, names)
        except ConfigError as error:
            if self.named and settings.test_split:
                raise
            return self._hold_out(train, pretrained_on, str(error))
        return self._disjoint(train, test, pretrained_on)

    def open_unlabelled(self, pretrained_on: Source, reason: str) -> EvalData:
        """Returns pictures for the report, where nothing can be tested."""
        split = self._config.data.train_split
        train, test, test_split = pretrained_on, None, ''
        names = self._splits()
        for test_split in (name for name in _TEST_SPLITS if name in names):
            with contextlib.suppress(ConfigError):  # an empty one
                test = self._data.open(test_split)
                break
        if test is None and train.num_examples > 1:
            train, test = splits.hold_out(train, _HELD_OUT)
            test_split = f'a part of {split!r}'
        elif test is None:
            test, test_split = train, split
        note = f'no probes: {reason}; the report will show pictures of {test_split}'
        return EvalData(self.name, split, test_split, train, test, notes=(note,))

    def _first_labelled(
        self, field: str, named: str, candidates: tuple[str, ...], names: tuple[str, ...]
    ) -> _Opened:
        """Opens the split `named` or, where that is '', the first of `candidates` with labels."""
        reasons = []
        for split in (named,) if named else dict.fromkeys(candidates):
            if not named and split not in names:
                continue
            try:
                with self._errors_name_eval():
                    source = self._data.open(split)
            except ConfigError as error:
                reasons.append(f'{field}={split!r}: {error}' if named else str(error))
                continue
            self._check_one_label(source)
            source = splits.with_labels(source)
            labels = splits.read_labels(source)
            if labels.counts():
                return _Opened(split, source, labels)
            why = 'has no labels' if source.num_examples else 'is empty'
            if source.label_names is None and self._dataset == sources.FOLDER:
                why += self._where_labels_come_from()
            reasons.append(f'{self._words(split, field if named else "")} {why}')
        if not reasons:
            reasons = [f'{self.name} has none of the splits {", ".join(candidates)}']
        raise ConfigError(f'{"; ".join(reasons)}{self._hint("" if named else field)}')

    def _where_labels_come_from(self) -> str:
        if self._labels:
            return f', of which the table {self._labels} gives it none'
        return (
            ', which are the names of two or more sub-folders with every picture in one, or are in '
            f'a table that --config.{"eval" if self._config.eval.path else "data"}.labels names'
        )

    def _check_one_label(self, source: Source) -> None:
        if source.several is None:
            return
        many = int(np.count_nonzero((source.several == 1).sum(axis=1) > 1))
        field = 'eval.labels' if self._config.eval.labels else 'data.labels'
        raise ConfigError(
            f'{field}={self._labels!r}: a picture may have several labels (data.several_labels='
            f'True; {many:,} of {source.num_examples:,} have), and the probes take one; give a '
            'table of one label a picture as --config.eval.labels with '
            '--config.data.several_labels=False'
        )

    def _hint(self, field: str) -> str:
        if not field:
            return ''
        if self._dataset != sources.FOLDER or self._splits() != _DRAWN:
            return f'; name one with --config.{field}'
        if self._config.eval.path:
            return '; name a folder that has labels'
        return '; --config.eval.path=DIR names a folder that has labels'

    def _words(self, split: str, field: str = '') -> str:
        """Names a split by the field that the user has to change, where there is one."""
        if field:
            return f'{field}={split!r}: this split of {self.name}'
        if self._config.eval.path or self._config.eval.dataset:
            return f'{self.field}={self.name!r}: its split {split!r}'
        return f'split {split!r} of {self.name}'

    def _check_classes(self, train: _Opened) -> None:
        counts, named = train.labels.counts(), self._config.eval.train_split
        words = self._words(train.split, 'eval.train_split' if named else '')
        if len(counts) < 2:
            names = [repr(train.source.label_names[label]) for label in counts]
            raise ConfigError(
                f'{words} has one class only, {"".join(names)}: nothing to tell apart'
            )
        if max(counts.values()) < _LEAST and train.labels.exact:
            raise ConfigError(
                f'{words} has no class of {_LEAST} pictures or more: too few for a probe'
            )

    def _hold_out(self, train: _Opened, pretrained_on: Source | None, reason: str) -> EvalData:
        kept, held_out = splits.hold_out(train.source, _HELD_OUT)
        part = f'a tenth of {train.split!r}'
        note = f'{reason}. The probes are tested on {part}, {held_out.num_examples} pictures'
        opened = [
            _Opened(split, source, splits.read_labels(source))
            for split, source in ((f'the rest of {train.split!r}', kept), (part, held_out))
        ]
        return self._disjoint(*opened, pretrained_on, note)

    def _disjoint(
        self, train: _Opened, test: _Opened, pretrained_on: Source | None, *notes: str
    ) -> EvalData:
        """Takes the test pictures out of the training pictures."""
        common = splits.shared(train.source, test.source)
        notes = list(notes)
        if common.all():
            raise ConfigError(
                f'eval.train_split={train.split!r}: every picture of it is in '
                f'eval.test_split={test.split!r} too, so none is left to train on; name two splits '
                f'of {self.name} that differ'
            )
        train_split = train.split
        if common.any():
            kept = np.flatnonzero(~common)
            notes.append(
                f'the probes are trained on {len(kept)} of the {len(common)} pictures of '
                f'{train.split!r}: the others are test pictures (split {test.split!r})'
            )
            train_split = f'{train.split} without {test.split}'
            source = splits.subset(train.source, kept)
            train = _Opened(train_split, source, splits.read_labels(source))
            self._check_classes(train)
        seen = None
        if pretrained_on:
            seen = int(splits.shared(test.source, pretrained_on).sum())
        if seen:
            notes.append(
                f'{seen} of the {test.source.num_examples} test pictures are pretrained on, '
                'without their labels'
            )
        if train.labels.exact:
            notes += self._too_few(train)
        return EvalData(
            self.name, train_split, test.split, train.source, test.source, True, seen, tuple(notes)
        )

    def _too_few(self, train: _Opened) -> Iterator[str]:
        for probe in self._config.eval.after_pretrain:
            note = too_few_labels(
                train.labels.values,
                self._config[probe].get('labels_per_class', ()),
                train.source.label_names,
            )
            if note:
                yield f'{probe}: {note}'

    def _splits(self) -> tuple[str, ...]:
        if self._data is None:
            data = self._config.data
            sources.check_prepared(self._dataset, data.data_dir, self._path, self._labels)
            self._data = sources.open_data(
                self._dataset,
                data.data_dir,
                path=self._path,
                labels=self._labels,
                **how_to_open(self._config),
            )
        return self._data.splits

    @contextlib.contextmanager
    def _errors_name_eval(self) -> Iterator[None]:
        """What is wrong with another folder or data set is said of the field that names it."""
        try:
            yield
        except ConfigError as error:
            text = str(error)
            if self._config.eval.path:
                text = text.replace('data.path=', 'eval.path=')
            if self._config.eval.labels:
                text = text.replace('data.labels=', 'eval.labels=')
                if not self._config.data.several_labels:
                    text = text.replace(label_matching.OR_SEVERAL, ': the probes take one')
            if self._config.eval.dataset:
                text = text.replace('data.dataset=', 'eval.dataset=')
            raise ConfigError(text) from error


def too_few_labels(
    labels: np.ndarray, labels_per_class: tuple[int, ...], names: tuple[str, ...]
) -> str | None:
    """Says which of `labels_per_class` a class of `labels` `[n]` is too small for; None if none."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    left_out = [str(count) for count in labels_per_class if count > counts.min()]
    if not left_out:
        return None
    smallest = names[classes[counts.argmin()]]
    return (
        f'{" and ".join(left_out)} labels a class are left out, since {smallest!r} has only '
        f'{counts.min()} training pictures'
    )
