"""Errors that a user can mend.

Each message says what was found, where (file, row, key), what was expected and how to mend it. The command line prints the
message alone, without a traceback, and exits with code 2.
"""

from collections.abc import Iterable, Mapping
from typing import Any

QUOTED_CHARACTERS = 100
LISTED_CHARACTERS = 400


def quoted(value: object) -> str:
    """A value from a file as a message quotes it: its repr, of at most 100 characters and a note of what was left out.

    >>> quoted("a,b\\n"), quoted(["a", 1])
    ("'a,b\\\\n'", "['a', 1]")
    >>> quoted("x" * 10_000)[-27:]
    "xxx'... (10,000 characters)"
    """
    if isinstance(value, str | bytes) and len(value) > QUOTED_CHARACTERS:
        return f"{value[: QUOTED_CHARACTERS - 2]!r}... ({len(value):,} characters)"
    text = repr(value)
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[:QUOTED_CHARACTERS]}... ({len(text):,} characters)"


def listed(names: Iterable[object]) -> str:
    """Names from a file as a message lists them: each quoted, of some 400 characters in all.

    >>> listed(["user", "item"]), listed(range(200))[-20:]
    ("'user', 'item'", '100, 101 and 98 more')
    """
    every = [quoted(name) for name in names]
    shown, length = 0, 0
    while shown < len(every) and length < LISTED_CHARACTERS:
        length += len(every[shown]) + 2
        shown += 1
    text = ", ".join(every[:shown])
    return text if shown == len(every) else f"{text} and {len(every) - shown:,} more"


class LinguarecError(Exception):
    """Base of all errors caused by the input, not by the library."""


class DataFormatError(LinguarecError):
    """A source file or a prepared folder does not have the form that was expected."""


class OutputError(LinguarecError):
    """A result cannot be written to the requested path (exists already, not writable, disk full)."""


class StaleFeaturesError(LinguarecError):
    """Stored vectors or codes do not belong to the texts, encoder or codebook stored beside them."""


class CheckpointMismatchError(LinguarecError):
    """A checkpoint does not fit the model or the data it is loaded for."""


class UnknownItemError(LinguarecError):
    """A raw item id is not in the catalogue."""


class LostProcessError(LinguarecError):
    """Another one of the processes that torchrun started for a command has ended, or cannot be reached."""


class StateError(LinguarecError):
    """The durable state of a service cannot be used, or refuses what it is given."""


class ServiceError(LinguarecError):
    """A service refused a call of `linguarec.client`, or cannot be reached.

    `status`: of HTTP, 0 if there was no answer. `problem`: the problem details (RFC 9457).
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, dict(problem)
        detail, mend = problem.get("detail", "the service gave no reason"), problem.get("mend", "")
        super().__init__(f"{status}: {detail} {mend}".strip())


class SettingsError(LinguarecError):
    """One or more settings have invalid values; all of them are named at once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class UnreadFlagsError(SettingsError):
    """Flags were given that say nothing to a model. `flags`: their names, as those of Python's arguments."""

    def __init__(self, problems: list[str], flags: list[str]) -> None:
        self.flags = flags
        super().__init__(problems)


class WorseModelError(LinguarecError):
    """An updated model is significantly worse than the one that it would replace.

    `judged`: the figures of both, as in the result of `linguarec.update`.
    """

    def __init__(self, message: str, judged: Mapping[str, Any]) -> None:
        self.judged = dict(judged)
        super().__init__(message)


class FilterError(LinguarecError):
    """A filter of items cannot be read or does not fit the attributes.

    `position`: of the character where that was found, from 0.
    """

    def __init__(self, problem: str, position: int) -> None:
        self.position = position
        super().__init__(f"The filter, at character {position + 1}: {problem}.")
