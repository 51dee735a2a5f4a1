"""What to do about a run that waits for its input."""

LIMIT = 0.05  # share of the time


def input_advice(
    share: float,
    *,
    backend: str,
    cache: str,
    workers: int = 0,
    on_cpu: bool = False,
    canvas: int = 0,
) -> str | None:
    """Returns what to do where `share` of the time went into waiting for input, None if little.

    Only what the run does not do already is proposed.

    Args:
      share: in [0, 1].
      backend: `augment.backend`.
      cache: `data.cache`.
      workers: `data.workers`.
      on_cpu: the train step and the input share the processor.
      canvas: side of what pictures are decoded into, in pixels; 0 where they all have one size.
    """
    if share <= LIMIT or cache == 'device':
        return None
    ways = []
    if backend == 'tf' and not on_cpu:
        ways.append("augment.backend='jax', so that the host only decodes")
    also = " with augment.backend='jax'" if backend == 'tf' else ''
    where = "this machine's" if on_cpu else "the device's"
    ways.append(f"data.cache='device'{also}, if the data fit {where} memory")
    if backend == 'jax' and canvas:
        ways.append(f'a smaller data.canvas than {canvas}')
    if workers:
        ways.append(f'data.workers=0 instead of {workers}, which uses every processor core')
    ways.append('more processor cores')
    return f'try {", ".join(ways)}'
