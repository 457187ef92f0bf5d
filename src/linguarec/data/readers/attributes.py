"""Attributes that the user names, found among the keys or columns of a catalogue, and within its dictionaries."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ibis.expr.types as ir

from linguarec.data.attribute_names import attribute_names
from linguarec.data.engine import Engine
from linguarec.errors import SettingsError, listed
from linguarec.values import plain_key

log = logging.getLogger(__name__)


class Attribute(NamedTuple):
    """An attribute: what it is called here, its key or column in the file, and the key within its dictionary or None."""

    name: str
    key: str
    part: str | None


def check_names(names: Sequence[str], choices: str) -> None:
    """Refuse no attributes at all, and attributes that are named twice.

    Raises:
        SettingsError: the names are refused; `choices` says what there is.
    """
    if not names:
        raise SettingsError([f"--attributes is empty; {choices}."])
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise SettingsError([f"attribute {name!r} is named twice; name each once." for name in twice])


def find_attributes(
    names: Sequence[str], known: Mapping[str, str], present: Collection[str], file: Path
) -> list[Attribute]:
    """The attributes with these names: ours in `known` (name to key), keys that are `present`, or KEY.PART of a dictionary.

    `details.Material` is the value of `Material` in the dictionary `details`, and is called `Material` here.

    Raises:
        SettingsError: there is no such attribute, none is named, or one is named twice.
        DataFormatError: two attributes would have one name.
    """
    choices = f"choose from {', '.join(known) or listed(present)}"
    if known:
        choices += f", or a key of {file.name}: {listed(key for key in present if key not in known)}"
    check_names(names, choices)
    found, problems = [], []
    for name in names:
        key, dot, part = name.partition(".")
        if name in known or name in present:
            found.append(Attribute(name, known.get(name, name), None))
        elif dot and part and (key in known or key in present):
            found.append(Attribute(plain_key(part), known.get(key, key), plain_key(part)))
        else:
            problems.append(f"attribute {name!r} is not known; {choices}.")
    if problems:
        raise SettingsError(problems)
    own = attribute_names([attribute.name for attribute in found], file)
    return [attribute._replace(name=name) for attribute, name in zip(found, own, strict=True)]


def check_parts(attributes: Iterable[Attribute], samples: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Refuse a part that no dictionary of the sample has.

    Raises:
        SettingsError: there is such a part; the most frequent ones are named.
    """
    problems = []
    for attribute in attributes:
        if attribute.part is None:
            continue
        values = [sample.get(attribute.key) for sample in samples]
        parts = Counter(plain_key(key) for value in values if isinstance(value, Mapping) for key in value)
        if attribute.part not in parts:
            frequent = listed(key for key, _ in parts.most_common(10)) if parts else "none: it is no dictionary"
            problems.append(
                f"attribute {attribute.key}.{attribute.part}: {file.name} has no such key in {attribute.key!r}; the most "
                f"frequent ones are {frequent}."
            )
    if problems:
        raise SettingsError(problems)


def warn_of_empty(engine: Engine, catalogue: ir.Table, attributes: Sequence[Attribute], file: Path | str) -> None:
    """Warn of attributes that no item of the stored catalogue has."""
    filled = {f"filled_{k}": catalogue[attribute.name].count() for k, attribute in enumerate(attributes)}
    counts = engine.rows(catalogue.agg(**filled))[0].values()
    for attribute, count in zip(attributes, counts, strict=True):
        if not count:
            log.warning("%s: no item has a value of %r (%r in the file).", file, attribute.name, attribute.key)
