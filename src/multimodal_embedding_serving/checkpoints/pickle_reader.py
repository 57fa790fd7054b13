"""A pickle interpreter that runs no code: plain data, and the names that its caller allows.

Python's own unpickler can reject names, but it can't bound the cost of its opcodes: one
LONG_BINPUT makes it reserve gigabytes. This one knows the opcodes that torch writes (protocols 2
to 5), keeps its memo in a dict, counts its steps, and takes nothing but texts and small numbers as
keys, so that a stream of n bytes costs memory and time in proportion to n.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.checkpoints.weights import quote

MAX_STEPS = 4_000_000
"""Opcodes of one stream; a checkpoint takes about 40 a tensor."""


class BadPickle(ValueError):
    """A stream that is corrupt or asks for more than data; the message says which."""


@dataclass(frozen=True, slots=True)
class Known:
    """A name that a stream may mention, and what calling it makes (None: it may not be called)."""

    name: str
    build: Callable[[tuple[Any, ...]], object] | None = None


def interpret(
    stream: bytes, names: Mapping[str, Known], persistent: Callable[[object], object]
) -> object:
    """The object that the stream describes.

    `names` are the dotted globals that it may mention; `persistent` turns a persistent id into an
    object. Raises BadPickle.
    """
    machine = _Machine(names, persistent)
    position = 0
    try:
        for step, (opcode, argument, at) in enumerate(pickletools.genops(stream)):
            position = at or 0
            if opcode.name == "STOP":
                return machine.stack.pop()
            if step >= MAX_STEPS:
                raise BadPickle(f"the pickle takes more than {MAX_STEPS} steps")
            machine.run(opcode.name, argument)
    except BadPickle:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, struct.error):
        raise BadPickle(f"the pickle is corrupt near byte {position}") from None
    raise BadPickle("the pickle is truncated")


class _Machine:
    def __init__(self, names: Mapping[str, Known], persistent: Callable[[object], object]) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._names = names
        self._persistent = persistent

    def run(self, opcode: str, argument: Any) -> None:
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        elif opcode not in _IGNORED:
            raise BadPickle(f"the pickle uses the opcode {opcode}, which no tensor needs")

    def items(self) -> list[Any]:
        """What was pushed since the last mark."""
        items = self.stack
        self.stack = self._below.pop()
        return items

    def mark(self, _: object) -> None:
        self._below.append(self.stack)
        self.stack = []

    def memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def start(self, kind: type[list[Any] | dict[Any, Any]]) -> None:
        self.stack.append(kind())

    def join(self, count: int | None) -> None:
        """The last `count` items (None: those since the mark) become a tuple."""
        taken = self.items() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(taken))

    def extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def assign(self, items: list[Any]) -> None:
        table = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (type(key) is str or (type(key) is int and key.bit_length() <= 64)):
                raise BadPickle("the pickle has a key that is neither text nor number")
            table[key] = value

    def mention(self, dotted: str) -> None:
        known = self._names.get(dotted)
        if known is None:
            raise BadPickle(
                f"the pickle names {quote(dotted)}; tensors are rebuilt and nothing else"
            )
        self.stack.append(known)

    def mention_from_stack(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise BadPickle("the pickle refers to a global without a name")
        self.mention(f"{module}.{name}")

    def call(self, _: object) -> None:
        arguments, known = self.stack.pop(), self.stack.pop()
        if not (isinstance(known, Known) and isinstance(arguments, tuple)):
            raise BadPickle("the pickle calls an object that is not a function")
        if known.build is None:
            raise BadPickle(f"the pickle calls {quote(known.name)}")
        self.stack.append(known.build(arguments))

    def forget_state(self, _: object) -> None:
        """torch hangs `_metadata` (versions of layers) on a state dict: no tensor is in it."""
        self.stack.pop()
        self._top(dict)

    def load(self, _: object) -> None:
        self.stack.append(self._persistent(self.stack.pop()))

    def _top(self, kind: type[Any]) -> Any:
        top = self.stack[-1]
        if not isinstance(top, kind):
            raise BadPickle(f"the pickle fills an object that is not a {kind.__name__}")
        return top


_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE"
    " BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 SHORT_BINSTRING BINSTRING STRING".split()
)
_IGNORED = frozenset(("PROTO", "FRAME"))
_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "PUT": _Machine.memoize,
    "BINPUT": _Machine.memoize,
    "LONG_BINPUT": _Machine.memoize,
    "MEMOIZE": lambda machine, _: machine.memoize(None),
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "EMPTY_LIST": lambda machine, _: machine.start(list),
    "EMPTY_DICT": lambda machine, _: machine.start(dict),
    "EMPTY_TUPLE": lambda machine, _: machine.join(0),
    "TUPLE": lambda machine, _: machine.join(None),
    "TUPLE1": lambda machine, _: machine.join(1),
    "TUPLE2": lambda machine, _: machine.join(2),
    "TUPLE3": lambda machine, _: machine.join(3),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.items()),
    "SETITEM": lambda machine, _: machine.assign([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.assign(machine.items()),
    "GLOBAL": lambda machine, argument: machine.mention(argument.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.mention_from_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.forget_state,
    "BINPERSID": _Machine.load,
}
