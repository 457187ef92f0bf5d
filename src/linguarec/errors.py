"""Errors that a user can mend.

Each message says what was found, where (file, row, key), what was expected and how to mend it. The command line prints the
message alone, without a traceback, and exits with code 2.
"""


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


class SettingsError(LinguarecError):
    """One or more settings have invalid values; all of them are named at once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))
