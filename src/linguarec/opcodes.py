"""What a pickle would build, found out without building it: how deep its containers nest and how many values they hold.

A few hundred bytes can nest lists deeper than a program can follow, hold each tuple twice in the next one (a hundred of them
have 2^100 leaves, and a dict hashes them all), or ask for a memo of 2^31 entries. Each opcode is followed on a stack of
nodes, which costs memory in proportion to the pickle alone.
"""

import io
import pickletools
from typing import IO, cast

MOST_OPCODES = 2_000_000
MOST_VALUES = 20_000_000  # summed over all containers; one that is held twice counts twice
DEEPEST = 100

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_INTO_ONE_BELOW = ("APPEND", "SETITEM", "BUILD")  # values that go into the object below them
_INTO_ONE_BELOW_MARK = ("APPENDS", "SETITEMS", "ADDITEMS")
_MARK = -1

Node = int


def check_opcodes(stream: IO[bytes]) -> None:
    """Follow the pickle that begins at the place of `stream`, which stands behind it afterwards.

    Raises:
        ValueError: it is no pickle, or would build more values, deeper containers or a larger memo than `MOST_VALUES`,
            `DEEPEST` and its own number of opcodes allow.
    """
    children: list[list[Node]] = []  # of each node
    stack: list[Node] = []
    memo: dict[int, Node] = {}

    def pop(count: int) -> list[Node]:
        if count > len(stack) or _MARK in stack[len(stack) - count :]:
            raise ValueError("its opcodes take more values than there are")
        taken = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return taken

    def pop_to_mark() -> list[Node]:
        taken: list[Node] = []
        while stack and (node := stack.pop()) != _MARK:
            taken.append(node)
            if not stack:
                raise ValueError("its opcodes take values from a mark that was not set")
        return taken

    for number, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], _WithinFile(stream))), start=1):
        name = opcode.name
        if number > MOST_OPCODES:
            raise ValueError(f"its pickle has more than {MOST_OPCODES:,} opcodes")
        if name == "MARK":
            stack.append(_MARK)
        elif name in _PUTS:
            key = len(memo) if argument is None else int(argument)
            if not 0 <= key <= number:
                raise ValueError(f"its pickle stores the value number {key:,} after {number:,} opcodes")
            memo[key] = pop(1)[0]
            stack.append(memo[key])
        elif name in _GETS:
            key = int(argument or 0)
            if key not in memo:
                raise ValueError(f"its pickle reads the value number {key:,}, which it never stored")
            stack.append(memo[key])
        elif name == "DUP":
            stack += pop(1) * 2
        elif name == "POP":
            if stack.pop() == _MARK:
                continue
        elif name == "POP_MARK":
            pop_to_mark()
        elif name in _INTO_ONE_BELOW or name in _INTO_ONE_BELOW_MARK:
            taken = pop_to_mark() if name in _INTO_ONE_BELOW_MARK else pop(len(opcode.stack_before) - 1)
            [holder] = pop(1)
            children[holder] += taken
            stack.append(holder)
        elif name not in ("PROTO", "FRAME", "STOP"):
            marked = pickletools.markobject in opcode.stack_before
            taken = pop_to_mark() if marked else pop(len(opcode.stack_before))
            children.append(taken)
            stack.append(len(children) - 1)
    _check_size(children)


class _WithinFile:
    """The stream, of which `read` asks for no more than is left: Python reserves what is asked for."""

    def __init__(self, stream: IO[bytes]) -> None:
        start = stream.tell()
        self.end = stream.seek(0, io.SEEK_END)
        stream.seek(start)
        self.stream = stream
        self.tell, self.readline = stream.tell, stream.readline

    def read(self, count: int) -> bytes:
        return self.stream.read(min(count, self.end - self.stream.tell()))


def _check_size(children: list[list[Node]]) -> None:
    """Bound the depth and the number of values below each node, in one walk from the leaves up."""
    unknown, open_, total = 0, -1, 0
    depths = [unknown] * len(children)
    values = [0] * len(children)
    for root in range(len(children)):
        path = [root]
        while path:
            node = path[-1]
            if depths[node] > 0:
                path.pop()
                continue
            if depths[node] == unknown:
                depths[node] = open_
                path += [child for child in children[node] if depths[child] == unknown]
                if any(depths[child] == open_ for child in children[node]):
                    raise ValueError("a container holds itself")
                continue
            depths[node] = 1 + max((depths[child] for child in children[node]), default=0)
            values[node] = 1 + sum(values[child] for child in children[node])
            if depths[node] > DEEPEST:
                raise ValueError(f"its containers nest deeper than {DEEPEST}")
            total += values[node]
            if total > MOST_VALUES:
                raise ValueError(f"its containers hold more than {MOST_VALUES:,} values")
            path.pop()
