"""Lists of ids and names in one word of a command line or one cell of a table."""

import re

from linguarec.errors import quoted

_QUOTED_PART = re.compile(r'\s*"((?:[^"]|"")*)"\s*(,|\Z)')
_BARE_PART = re.compile(r"([^,]*)(,|\Z)")


def split_by_commas(word: str) -> list[str]:
    """The parts of a list as in a row of CSV; spaces around a part are dropped, those within quotes are kept.

    >>> split_by_commas('A, B,"c,d"'), split_by_commas('" e","a ""f"" g"')
    (['A', 'B', 'c,d'], [' e', 'a "f" g'])

    Raises:
        ValueError: a quote is not closed, or there is a line break outside quotes.
    """
    parts, place, more = [], 0, True
    while more:
        if found := _QUOTED_PART.match(word, place):
            parts.append(found[1].replace('""', '"'))
        else:
            found = _BARE_PART.match(word, place)
            assert found is not None  # it matches every text
            part = found[1].strip()
            if part.startswith('"'):
                raise ValueError(
                    f"{quoted(part)} has a quote that is not closed; write '\"a,b\",c', and a quote in it twice"
                )
            if "\n" in part or "\r" in part:
                raise ValueError(
                    f"{quoted(part)} has a line break; put commas between values, or quotes around this one"
                )
            parts += [part] if part else []
        place, more = found.end(), found[2] == ","
    return parts
