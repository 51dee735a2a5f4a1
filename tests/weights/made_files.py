"""Files of weights as PyTorch and others write them, made without them, and hostile ones."""

import hashlib
import io
import json
import struct
import zipfile
import zlib

import numpy as np
import safetensors.numpy
from random_weights import random_weights

from simclr_jax.weights import native, torch_layout, torchvision
from simclr_jax.weights.description import Architecture, flat

TINY = Architecture('resnet_tiny')
SAME = Architecture('resnet_tiny', padding='same')  # as BYOL has it
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Global(str):
    """A name that a pickle would import: 'os.system'."""


class Call(tuple):
    """(function, arguments) and, if there is a third, the state for BUILD."""


class Persistent(tuple):
    """(identity,)"""


class Raw(bytes):
    """Opcodes as they are."""


def opcodes(value) -> bytes:
    """Returns the opcodes, of protocol 2, that push a value."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Global):
        module, _, name = value.rpartition('.')
        return f'c{module}\n{name}\n'.encode()
    if isinstance(value, Call):
        function, arguments, *state = value
        build = opcodes(state[0]) + b'b' if state else b''
        return opcodes(function) + opcodes(arguments) + b'R' + build
    if isinstance(value, Persistent):
        return opcodes(value[0]) + b'Q'
    if value is None or isinstance(value, bool):
        return {None: b'N', True: b'\x88', False: b'\x89'}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b'\x8a' + bytes([size]) + value.to_bytes(size, 'little', signed=True)
    if isinstance(value, float):
        return b'G' + struct.pack('>d', value)
    if isinstance(value, str):
        return b'X' + struct.pack('<I', len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b'B' + struct.pack('<I', len(value)) + value
    inner = b''.join(
        opcodes(key) + opcodes(item) if isinstance(value, dict) else opcodes(key)
        for key, item in (value.items() if isinstance(value, dict) else zip(value, value))  # noqa: B905
    )
    opening, closing = {dict: (b'}(', b'u'), list: (b'](', b'e'), tuple: (b'(', b't')}[type(value)]
    return opening + inner + closing


def pickled(value) -> bytes:
    return b'\x80\x02' + opcodes(value) + b'.'


def state_dict(architecture: Architecture = TINY) -> dict[str, np.ndarray]:
    """A ResNet of 40,000 parameters in torchvision's layout."""
    weights = random_weights(architecture)
    table = torch_layout.resnet_table(flat(weights.variables), torchvision.RESNET)
    return torch_layout.write(weights, table)


def tensor(key, shape, strides=None, first=0, kind='FloatStorage', count=None):
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    count = int(np.prod(shape)) if count is None else count
    storage = Persistent((('storage', Global(f'torch.{kind}'), key, 'cpu', count),))
    hooks = Call((Global('collections.OrderedDict'), ()))
    arguments = (storage, first, tuple(shape), tuple(strides), False, hooks)
    return Call((Global('torch._utils._rebuild_tensor_v2'), arguments))


def described(tensors: dict[str, np.ndarray]) -> tuple[dict, list[np.ndarray]]:
    """Returns the nodes of a state dict, and the storages '0', '1', ..."""
    nodes, storages = {}, []
    for key, value in tensors.items():
        kind = 'LongStorage' if value.dtype.kind == 'i' else 'FloatStorage'
        nodes[key] = tensor(str(len(storages)), value.shape, kind=kind)
        storages.append(np.ascontiguousarray(value))
    return nodes, storages


