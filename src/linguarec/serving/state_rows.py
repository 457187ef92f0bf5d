"""What the state stores: changes of the catalogue and interactions, checked before anything is written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linguarec.errors import DataFormatError, quoted

LONGEST_ID = 2_000  # bytes of UTF-8: PostgreSQL's indexes take 2,700
SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True)
class ItemChange:
    """A live change of the catalogue: an item added or replaced, or removed.

    Args:
        raw_id: the item.
        attributes: its columns; None = the item was removed.
        vector: float32 bytes of its feature vector, so that a restart need not encode it again.
        sequence: number of the change, given by the store.
    """

    raw_id: str
    attributes: Mapping[str, str | float | None] | None
    vector: bytes | None = None
    sequence: int = 0


@dataclass(frozen=True)
class Event:
    """An interaction of a user with an item. `timestamp`: seconds since 1970, None = when the store receives it."""

    user: str
    raw_id: str
    timestamp: int | None = None


@dataclass(frozen=True)
class Receipt:
    """What was written: the number of its last change (or interaction, which are counted apart).

    `repeated`: the idempotency key was seen before with the same content, and nothing was written again.
    """

    sequence: int
    repeated: bool = False


def item_row(change: ItemChange) -> dict[str, Any]:
    """A change as a row of the table of items, without its number.

    Raises:
        DataFormatError: the id or an attribute cannot be stored.
    """
    return {
        "raw_id": checked(change.raw_id, "an item id"),
        "attributes": None if change.attributes is None else _as_json(change.raw_id, change.attributes),
        "vector": change.vector,
    }


def changed_item(raw_id: str, attributes: str | None, vector: bytes | None, sequence: int) -> ItemChange:
    """The change that a row of the table of items holds."""
    return ItemChange(raw_id, None if attributes is None else json.loads(attributes), vector, sequence)


def event_row(event: Event) -> dict[str, Any]:
    """An interaction as a row of the table of events, without its number.

    Raises:
        DataFormatError: an id or the timestamp cannot be stored.
    """
    user, raw_id, moment = checked(event.user, "a user id"), checked(event.raw_id, "an item id"), event.timestamp
    # The smallest moment is that of imported histories.
    if moment is not None and not (isinstance(moment, int) and SMALLEST < moment <= LARGEST):
        raise DataFormatError(
            f"The timestamp {quoted(moment)} of user {quoted(user)} is no number of seconds since 1970; expected an integer of "
            "64 bits."
        )
    return {"user_id": user, "raw_id": raw_id, "moment": moment}


def checked(value: str, what: str) -> str:
    """The id or key if every database can store it.

    Raises:
        DataFormatError: it is no text or too long, or has a NUL character or half of a surrogate pair.
    """
    if problem := problem_of(value):
        raise DataFormatError(f"{quoted(value)} cannot be {what}: {problem}.")
    return value


def problem_of(value: object) -> str | None:
    """Why a value can be no id or key; None = it can."""
    if not isinstance(value, str):
        return f"it is a {type(value).__name__}, expected text"
    if "\0" in value:
        return f"character {value.index(chr(0)) + 1} is NUL (U+0000), which databases do not store; leave it out"
    try:
        length = len(value.encode())
    except UnicodeEncodeError as error:
        return f"character {error.start + 1} is half of a surrogate pair, which is no character; write the whole one"
    return f"it has {length:,} bytes in UTF-8, at most {LONGEST_ID:,} are possible" if length > LONGEST_ID else None


def digest(kind: str, content: object) -> str:
    """SHA-256 of what an idempotency key stands for: `content` of lists, texts, numbers and bytes."""
    written = json.dumps([kind, content], default=lambda vector: hashlib.sha256(vector).hexdigest())
    return hashlib.sha256(written.encode()).hexdigest()


def _as_json(raw_id: str, attributes: Mapping[str, str | float | None]) -> str:
    """The attributes as they are stored; NUL characters are escaped in it."""
    for name, value in attributes.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise DataFormatError(
                f"Attribute {quoted(name)} of item {quoted(raw_id)} is a {type(value).__name__} ({quoted(value)}); "
                "expected text or a number."
            )
    try:
        text = json.dumps(dict(attributes), ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        problem = "half of a surrogate pair, which is no character; write the whole one"
    except ValueError:
        problem = "a number that is NaN or infinite; leave the attribute out where there is no value"
    else:
        return text
    raise DataFormatError(f"The attributes of item {quoted(raw_id)} have {problem}.")
