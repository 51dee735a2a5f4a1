"""What a command does: a mode is a file here, and a line of `MODES`.

The line says which flags the mode takes. It stands here, rather than in the mode's file, so that a
command is read without importing JAX: a mistake is answered within a second.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Mode:
    """The command line of one mode.

    Attributes:
      about: what it does, for --help.
      flags: what its `main` takes by name; None, or False of a switch, where it is not given.
      needs: those of `flags` that have to be there; of 'encoder or workdir' exactly one.
      config: whether it is about a run. It then takes --config, its fields and --workdir, and
        `main` gets the config and the workdir first.
      fields: flags that stand for a field of the config.
      trains: whether it is what a run consists of: it saves before it ends, and goes on.
    """

    about: str
    flags: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    config: bool = True
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    trains: bool = False


MODES = {
    'pretrain': Mode(
        'trains an encoder without labels, evaluates it and writes a report',
        fields={'encoder': 'start.encoder'},
        trains=True,
    ),
    'finetune': Mode(
        'trains an encoder and a classifier on labels, and tests it',
        fields={'encoder': 'start.encoder'},
        trains=True,
    ),
    'distill': Mode(
        'trains a student on what a classifier says of pictures, with labels or without',
        fields={'encoder': 'start.encoder', 'teacher': 'distill.teacher'},
        trains=True,
    ),
    'segment': Mode(
        'says how well an encoder tells what is at each pixel, from pictures with masks',
        fields={'encoder': 'start.encoder'},
        trains=True,
    ),
    'linear_eval': Mode(
        'evaluates a run again, or an encoder, by a linear classifier', flags=('step', 'encoder')
    ),
    'knn': Mode(
        'evaluates a run again, or an encoder, by a vote of nearest neighbours',
        flags=('step', 'encoder'),
    ),
    'transfer': Mode(
        "evaluates an encoder on other data sets, by the papers' linear protocol and few shots",
        flags=('encoder', 'data', 'workdir', 'labels'),
        needs=('encoder', 'data', 'workdir'),
        config=False,
    ),
    'embed': Mode(
        'writes a vector for each picture of a folder or a data set',
        flags=('encoder', 'data', 'output', 'labels', 'neighbours', 'overwrite'),
        needs=('encoder', 'data', 'output'),
        config=False,
    ),
    'predict': Mode(
        'writes the label of each picture of a folder, by a classifier',
        flags=('encoder', 'data', 'output', 'overwrite'),
        needs=('encoder', 'data', 'output'),
        config=False,
    ),
    'export': Mode(
        'writes an encoder as a file, for this library or for another one',
        flags=('encoder', 'workdir', 'step', 'format', 'output', 'overwrite', 'data'),
        needs=('encoder or workdir', 'format'),
        config=False,
    ),
    'preview': Mode('draws the first images of a run, with their views'),
    'plan': Mode(
        'says what a run would take on other chips', flags=('topology',), needs=('topology',)
    ),
    'bench': Mode('measures a part of a run', flags=('bench',), needs=('bench',)),
}
