"""Cleans the attributes of an item and joins them to one text for an encoder.

Two sets of rules:

- `default`: as the papers describe (HTML unescaped, quotes and line breaks removed, every field ends in one full
  stop); also removes HTML tags, and drops no words: fields of 2,000 characters and more are kept and counted.
- `released`: the cleaning of the published UniSRec and VQ-Rec code, character for character. It blanks fields of 2,000
  characters and more, joins words that were separated only by a line break, writes a single full stop for a field that is
  present but empty, and leaves a trailing space.

A field with several values (the categories of an item) is stored as one string joined by `LIST_SEPARATOR`.
"""

import html
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from linguarec.values import LIST_SEPARATOR

TextRules = Literal["default", "released"]
TEXT_RULES: tuple[str, ...] = get_args(TextRules)

LONG_FIELD = 2000  # characters; the released code blanks fields from this length on

# Only the names of real tags: "pressure <x and y> 3" is not HTML.
_TAG = re.compile(
    r"</?(?:a|b|big|blockquote|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|s|small|span|strong|style|sub|sup|table|tbody"
    r"|td|th|thead|tr|u|ul)\b[^<>]*>",
    re.IGNORECASE,
)
_QUOTES_AND_BREAKS = re.compile(r'["\n\r]')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ItemText(NamedTuple):
    """The text of an item, its number of fields of 2,000 characters and more, and how many of these were blanked."""

    text: str
    long_fields: int
    blanked_fields: int


def item_text(attributes: Sequence[str | None], rules: TextRules = "default") -> ItemText:
    """One cleaned text from the attribute values of an item, in order; None = the item lacks that attribute.

    >>> item_text(["Drill &amp; bits...", "Tools > Power Tools", "Bosch"])
    ItemText(text='Drill & bits. Tools Power Tools. Bosch.', long_fields=0, blanked_fields=0)
    >>> item_text(["Drill", "", None]).text
    'Drill.'
    >>> item_text(["Drill", "", None], "released").text
    'Drill. . '
    >>> item_text(["x" * 2000, "Bosch"], "released")
    ItemText(text=' Bosch. ', long_fields=1, blanked_fields=1)
    """
    clean = _CLEANERS[rules]
    fields = [clean(value) for value in attributes if value is not None]
    long_fields = sum(len(field) >= LONG_FIELD for field in fields)
    if rules == "default":
        return ItemText(" ".join(field for field in fields if field), long_fields, 0)
    kept = ["" if len(field) >= LONG_FIELD else field for field in fields]
    return ItemText("".join(field + " " for field in kept), long_fields, long_fields)


def clean_text(value: str) -> str:
    r"""One field under the default rules.

    >>> clean_text('&lt;b&gt;13"&lt;/b&gt; Steel\nruler &amp; case ..')
    '13 Steel ruler & case.'
    >>> clean_text("Tools > Power &amp; Hand Tools")
    'Tools Power & Hand Tools.'
    >>> clean_text(" . ")
    ''
    >>> clean_text("Really?")
    'Really?.'
    """
    value = value.replace(LIST_SEPARATOR, " ").replace('"', "")
    if "&" in value:
        value = html.unescape(value).replace('"', "")
    if "<" in value:
        value = _TAG.sub(" ", value)
    value = " ".join(_CONTROL.sub(" ", value).split()).rstrip(". ")
    return value + "." if value else ""


def clean_text_released(value: str) -> str:
    r"""One field under the released rules, before the blanking of long fields (`item_text` does that).

    A value without a final full stop gets one; a value of only full stops is reduced to the first and gets another one.

    >>> clean_text_released('13" Steel\nruler..')
    '13 Steelruler.'
    >>> clean_text_released("Tools > Power Tools")
    'Tools Power Tools.'
    >>> clean_text_released("")
    '.'
    >>> clean_text_released("...")
    '..'
    """
    cleaned = _QUOTES_AND_BREAKS.sub("", html.unescape(value.replace(LIST_SEPARATOR, " ")))
    without_stops = cleaned.rstrip(".")
    if cleaned and not without_stops:
        without_stops = "."  # the released loop never checks the first character
    return without_stops + "."


_CLEANERS = {"default": clean_text, "released": clean_text_released}
