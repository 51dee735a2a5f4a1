"""What a compiled program takes: FLOPs, bytes, memory, and collectives by kind."""

import re
from typing import Any

import jax

from simclr_jax.train.memory import program_bytes

COLLECTIVES = (
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'all-to-all',
    'collective-permute',
)
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 'f64': 8, 's64': 8, 'u64': 8}
_SHAPE = re.compile(r'\b(pred|bf16|[fsu](?:8|16|32|64))\[([\d,]*)\]')
_INSTRUCTION = re.compile(
    rf'= (\(.*?\)|\S+) ({"|".join(COLLECTIVES)})(-start)?\(.*?(?:channel_id=(\d+)|$)',
    flags=re.MULTILINE,
)


def collectives(text: str) -> list[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """The collectives of a program's text: kind, and (type, shape) of each array that results.

    Each is listed once, also where it is in a loop, or where the TPU's compiler has split it into
    steps of other work, which then stand for the same channel.
    """
    found, seen = [], set()
    for shapes, kind, start, channel in _INSTRUCTION.findall(text):
        if channel in seen:
            continue
        seen |= {channel} - {''}
        arrays = [
            (dtype, tuple(int(n) for n in dims.split(',') if n))
            for dtype, dims in _SHAPE.findall(shapes)
        ]
        if start and kind != 'all-reduce':  # its type lists operands, results, maybe two numbers
            arrays = [array for array in arrays if array != ('u32', ())]
            arrays = arrays[len(arrays) // 2 :]
        found.append((kind, arrays))
    return found


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of an array of an HLO type."""
    count = _BYTES.get(dtype, 4)
    for size in shape:
        count *= size
    return count


def cost(program: jax.stages.Compiled) -> dict[str, Any]:
    """What one device does in one call, as the compiler counts it.

    Returns:
      `flops`; `bytes` read and written; `memory`, the bytes of arguments, results and temporaries
      together; `temporary_bytes`; `collective_bytes`, results by kind.
    """
    counted = program.cost_analysis()
    by_kind = dict.fromkeys(COLLECTIVES, 0)
    for kind, arrays in collectives(program.as_text()):
        by_kind[kind] += sum(array_bytes(*array) for array in arrays)
    return {
        'flops': counted.get('flops', 0.0),
        'bytes': counted.get('bytes accessed', 0.0),
        'memory': program_bytes(program),
        'temporary_bytes': program.memory_analysis().temp_size_in_bytes,
        'collective_bytes': by_kind,
    }
