"""What a table of labels gives to the files of a folder, found before a file is looked at."""

from collections.abc import Callable, Sequence

import numpy as np

from simclr_jax.data import label_matching, label_table
from simclr_jax.data.folder_files import Files, Folder, Names
from simclr_jax.data.folder_layout import lay_out, with_labels
from simclr_jax.data.picture_labels import PictureLabels, listed

# From a folder and its files to the labels of the files, and lines on what is odd about them.
FindLabels = Callable[[Folder, Files], tuple[PictureLabels, Sequence[str]]]


def finder(labels: str, path: str, several: bool | None, field: str = 'data.labels') -> FindLabels:
    """Returns what reads a table for a folder.

    Args:
      labels: the table, as a user names it.
      path: the folder, likewise.
      several: as for `label_matching.match`.
      field: what names the table.
    """

    def find(folder: Folder, files: Files) -> tuple[PictureLabels, Sequence[str]]:
        table = label_table.find(labels, path, field)
        rows = label_table.read(table, field)
        return label_matching.match(
            rows, files.names, folder.root, table, several=several, left_out=files.odd
        )

    return find


def look(folder: Folder, files: Files, find_labels: FindLabels | None) -> PictureLabels | None:
    """Returns a table's labels; prints what is odd about them, or about the classes by sub-folder.

    Args:
      folder: of the pictures.
      files: in it.
      find_labels: from `finder`; None where there is no table.

    Raises:
      ConfigError: the table cannot be used.
    """
    layout = lay_out(files.names, np.zeros(len(files.names), bool))
    labels, notes = find_labels(folder, files) if find_labels else (None, ())
    if labels:
        layout = with_labels(layout, labels)
    for note in (*notes, *layout.class_notes(files.names)):
        print(f'{labels.name if labels else folder.name}: {note}', flush=True)
    return labels


def about_bad(names: Names, good: np.ndarray, labels: PictureLabels | None) -> tuple[str, ...]:
    """Says which pictures have a label but are not `good` `[n]`; () where there are none."""
    if labels is None or not (lost := np.flatnonzero(labels.has_label() & ~good)).size:
        return ()
    pictures = f'{lost.size:,} picture{"s" * (lost.size != 1)}'
    return (f'{pictures} with a label cannot be read: {listed(names, lost)}',)
