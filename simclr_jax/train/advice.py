"""What to do about a run that waits for its input."""

LIMIT = 0.05  # share of the time


def input_advice(share: float, *, backend: str, cache: str) -> str | None:
    """Returns what to do where `share` of the time went into waiting for input, None if little.

    Args:
      share: in [0, 1].
      backend: `augment.backend`.
      cache: `data.cache`.
    """
    if share <= LIMIT or cache == 'device':
        return None
    ways = ["data.cache='device' with augment.backend='jax' if the data fits the device's memory"]
    if backend == 'tf':
        ways.insert(0, "augment.backend='jax', so that the host only decodes")
    else:
        ways.append('a smaller data.canvas')
    ways.append('data.workers=0 and more processor cores')
    return f'{share:.0%} of the time went into waiting for input; try {", ".join(ways)}'
