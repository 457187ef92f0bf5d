"""Checks values from JSON files against type hints, and makes dataclasses of them.

    misfit({"items": "3"}, dict[str, int])      # "a dictionary whose 'items' is '3', expected a whole number"

A JSON file can be edited, cut or damaged: a value of another type would otherwise fail far from the file that holds it.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from linguarec.errors import listed, quoted

Record = TypeVar("Record")
_LARGEST = 1 << 63  # whole numbers below this fit into the arrays that they are written to or compared with
_PLAIN = {
    int: "a whole number below 2^63",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def misfit(value: Any, hint: Any) -> str | None:
    """What is wrong with a value that should have the type `hint`, as "VALUE, expected TYPE"; None = nothing.

    Args:
        value: as `json.loads` gives it.
        hint: int, float, bool, str, None, Any, Literal, a union, list[...], dict[str, ...] or a dataclass.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return None
    if origin is typing.Literal:
        same = any(value == choice and type(value) is type(choice) for choice in inner)
        return None if same else f"{quoted(value)}, expected one of {listed(inner)}"
    if origin in (types.UnionType, typing.Union):
        found = [misfit(value, part) for part in inner]
        if None in found:
            return None
        nested = [wrong for wrong, part in zip(found, inner, strict=True) if wrong and _is_container_of(value, part)]
        return nested[0] if nested else f"{quoted(value)}, expected {' or '.join(_named(part) for part in inner)}"
    if _is_container_of(value, hint):
        if is_dataclass(hint):
            wrong = record_problem(typing.cast(type, hint), value)
            return f"an object, but {wrong}" if wrong else None
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in entries:
            if inner and (wrong := misfit(part, inner[-1])):
                kind = "a dictionary" if isinstance(value, Mapping) else "a list"
                return f"{kind} whose {quoted(key)} is {wrong}"
        return None
    return None if _is_plain(value, hint) else f"{quoted(value)}, expected {_named(hint)}"


def record_problem(kind: type, content: Mapping[str, Any]) -> str | None:
    """What keeps an object from being the dataclass `kind`: its lacking, unknown and wrong fields; None = nothing."""
    declared = {each.name: each for each in fields(kind)}
    needed = [n for n, each in declared.items() if each.default is MISSING and each.default_factory is MISSING]
    lacking = [name for name in needed if name not in content]
    strange = [name for name in content if name not in declared]
    found = [f"it lacks {', '.join(lacking)}"] if lacking else []
    found += [f"it has the unknown {', '.join(map(str, strange))}"] if strange else []
    if not found:
        hints = typing.get_type_hints(kind)
        for name, value in content.items():
            if wrong := misfit(value, hints[name]):
                found.append(f"its {name} is {wrong}")
    return " and ".join(found) or None


def record_of(kind: type[Record], content: Mapping[str, Any]) -> Record:
    """The dataclass with these fields; objects in it become the dataclasses that its hints name.

    Raises:
        ValueError: a field is lacking, unknown or of another type, or the dataclass refuses its value.
    """
    if problem := record_problem(kind, content):
        raise ValueError(problem)
    hints = typing.get_type_hints(kind)
    return kind(**{name: _built(value, hints[name]) for name, value in content.items()})


def _built(value: Any, hint: Any) -> Any:
    for part in (hint, *typing.get_args(hint)):
        if is_dataclass(part) and isinstance(part, type) and isinstance(value, Mapping):
            return record_of(part, value)
    return value


def _is_container_of(value: Any, hint: Any) -> bool:
    """Whether both are lists, or both dictionaries; then their entries are compared."""
    kind = typing.get_origin(hint) or hint
    if is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, Mapping)):
        return isinstance(value, Mapping)
    return kind is list and isinstance(value, list)


def _is_plain(value: Any, hint: Any) -> bool:
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) < float("inf") and not math.isnan(value) and _fits_float(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST
    return type(value) is hint


def _fits_float(value: float) -> bool:
    return not isinstance(value, int) or abs(value) < _LARGEST


def _named(hint: Any) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint]
    kind = typing.get_origin(hint) or hint
    return "a list" if kind is list else "a dictionary"
