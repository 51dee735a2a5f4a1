"""Pickles as data: what a pickle describes, without doing any of it.

A pickle is a program: its opcodes import names and call them. Here a name stays a name (`Global`)
and a call stays a description of the call (`Call`); nothing is imported and nothing is called.
Memory is bounded by the file: long texts stay where they are, and every opcode is paid for.
"""

import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

_OPCODES = {ord(op.code): (op.name, op.arg.n if op.arg else 0) for op in pickletools.opcodes}
_PREFIXES = {  # length in front of an argument, by pickletools' code for it
    pickletools.TAKEN_FROM_ARGUMENT1: '<B',
    pickletools.TAKEN_FROM_ARGUMENT4: '<i',
    pickletools.TAKEN_FROM_ARGUMENT4U: '<I',
    pickletools.TAKEN_FROM_ARGUMENT8U: '<Q',
}
_SHORT = 1024  # bytes; longer texts are left in the file
_LONGEST_NUMBER = 64  # bytes, or digits
_COST, _VIEW_COST = 128, 256  # bytes that an opcode, a view on the file may take at most
_CONSTANT = 32 << 20  # bytes that the objects of a small file may take


class UnreadableError(ValueError):
    """Why a file, or a part of it, cannot be read; without its name."""


class Global(str):
    """The full name of a class or function, which is not looked up."""

    __slots__ = ()


class Text:
    """A text that is left in the file: `data` is its UTF-8."""

    __slots__ = ('data',)

    def __init__(self, data: memoryview):
        self.data = data


class Persistent:
    """A reference to something outside of the pickle, such as a storage of PyTorch's."""

    __slots__ = ('id',)

    def __init__(self, identity: Any):
        self.id = identity


class Call:
    """What would be `function(*arguments)`, then given `state` and `items`.

    Attributes:
      function: a `Global`, or whatever else the pickle would call.
      arguments: a tuple, if the pickle is a sound one.
      state: of its `BUILD`, or None.
      items: what it would have as a dict.
    """

    __slots__ = ('arguments', 'function', 'items', 'state')

    def __init__(self, function: Any, arguments: Any):
        self.function, self.arguments = function, arguments
        self.state, self.items = None, {}


class Pickle(NamedTuple):
    """What was read.

    Attributes:
      tree: what the pickle describes.
      end: the place after its last byte.
      persistent: the ids of all references to something outside of it.
    """

    tree: Any
    end: int
    persistent: list[Any]


def read(data: memoryview, start: int = 0) -> Pickle:
    """Reads the pickle that begins at `start`.

    Dicts, lists, tuples, numbers and short texts are themselves, and so is an `OrderedDict` (as a
    dict); sets are lists. Items whose key is neither a text nor a number are left out.

    Raises:
      UnreadableError: it is no pickle, is damaged, or describes more objects than its size allows.
    """
    machine = _Machine(data, start)
    try:
        return Pickle(machine.run(), machine.place, machine.persistent)
    except UnreadableError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise UnreadableError(f'the pickle is damaged near byte {machine.place}') from error


def as_dict(node: Any) -> dict | None:
    """Returns the items of a dict, or of an object that is made from one dict or like a dict."""
    if isinstance(node, Call):
        if node.items:
            return node.items
        made_of = node.arguments if isinstance(node.arguments, tuple) else ()
        dicts = [argument for argument in made_of if isinstance(argument, dict)]
        return dicts[0] if len(dicts) == 1 else None
    return node if isinstance(node, dict) else None