def zipped(pickle: bytes, storages=(), compression=zipfile.ZIP_STORED, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', pickle)
        archive.writestr('archive/byteorder', b'little')
        for i, storage in enumerate(storages):
            archive.writestr(f'archive/data/{i}', bytes(storage))
        for name, content in more.items():
            archive.writestr(f'archive/{name}', content)
    return buffer.getvalue()


def legacy(pickle: bytes, storages=(), keys=None) -> bytes:
    parts = [pickled(MAGIC), pickled(PROTOCOL)]
    parts += [pickled({'protocol_version': PROTOCOL, 'little_endian': True}), pickle]
    parts += [pickled([str(i) for i in range(len(storages))] if keys is None else keys)]
    for storage in storages:
        parts += [struct.pack('<q', storage.size), storage.tobytes()]
    return b''.join(parts)


def byol(tensors: dict[str, np.ndarray]) -> bytes:
    """The layers of a ResNet as BYOL's checkpoints have them, as dill writes them."""
    params, state = {}, {}
    for key, value in tensors.items():
        module, _, leaf = key.rpartition('.')
        layer, stage, block = '', *[*module.split('.'), '', ''][:2]
        kind = 'conv' if value.ndim == 4 else 'batchnorm'
        if stage.startswith('layer'):
            layer = module.split('.')[-2 if 'downsample' in module else -1]
            name = f'shortcut_{kind}' if layer == 'downsample' else f'{kind}_{int(layer[-1]) - 1}'
            place = f'block_group_{int(stage[5:]) - 1}/~/block_{block}/~/{name}'
        else:
            place = f'initial_{kind}'
        place = f'res_net50/~/{place}'
        if leaf in ('running_mean', 'running_var'):
            ema = {'running_mean': 'mean_ema', 'running_var': 'var_ema'}[leaf]
            average = {'average': array(value.reshape(1, 1, 1, -1)), 'counter': 1}
            state[f'{place}/~/{ema}'] = average
        elif leaf != 'num_batches_tracked':
            leaf = 'w' if kind == 'conv' else {'weight': 'scale', 'bias': 'offset'}[leaf]
            value = value.transpose(2, 3, 1, 0) if kind == 'conv' else value.reshape(1, 1, 1, -1)
            params.setdefault(place, {})[leaf] = array(value)
    mapping = Global('haiku._src.data_structures.FlatMapping')
    parts = (Call((mapping, (params,))), {}, Call((mapping, (state,))), {}, {})
    made = Raw(opcodes(Global('byol.byol_experiment._State')) + opcodes(parts) + b'\x81')
    return pickled({'experiment_state': made, 'step': 3})


def array(value: np.ndarray) -> Call:
    kind = (Global('numpy.dtype'), ('f4', False, True), (3, '<', None, None, None, -1, -1, 0))
    data = Call((Global('_codecs.encode'), (value.tobytes().decode('latin1'), 'latin1')))
    begun = Global('numpy.core.multiarray._reconstruct'), (Global('numpy.ndarray'), (0,), b'b')
    return Call((*begun, (1, value.shape, Call(kind), False, data)))


def whole_files() -> dict[str, bytes]:
    """Returns a file of each kind, with the encoder TINY or, for BYOL, SAME."""
    tensors = state_dict()
    nodes, storages = described(tensors)
    moco = {f'module.encoder_q.{key}': node for key, node in nodes.items()}
    extra = Call((Global('argparse.Namespace'), (), {'lr': 0.1, 'data': '/data'}))
    moco = {'state_dict': moco, 'epoch': 3, 'optimizer': {'state': [1, 2]}, 'args': extra}
    return {
        'ours.safetensors': native_file(),
        'theirs.safetensors': safetensors.numpy.save(tensors, {'format': 'pt'}),
        'zip.pth': zipped(pickled(moco), storages),
        'legacy.pth': legacy(pickled(moco), storages),
        'byol.pkl': byol(state_dict(SAME)),
    }


def native_file(change=lambda described: None) -> bytes:
    """Returns our own file, its checksum that of a changed description."""
    weights = random_weights(TINY)
    tensors = {k: np.ascontiguousarray(v) for k, v in sorted(flat(weights.variables).items())}
    described = {
        'format': native.FORMAT,
        'architecture': native.to_json(weights.architecture),
        'preprocess': native.to_json(weights.preprocess),
        'origin': {},
    }
    change(described)
    described['checksum'] = native._checksum(described, tensors)
    return safetensors.numpy.save(tensors, {'simclr_jax': json.dumps(described), 'format': 'np'})


# What a hostile file would do: it leaves a file where it ran.
COMMAND = 'touch exploded'


def hostile_pickles() -> dict[str, bytes]:
    """Returns pickles that would run a command, or take all memory or time, by name."""
    system, argument = Global('os.system'), (COMMAND,)
    evil = Call((system, argument))
    text, marked = opcodes(COMMAND), b'(' + opcodes(COMMAND)
    tiny = np.zeros(4, np.float32)
    doubled = {  # the first of 60 objects holds two of the next, and so on
        'tuples': Raw(b')' + b'2\x86' * 60),
        'lists': Raw(b']' + b'q\x01]h\x01ah\x01a' * 60),
        'keys': Raw(b'}' + b')' + b'2\x86' * 60 + b'Ns'),
        'pairs': Call((Global('collections.OrderedDict'), ([('a', 1)] * 50,))),
    }
    deep = {
        'tuples': Raw(b')' + b'\x85' * 200_000),
        'lists': Raw(b']' * 100_000 + b'a' * 99_999),
        'marks': Raw(b'(' * 300_000),
        'calls': Raw(opcodes(Global('a.b')) + b')R' * 100_000),
        'parameters': Raw(
            opcodes(Global('torch._utils._rebuild_parameter')) * 20_000 + b'N' + b'\x85R' * 20_000
        ),
        'keys': Raw(b'})' + b'\x85' * 100_000 + b'Ns'),
    }
    claims = {
        'text': b'\x8d' + struct.pack('<Q', 1 << 62),
        'bytes': b'\x8e' + struct.pack('<Q', 1 << 40) + b'abc',
        'array': b'\x96' + struct.pack('<Q', 1 << 33),
        'negative': b'\x8b' + struct.pack('<i', -5),
        'long': b'\x8b' + struct.pack('<i', 1 << 20) + b'\x7f' * (1 << 20),
        'digits': b'L' + b'9' * 5000 + b'L\n',
        'frame': b'\x95' + struct.pack('<Q', 1 << 62),
        'memo': b'}r\xff\xff\xff\xff' + b'p99999999999999999\n',
        'string': b'T' + struct.pack('<i', -1),
        'pop': b'00000',
        'extension': b'\x82\x01',
        'buffer': b'\x97',
        'many': b'}' * 2_000_000,
        'emoji': opcodes({str(i): '\U0001f600' + 'a' * 1000 for i in range(20_000)}),
    }
    nodes = {
        'reduce': evil,
        'reduce of a weight': {'conv1.weight': evil, 'layer1.0.conv1.weight': evil},
        'build': Call((Global('collections.OrderedDict'), (), evil)),
        'build of a function': Call((system, argument, {'a': evil})),
        'setstate': Call((Global('functools.partial'), (system,), (system, argument, {}, None))),
        'persistent': Persistent((evil,)),
        'persistent storage': Persistent((('storage', evil, '0', 'cpu', 4),)),
        'storage type': tensor('0', (4,), kind='FloatStorage', count=4)[:1]
        and Call(
            (
                Global('torch._utils._rebuild_tensor_v2'),
                (Persistent((('storage', system, '0', 'cpu', 4),)), 0, (4,), (1,)),
            )
        ),
        'object': Raw(b'(' + opcodes(system) + text + b'o'),
        'instance': Raw(marked + b'ios\nsystem\n'),
        'new object': Raw(opcodes(system) + opcodes(argument) + b'\x81'),
        'new with keywords': Raw(opcodes(system) + opcodes(argument) + b'}\x92'),
        'by stack': Raw(opcodes('os') + opcodes('system') + b'\x93' + opcodes(argument) + b'R'),
        'by memo': Raw(opcodes(system) + b'q\x00' + opcodes(argument) + b'q\x010h\x00h\x01R'),
        'builtins': Call((Global('builtins.exec'), (f"import os; os.system('{COMMAND}')",))),
        'import': Call((Global('importlib.import_module'), ('antigravity',))),
        'item': Raw(opcodes(Call((system, argument))) + b'(' + opcodes('a') + opcodes(evil) + b'u'),
        'append': Raw(opcodes(Call((system, argument))) + opcodes(evil) + b'a'),
        'a parameter': Call((Global('torch._utils._rebuild_parameter'), (evil, True, evil))),
        'a subclass': Call(
            (Global('torch._tensor._rebuild_from_type_v2'), (system, evil, argument, evil))
        ),
        'hooks': Call(
            (Global('torch._utils._rebuild_tensor_v2'), (evil, 0, (1,), (1,), True, evil))
        ),
        'reconstruct': Call(
            (Global('numpy.core.multiarray._reconstruct'), (system, (0,), b'b'), evil)
        ),
        'array type': Call(
            (
                Global('numpy.core.multiarray._reconstruct'),
                (Global('numpy.ndarray'), (0,), b'b'),
                (1, (1 << 40,), Call((Global('numpy.dtype'), ('O8', False, True))), False, [evil]),
            )
        ),
        **{f'doubled {name}': node for name, node in doubled.items()},
        **{f'deep {name}': node for name, node in deep.items()},
        **{f'claims of {name}': Raw(content) for name, content in claims.items()},
        **{f'tensor of {name}': node for name, node in hostile_tensors().items()},
    }
    found = {}
    for name, node in nodes.items():
        found[f'{name}.pkl'] = pickled(node)
        if not name.startswith('claims'):
            found[f'{name} experiment.pkl'] = pickled({'experiment_state': node})
        state = {'conv1.weight': node, 'layer1.0.conv1.weight': node}
        found[f'{name} zip.pth'] = zipped(pickled(state), [tiny])
        found[f'{name} legacy.pth'] = legacy(pickled({'state_dict': state}), [tiny], ['0'])
    return found


def hostile_tensors() -> dict[str, Call]:
    big = 1 << 40
    return {
        'huge shape': tensor('0', (big, big)),
        'repeated numbers': tensor('0', (1 << 20, 1 << 20), (0, 0), count=4),
        'one number': tensor('0', (100_000,), (0,), count=4),
        'negative stride': tensor('0', (2, 2), (-2, 1), count=4),
        'negative shape': tensor('0', (-4,), (1,), count=4),
        'negative place': tensor('0', (4,), (1,), -4, count=4),
        'long strides': tensor('0', (2, 2), (1 << 40, 1), count=4),
        'many sides': tensor('0', (1,) * 70, (1,) * 70, count=4),
        'other storage': tensor('../../etc/passwd', (4,)),
        'text shape': tensor('0', (2, 2), ('a', 'b'), count=4),
        'float shape': tensor('0', (2, 2), (float('nan'), 1.5), count=4),
        'negative count': tensor('0', (4,), (1,), count=-4),
        'large count': tensor('0', (4,), (1,), count=1 << 62),
        'overflow': tensor('0', (1 << 32, 1 << 32), (1 << 32, 1 << 31), count=4),
    }


def hostile_files() -> dict[str, bytes]:
    """Returns hostile files by name: the pickles, and archives and headers of all kinds."""
    tensors = state_dict()
    nodes, storages = described(tensors)
    flat_bomb = zipped(pickled(nodes), [bytes(50 << 20)], zipfile.ZIP_DEFLATED)
    # Each tensor is a view of the same numbers: much more than the file has.
    largest = max(storages, key=lambda value: value.size)
    shared = {f'layer1.{i}.conv1.weight': tensor('0', largest.shape) for i in range(3000)}
    shared['conv1.weight'] = tensor('0', largest.shape)
    good = zipped(pickled(nodes), storages)
    headers = {
        'far': {'a': {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 1 << 62]}},
        'back': {'a': {'dtype': 'F32', 'shape': [4], 'data_offsets': [16, 0]}},
        'overflow': {'a': {'dtype': 'F32', 'shape': [1 << 62, 1 << 62], 'data_offsets': [0, 16]}},
        'negative': {'a': {'dtype': 'F32', 'shape': [-4], 'data_offsets': [0, 16]}},
        'not a number': {'a': {'dtype': 'F32', 'shape': [float('nan')], 'data_offsets': [0, 16]}},
        'type': {'a': {'dtype': 'O8', 'shape': [2], 'data_offsets': [0, 16]}},
        'metadata': {'__metadata__': {'simclr_jax': '{"format": 1}'}},
        'deep metadata': {'__metadata__': {'simclr_jax': '[' * 100_000}},
        'list': [1, 2],
        'overlap': {
            key: {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]} for key in ('a', 'b')
        },
    }
    files = {
        f'header {name}.safetensors': safetensors_file(json.dumps(header).encode())
        for name, header in headers.items()
    }
    for length in (1 << 62, (1 << 64) - 1, 1 << 32, 100 << 20, 0, 1, 15):
        files[f'length {length}.safetensors'] = struct.pack('<Q', length) + b'{"a":{}}' + bytes(16)
    files['deep.safetensors'] = safetensors_file(b'{"a":' * 100_000)
    files['long.safetensors'] = safetensors_file(b'{"a":[' + b'1,' * (4 << 20) + b'1]}')
    files['bomb.pth'] = flat_bomb
    files['bomb of a pickle.pth'] = zipped(b'}' * (30 << 20), [], zipfile.ZIP_DEFLATED)
    files['shared.pth'] = zipped(pickled(shared), [largest])
    files['no pickle.pth'] = zipped(b'', storages).replace(b'data.pkl', b'data.pkk')
    files['two pickles.pth'] = zipped(pickled(nodes), storages, **{'more/data.pkl': b'N.'})
    files['script.pth'] = zipped(pickled(nodes), storages, **{'code/__torch__.py': b'import os'})
    files['order.pth'] = good.replace(b'little', b'middle')
    for name, head in (
        ('layers', {'hidden_dim': 1, 'output_dim': 1, 'num_layers': 1 << 40}),
        ('negative layers', {'hidden_dim': 1, 'output_dim': 1, 'num_layers': -1}),
    ):
        files[f'head of {name}.safetensors'] = native_file(
            lambda described, head=head: described['architecture'].update(head=head)
        )
    for field, value in (('width', 1 << 40), ('width', -1), ('encoder', '../x')):
        files[f'{field} {value}.safetensors'.replace('/', '')] = native_file(
            lambda described, field=field, value=value: described['architecture'].update(
                {field: value}
            )
        )
    for beginning in (
        b'\x89PNG\r\n',
        b'\xff\xd8\xff',
        b'\x89HDF\r\n',
        b'\x08\x07',
        b'<html>',
        b'{',
    ):
        files[f'other {beginning.hex()}.bin'] = beginning + hashlib.sha256(beginning).digest() * 9
    files['empty.pth'] = b''
    files['compressed.pth'] = b'\x1f\x8b' + zlib.compress(good)
    return files | hostile_pickles()


