"""Running out of memory, as an error that says what helps."""

import contextlib
import re
from collections.abc import Iterator

import jax

from simclr_jax.config import RunError
from simclr_jax.config_auto import GIB

TRAINING = """\
optimizer.accumulation_steps=2 (or 4, 8): micro-batches, with all negatives and the same batch
model.remat=blocks (or full): computes activations again instead of keeping them
a smaller batch_size, data.image_size or model.encoder; --mode=plan says what fits a TPU"""
EVALUATION = """\
a smaller eval.batch_size, such as 64
eval.baselines=False: without the untrained encoder and raw pixels
fewer linear_eval.labels_per_class and knn.labels_per_class, or a part of a split: 'train[:10%]'"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, its compiler or the host had no room."""
    text = str(error)
    return isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text or 'bad_alloc' in text


def refused(message: str) -> float | None:
    """Returns the bytes that a refusal says are needed, None where it does not."""
    used = re.search(r'Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds', message)
    if used:
        number, unit = used.group(1, 2) if used[1] else used.group(3, 4)
        return float(number) * 1024 ** ('KMGT'.index(unit) + 1)
    allocated = re.search(
        r'[Oo]ut of memory (?:while trying to allocate|allocating) (\d+)', message
    )
    return float(allocated[1]) if allocated else None


@contextlib.contextmanager
def explained(what: str, ways: str) -> Iterator[None]:
    """Turns running out of memory into one error that says what helps.

    Args:
      what: what goes on inside, such as 'training'.
      ways: what helps, a line each.

    Raises:
      RunError: there was no room inside.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = refused(str(error))
        amount = f' {size / GIB:.2f} GiB more were asked for;' if size else ''
        listed = '\n'.join(f'  {line}' for line in ways.splitlines())
        raise RunError(
            f'out of memory during {what}:{amount} what was saved before is whole, and one of '
            f'these helps:\n{listed}'
        ) from error
