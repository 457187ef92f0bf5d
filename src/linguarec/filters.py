"""Filters of candidate items by their attributes, as text that a user writes.

    brand == "Acme" and 5 <= price <= 20 and not (category in ["A", "B"] or `year of issue` < 2010)

A small grammar with its own parser; nothing is evaluated:

    expression = all {"or" all}            all = part {"and" part}            part = "not" part | "(" expression ")" | test
    test       = attribute ("==" | "!=" | "<" | "<=" | ">" | ">=") value      values may stand left, and on both sides (a range)
               | attribute ["not"] "in" "[" value {"," value} "]"             one of these values
               | value ["not"] "in" attribute                                 one of the attribute's values, of a list "A > B"
               | attribute "is" ["not"] "missing"

An attribute is a word, or any text in backticks. A value is a number, or text in single or double quotes. An item without a
value of an attribute passes no test of it, nor the test's negation; only `is missing` finds it (the logic of SQL's NULL).
"""

import difflib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from linguarec.catalogue import Catalogue
from linguarec.columns import Mask, NumberColumn, TextColumn
from linguarec.errors import FilterError, listed, quoted
from linguarec.values import LIST_SEPARATOR

LONGEST = 10_000  # characters of a filter
DEEPEST = 50  # parentheses and negations within each other
_WORDS = ("and", "or", "not", "in", "is")
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    |`(?P<name>[^`]+)`|(?P<word>[^\W\d]\w*)|(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)|(?P<end>\Z))""",
    re.VERBOSE | re.DOTALL,
)
_COMPARED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "==": (operator.eq, "equal"),
    "!=": (operator.ne, "not_equal"),
    "<": (operator.lt, "less"),
    "<=": (operator.le, "less_equal"),
    ">": (operator.gt, "greater"),
    ">=": (operator.ge, "greater_equal"),
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_FOREIGN = {"=": "==", "&": "and", "|": "or", "!": "not", "~": "not"}


class _Token(NamedTuple):
    kind: str  # text, number, name, word, sign or end
    value: str
    position: int  # of its first character, from 0


class _Value(NamedTuple):
    value: str | float
    position: int


class _Truth(NamedTuple):
    """[N] each: where an expression is true, and where it is false; where a value is missing it is neither."""

    yes: Mask
    no: Mask


class _Node(Protocol):
    def truth(self, catalogue: Catalogue) -> _Truth:
        """Of each entry of the catalogue."""


@dataclass(frozen=True)
class _Test:
    """A test of one attribute. `kind`: a comparison, "in" (it is one of the values), "has" or "missing"."""

    name: str
    position: int
    kind: str
    values: tuple[_Value, ...]

    def truth(self, catalogue: Catalogue) -> _Truth:
        """See `_Node`."""
        if self.name not in catalogue.attributes:
            near = difflib.get_close_matches(self.name, catalogue.attributes, n=1)
            hint = f"; do you mean {near[0]!r}?" if near else ""
            raise FilterError(
                f"{self.name!r} is no attribute of the items; they have: {listed(catalogue.attributes) or 'none'}{hint}",
                self.position,
            )
        parts = [self._of_part(column) for column in catalogue.columns(self.name)]
        return _Truth(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def _of_part(self, column: NumberColumn | TextColumn) -> _Truth:
        present = column.present
        if self.kind == "missing":
            return _Truth(~present, present)
        yes = self._of_numbers(column) if isinstance(column, NumberColumn) else self._of_texts(column)
        yes &= present
        return _Truth(yes, present & ~yes)

    def _of_numbers(self, column: NumberColumn) -> Mask:
        if self.kind == "has":
            raise FilterError(
                f"{self.name!r} holds numbers, not lists of texts; write {self.name} == 20", self.position
            )
        for value, position in self.values:
            if isinstance(value, str):
                raise FilterError(
                    f"{self.name!r} holds numbers, and is compared with the text {quoted(value)}; write a number without "
                    "quotes",
                    position,
                )
        values = [value for value, _ in self.values]
        if self.kind == "in":
            return np.isin(column.values, np.array(values, dtype=np.float64))
        return np.asarray(_COMPARED[self.kind][0](column.values, values[0]), dtype=bool)

    def _of_texts(self, column: TextColumn) -> Mask:
        for value, position in self.values:
            if not isinstance(value, str):
                raise FilterError(
                    f"{self.name!r} holds texts, and is compared with the number {value:g}; write the value in quotes. (A "
                    "column is kept as numbers if all its values are numbers when `linguarec prepare` reads it; folders and "
                    "runs of earlier versions hold all attributes as texts: prepare and train them again)",
                    position,
                )
        values = [str(value) for value, _ in self.values]
        if self.kind == "in":
            return column.where(pc.is_in(column.distinct, pa.array(values, pa.string())))
        if self.kind == "has":
            framed = pc.binary_join_element_wise(pa.scalar(""), column.distinct, pa.scalar(""), LIST_SEPARATOR)
            wanted = pc.match_substring(framed, f"{LIST_SEPARATOR}{values[0]}{LIST_SEPARATOR}")
            return column.where(wanted)
        return column.where(pc.call_function(_COMPARED[self.kind][1], [column.distinct, pa.scalar(values[0])]))


@dataclass(frozen=True)
class _Not:
    part: _Node

    def truth(self, catalogue: Catalogue) -> _Truth:
        """See `_Node`."""
        found = self.part.truth(catalogue)
        return _Truth(found.no, found.yes)


@dataclass(frozen=True)
class _All:
    parts: tuple[_Node, ...]

    def truth(self, catalogue: Catalogue) -> _Truth:
        """See `_Node`."""
        found = [part.truth(catalogue) for part in self.parts]
        return _Truth(
            np.logical_and.reduce([each.yes for each in found]), np.logical_or.reduce([each.no for each in found])
        )


@dataclass(frozen=True)
class _Any:
    parts: tuple[_Node, ...]

    def truth(self, catalogue: Catalogue) -> _Truth:
        """See `_Node`."""
        found = [part.truth(catalogue) for part in self.parts]
        return _Truth(
            np.logical_or.reduce([each.yes for each in found]), np.logical_and.reduce([each.no for each in found])
        )


@dataclass(frozen=True)
class Filter:
    """A filter of items. Made by `parse`.

    `text`: as it was written.
    """

    text: str
    _node: _Node

    @classmethod
    def parse(cls, text: str) -> "Filter":
        """Read a filter; the module says how one is written.

        Raises:
            FilterError: it cannot be read: the position, what was found there, what was expected.
        """
        if not isinstance(text, str):
            raise FilterError(f"a filter is text such as 'price <= 20', this is {quoted(text)}", 0)
        if len(text) > LONGEST:
            raise FilterError(f"the filter has {len(text):,} characters, at most {LONGEST:,} are read", LONGEST)
        parser = _Parser(text)
        node = parser.expression()
        parser.expect_end()
        return cls(text, node)

    def rows(self, catalogue: Catalogue) -> Mask:
        """[N] the entries of the catalogue that pass, removed ones included.

        Raises:
            FilterError: an attribute is not known, or numbers are compared with text; the position is named.
        """
        return self._node.truth(catalogue).yes


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = _tokens(text)
        self._place = 0
        self._depth = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        token = self._next
        self._place += token.kind != "end"
        return token

    def _accept(self, *values: str) -> bool:
        """Take the next token if it is one of these words or signs."""
        found = _plain(self._next) in values
        self._place += found
        return found

    def _refuse(self, expected: str) -> FilterError:
        token = self._next
        found = "the end of the filter" if token.kind == "end" else quoted(token.value)
        return FilterError(f"found {found}, expected {expected}", token.position)

    def expect_end(self) -> None:
        """Refuse what stands behind a whole expression."""
        if self._next.kind != "end":
            raise self._refuse("`and`, `or` or the end of the filter")

    def expression(self) -> _Node:
        """See the grammar."""
        parts = [self._all()]
        while self._accept("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else _Any(tuple(parts))

    def _all(self) -> _Node:
        parts = [self._part()]
        while self._accept("and"):
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else _All(tuple(parts))

    def _part(self) -> _Node:
        start = self._next.position
        self._depth += 1
        if self._depth > DEEPEST:
            raise FilterError(f"parentheses and `not` stand more than {DEEPEST} deep within each other", start)
        found: _Node
        if self._accept("not"):
            found = _Not(self._part())
        elif self._accept("("):
            found = self.expression()
            if not self._accept(")"):
                raise self._refuse("`and`, `or` or `)`")
        else:
            found = self._test()
        self._depth -= 1
        return found

    def _test(self) -> _Node:
        if self._is_value():
            left = self._value()
            if _plain(self._next) in ("in", "not"):
                negated = self._negated_in()
                name = self._name()
                return _negation(_Test(name.value, name.position, "has", (left,)), negated)
            if _plain(self._next) not in _COMPARED:
                raise self._refuse("a comparison such as `<=`, or `in`")
            sign = self._take().value
            name = self._name()
            first = _Test(name.value, name.position, _MIRRORED.get(sign, sign), (left,))
            if _plain(self._next) not in _COMPARED:
                return first
            return _All((first, _Test(name.value, name.position, self._take().value, (self._value(),))))
        name = self._name()
        if self._accept("is"):
            negated = self._accept("not")
            if not self._accept("missing"):
                raise self._refuse("`missing`")
            return _negation(_Test(name.value, name.position, "missing", ()), negated)
        if _plain(self._next) in ("in", "not"):
            negated = self._negated_in()
            return _negation(_Test(name.value, name.position, "in", self._values()), negated)
        if _plain(self._next) not in _COMPARED:
            raise self._refuse("a comparison such as `==` or `<=`, `in`, or `is missing`")
        sign = self._take().value
        return _Test(name.value, name.position, sign, (self._value(),))

    def _negated_in(self) -> bool:
        negated = self._accept("not")
        if not self._accept("in"):
            raise self._refuse("`in`")
        return negated

    def _name(self) -> _Token:
        token = self._next
        if token.kind != "name" and (token.kind != "word" or _plain(token) in _WORDS):
            raise self._refuse("the name of an attribute (in backticks if it is more than a word)")
        return self._take()

    def _is_value(self) -> bool:
        return self._next.kind in ("text", "number")

    def _value(self) -> _Value:
        token = self._next
        if not self._is_value():
            hint = ": write text in quotes" if token.kind in ("word", "name") else ""
            raise self._refuse(f"a number or a text in quotes{hint}")
        self._take()
        if token.kind == "text":
            return _Value(re.sub(r"\\([\"'\\])", r"\1", token.value[1:-1]), token.position)
        number = float(token.value)
        if not np.isfinite(number):
            raise FilterError(f"{quoted(token.value)} is too large for a number", token.position)
        return _Value(number, token.position)

    def _values(self) -> tuple[_Value, ...]:
        if not self._accept("["):
            raise self._refuse('a list such as ["A", "B"]')
        found = [self._value()]
        while self._accept(","):
            found.append(self._value())
        if not self._accept("]"):
            raise self._refuse("`,` or `]`")
        return tuple(found)


def _negation(node: _Node, negated: bool) -> _Node:
    return _Not(node) if negated else node


def _plain(token: _Token) -> str:
    """A sign, or a word in lower case, so that AND is `and`; empty for values and for names in backticks."""
    return token.value.lower() if token.kind in ("word", "sign") else ""


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    place = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, place)
        if match is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            raise FilterError(_unreadable(text, place), place)
        kind = str(match.lastgroup)
        value = match[kind]
        found.append(_Token(kind, value, match.start(kind)))
        place = match.end()
    return found


def _unreadable(text: str, place: int) -> str:
    character = text[place]
    if character in "\"'`":
        return f"{character} opens a text that is not closed"
    for foreign, ours in _FOREIGN.items():
        if text.startswith(foreign, place):
            return f"found {quoted(text[place : place + 2].strip())}; write {ours}"
    return (
        f"found {quoted(text[place : place + 20])}, expected an attribute, a number, a text in quotes or a comparison"
    )