def safetensors_file(header: bytes, body: bytes = bytes(16)) -> bytes:
    return struct.pack('<Q', len(header)) + header + body


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file with one or a few changes of a random kind."""
    result = bytearray(content)
    place, other = sorted(int(i) for i in rng.integers(0, len(content), 2))
    if rng.random() < 0.6:  # where what describes the tensors is, rather than their numbers
        edges = rng.integers(0, min(len(content), 4000), 2)
        place, other = sorted(int(i) for i in edges)
    match rng.integers(0, 9):
        case 0:
            for i in rng.integers(0, len(content), 8):
                result[i] ^= 1 << int(rng.integers(0, 8))
        case 1:
            result[place] ^= 1 << int(rng.integers(0, 8))
        case 2:
            del result[place:]
        case 3:
            del result[place:other]
        case 4:
            result[place:other] = bytes(other - place)
        case 5:
            middle = (place + other) // 2
            result[place:other] = result[middle:other] + result[place:middle]
        case 6:
            result[place:place] = result[place:other]
        case 7:
            extreme = (1 << 62, (1 << 64) - 1, 1 << 63, 1 << 31, 0)[int(rng.integers(0, 5))]
            result[place : place + 8] = struct.pack('<Q', extreme)
        case 8:
            result[place] = int(rng.integers(0, 256))
    return bytes(result)
