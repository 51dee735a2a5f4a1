"""Which record is in which batch: a pure function of (seed, step).

An epoch is a permutation of the records, computed index by index by a keyed Feistel network with
cycle walking (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"), so that nothing is
shuffled in memory, nothing is stored in a checkpoint, and step 1,000,000 costs what step 0 costs.

Batches end with an epoch, or run on over its end. In the first case (PyTorch's `drop_last`) the
last `num_examples % batch_size` records of an epoch's order are left out, others each epoch, and no
batch holds a record twice. In the second (tf.data's `repeat` before `batch`, as in the original
SimCLR and BYOL) every record is read once an epoch, and a batch may hold the end of one epoch and
the start of the next, where a record can come twice.
"""

import numpy as np

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, splitmix64's increment
_MASK = (1 << 64) - 1


def batch_indices(
    seed: int, step: int, batch_size: int, num_examples: int, drop_remainder: bool = True
) -> np.ndarray:
    """Returns the records of the batch at `step`, `[batch]` int64 in [0, num_examples).

    Args:
      seed: of the order.
      step: counted from 0.
      batch_size: at most `num_examples`.
      num_examples: how many records there are.
      drop_remainder: whether an epoch ends with its last whole batch; else batches run on over it.

    Raises:
      ValueError: `batch_size` is larger than `num_examples`.
    """
    if batch_size > num_examples:
        raise ValueError(f'batch_size={batch_size} is larger than the {num_examples} examples')
    if drop_remainder:
        epoch, batch = divmod(step, num_examples // batch_size)
        first = batch * batch_size
    else:
        epoch, first = divmod(step * batch_size, num_examples)
    last = min(first + batch_size, num_examples)
    indices = permute(np.arange(first, last), num_examples, seed, epoch)
    if (missing := batch_size - len(indices)) == 0:
        return indices
    return np.concatenate([indices, permute(np.arange(missing), num_examples, seed, epoch + 1)])


def permute(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Maps `positions`, `[n]` in [0, size), through the permutation of (seed, epoch)."""
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys, state = [], _mix_int(_mix_int(seed) ^ epoch)
    for _ in range(_ROUNDS):
        state = (state + _GOLDEN) & _MASK
        keys.append(np.uint64(_mix_int(state)))
    values = _feistel(np.asarray(positions, np.uint64), half_bits, keys)
    # The network permutes [0, 4^half_bits), at most four times `size`: walk on until inside.
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, keys: list[np.uint64]) -> np.ndarray:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer (Steele et al. 2014); unsigned arithmetic wraps."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix_int(x: int) -> int:
    return int(_mix(np.array([(x + _GOLDEN) & _MASK], np.uint64))[0])