class _Machine:
    """The stack machine of the pickle format."""

    def __init__(self, data: memoryview, start: int):
        self.data, self.place = data, start
        self.budget = _CONSTANT + len(data)
        self.stack, self.marks = [], []  # what is above the last mark; what was below each
        self.memo = {}
        self.persistent = []

    def run(self) -> Any:
        while True:
            self.spend(_COST)
            name, length = _OPCODES[self.data[self.place]]
            self.place += 1
            argument = self.argument(length)
            if name == 'STOP':
                return self.stack.pop()
            if name in _VALUES:
                value = _VALUES[name](self, argument)  # which may replace the stack
                self.stack.append(value)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ('PROTO', 'FRAME'):
                raise UnreadableError(f'the pickle uses {name}, which no file of weights does')

    def spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise UnreadableError('the pickle describes more objects than a file of weights has')

    def argument(self, length: int) -> memoryview:
        """Returns the bytes that follow the opcode, none of them copied."""
        if length == pickletools.UP_TO_NEWLINE:
            return self.line()
        if length in _PREFIXES:
            (length,) = struct.unpack(
                _PREFIXES[length], self.take(struct.calcsize(_PREFIXES[length]))
            )
        return self.take(length)

    def take(self, length: int) -> memoryview:
        if not 0 <= length <= len(self.data) - self.place:
            raise UnreadableError(f'the pickle is cut off, or damaged, near byte {self.place}')
        self.place += length
        return self.data[self.place - length : self.place]

    def line(self) -> memoryview:
        window = bytes(self.data[self.place : self.place + _SHORT])
        length = window.find(b'\n')
        if length < 0:
            raise UnreadableError(f'the pickle is damaged near byte {self.place}')
        line = self.take(length)
        self.place += 1
        return line

    def text(self, data: memoryview) -> Any:
        if len(data) > _SHORT:
            self.spend(_VIEW_COST)
            return Text(data)
        self.spend(4 * len(data))
        return str(data, 'utf-8', 'surrogatepass')

    def bytes(self, data: memoryview) -> Any:
        self.spend(min(len(data), _VIEW_COST))
        return data if len(data) > _VIEW_COST else bytes(data)

    def string(self, data: memoryview) -> Any:
        """Of Python 2, where text and bytes were one."""
        try:
            return self.text(data) if len(data) <= _SHORT else self.bytes(data)
        except UnicodeDecodeError:
            return self.bytes(data)

    def whole(self, data: memoryview) -> int:
        if len(data) > _LONGEST_NUMBER:
            raise UnreadableError(
                'the pickle has a number that is longer than any of a file of weights'
            )
        return int.from_bytes(data, 'little', signed=True)

    def decimal(self, data: memoryview) -> int:
        if len(data) > _LONGEST_NUMBER:
            raise UnreadableError(
                'the pickle has a number that is longer than any of a file of weights'
            )
        return int(str(data, 'ascii').removesuffix('L'))

    def global_name(self, data: memoryview) -> Global:
        module = str(data, 'utf-8')
        return Global(f'{module}.{str(self.line(), "utf-8")}')

    def above_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def call(self, function: Any, arguments: Any) -> Any:
        if function != 'collections.OrderedDict' or not isinstance(function, Global):
            return Call(function, arguments)
        result = {}
        if arguments:  # of Python 2: one list of pairs
            self.spend(_COST * len(arguments[0]))
            for key, value in arguments[0]:
                self.put(result, key, value)
        return result

    def put(self, node: Any, key: Any, value: Any) -> None:
        items = node.items if isinstance(node, Call) else node
        # The hash of a tuple recurses as deep as the file likes, or forever.
        if isinstance(items, dict) and (key is None or isinstance(key, str | int | float)):
            items[key] = value
        elif not isinstance(items, dict):
            raise UnreadableError('the pickle sets items of what is no dict')

    def put_all(self, node: Any, items: list) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.put(node, key, value)

    def extend(self, items: list) -> None:
        node = self.stack[-1]
        if isinstance(node, list):
            node.extend(items)
        elif not isinstance(node, Call):
            raise UnreadableError('the pickle appends to what is no list')

    def build(self) -> None:
        state, node = self.stack.pop(), self.stack[-1]
        if isinstance(node, Call):
            node.state = state

    def instance(self, items: list) -> Call:
        return Call(items[0], tuple(items[1:]))

    def reduce(self) -> Any:
        arguments, function = self.stack.pop(), self.stack.pop()
        return self.call(function, arguments)

    def new_with_keywords(self) -> Call:
        _, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        return Call(kind, arguments)

    def stack_global(self) -> Global:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise UnreadableError('the pickle names a class by what is no text')
        self.spend(len(module) + len(name))
        return Global(f'{module}.{name}')

    def refer(self, identity: Any) -> Persistent:
        self.persistent.append(identity)
        return Persistent(identity)

    def last(self, count: int) -> tuple:
        items = self.stack[-count:]
        if len(items) < count:
            raise UnreadableError('the pickle is damaged: its stack is empty')
        del self.stack[-count:]
        return tuple(items)

    def pop(self) -> None:
        # As in Python's own: without anything above it, the mark is what goes.
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.marks.pop()

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []


def _number(form: str) -> Callable[[_Machine, memoryview], Any]:
    return lambda machine, data: struct.unpack(form, data)[0]


