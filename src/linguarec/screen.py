"""Foreign text on the screen: what would move the cursor, clear the screen or reorder the line is shown as an escape."""

import logging
import re

# C0 without tab and line feed, DEL, C1; marks and controls of the writing direction; separators of lines and paragraphs; halves
# of surrogate pairs, which stand for bytes that are no UTF-8.
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(f"[{_HIDDEN}\t\n]")
_CONTROL_IN_LINES = re.compile(f"[{_HIDDEN}]")


def visible(text: str) -> str:
    """Text from a file or a user in one line, with its control characters as escapes.

    >>> print(visible("safe \\x1b]0;title\\x07 \\u202etxt.exe\\n"))
    safe \\x1b]0;title\\x07 \\u202etxt.exe\\n
    """
    return _CONTROL.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """As `visible`, of a message of several lines: its line breaks and tabs stay."""
    return _CONTROL_IN_LINES.sub(_escaped, text)


class VisibleFormatter(logging.Formatter):
    """Formats log messages for the screen."""

    def format(self, record: logging.LogRecord) -> str:
        """The message with visible control characters."""
        return visible_lines(super().format(record))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