def _dict_of(machine: _Machine, items: list) -> dict:
    result = {}
    machine.put_all(result, items)
    return result


# What pushes one value.
_VALUES: dict[str, Callable[[_Machine, memoryview], Any]] = {
    'NONE': lambda machine, data: None,
    'NEWTRUE': lambda machine, data: True,
    'NEWFALSE': lambda machine, data: False,
    'EMPTY_TUPLE': lambda machine, data: (),
    'EMPTY_LIST': lambda machine, data: [],
    'EMPTY_DICT': lambda machine, data: {},
    'EMPTY_SET': lambda machine, data: [],
    'BININT': _number('<i'),
    'BININT1': _number('<B'),
    'BININT2': _number('<H'),
    'BINFLOAT': _number('>d'),
    'INT': _Machine.decimal,
    'LONG': _Machine.decimal,
    'LONG1': _Machine.whole,
    'LONG4': _Machine.whole,
    'FLOAT': lambda machine, data: float(str(data, 'ascii')),
    # Escapes are left as they are: no name of a weight has one.
    'STRING': lambda machine, data: machine.string(data[1:-1]),
    'UNICODE': _Machine.text,
    'BINSTRING': _Machine.string,
    'SHORT_BINSTRING': _Machine.string,
    'SHORT_BINUNICODE': _Machine.text,
    'BINUNICODE': _Machine.text,
    'BINUNICODE8': _Machine.text,
    'BINBYTES': _Machine.bytes,
    'SHORT_BINBYTES': _Machine.bytes,
    'BINBYTES8': _Machine.bytes,
    'BYTEARRAY8': _Machine.bytes,
    'GET': lambda machine, data: machine.memo[machine.decimal(data)],
    'BINGET': lambda machine, data: machine.memo[data[0]],
    'LONG_BINGET': lambda machine, data: machine.memo[_number('<I')(machine, data)],
    'DUP': lambda machine, data: machine.stack[-1],
    'TUPLE1': lambda machine, data: machine.last(1),
    'TUPLE2': lambda machine, data: machine.last(2),
    'TUPLE3': lambda machine, data: machine.last(3),
    'TUPLE': lambda machine, data: tuple(machine.above_mark()),
    'LIST': lambda machine, data: machine.above_mark(),
    'FROZENSET': lambda machine, data: machine.above_mark(),
    'DICT': lambda machine, data: _dict_of(machine, machine.above_mark()),
    'GLOBAL': _Machine.global_name,
    'STACK_GLOBAL': lambda machine, data: machine.stack_global(),
    'PERSID': lambda machine, data: machine.refer(machine.text(data)),
    'BINPERSID': lambda machine, data: machine.refer(machine.stack.pop()),
    'REDUCE': lambda machine, data: machine.reduce(),
    'NEWOBJ': lambda machine, data: Call(*machine.last(2)),
    'NEWOBJ_EX': lambda machine, data: machine.new_with_keywords(),
    'OBJ': lambda machine, data: machine.instance(machine.above_mark()),
    'INST': lambda machine, data: Call(machine.global_name(data), tuple(machine.above_mark())),
}
# What changes the machine, and pushes nothing.
_ACTIONS: dict[str, Callable[[_Machine, memoryview], None]] = {
    'MARK': lambda machine, data: machine.mark(),
    'POP': lambda machine, data: machine.pop(),
    'POP_MARK': lambda machine, data: machine.above_mark() and None,
    'PUT': lambda machine, data: machine.remember(machine.decimal(data)),
    'BINPUT': lambda machine, data: machine.remember(data[0]),
    'LONG_BINPUT': lambda machine, data: machine.remember(_number('<I')(machine, data)),
    'MEMOIZE': lambda machine, data: machine.remember(len(machine.memo)),
    'APPEND': lambda machine, data: machine.extend([machine.stack.pop()]),
    'APPENDS': lambda machine, data: machine.extend(machine.above_mark()),
    'ADDITEMS': lambda machine, data: machine.extend(machine.above_mark()),
    'SETITEM': lambda machine, data: machine.put_all(machine.stack[-3], list(machine.last(2))),
    'SETITEMS': lambda machine, data: _set_items(machine, machine.above_mark()),
    'BUILD': lambda machine, data: machine.build(),
}


def _set_items(machine: _Machine, items: list) -> None:
    machine.put_all(machine.stack[-1], items)
