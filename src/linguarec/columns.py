"""Attribute columns of a catalogue in the form that filters compare: numbers as floats, texts as codes of distinct values."""

import re
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask: TypeAlias = npt.NDArray[np.bool_]

# Without leading zeros, which codes have ("0042"), and with at most 15 digits before the point, which a float holds exactly.
_WHOLE, _EXPONENT = "(0|[1-9][0-9]{0,14})", "([eE](-[0-9]{1,3}|[+]?[0-9]{1,2}))"
_NUMBER = rf"[+-]?({_WHOLE}([.][0-9]*)?|[.][0-9]+){_EXPONENT}?"
_MISSING = "(?i:nan)?"
_COMPILED, _COMPILED_MISSING = re.compile(_NUMBER), re.compile(_MISSING)


def number_of(text: str | None) -> float | None:
    """The number that a text holds, NaN where it holds no value; None = it is another text.

    >>> number_of(" 3.50"), number_of("-1e3"), number_of("0042"), number_of("12 mm"), number_of("")
    (3.5, -1000.0, None, None, nan)
    """
    stripped = "" if text is None else text.strip()
    if _COMPILED_MISSING.fullmatch(stripped):
        return float("nan")
    return float(stripped) if _COMPILED.fullmatch(stripped) else None


class NumberFinder:
    """Finds the columns whose values are all numbers, of a table that comes in pieces.

    Args:
        names: columns to look at.
    """

    def __init__(self, names: list[str]) -> None:
        self._possible = dict.fromkeys(names, False)  # name -> whether a number was found

    def look(self, piece: pa.Table) -> None:
        """Look at the next piece; its columns are of text."""
        for name in list(self._possible):
            values = pc.utf8_trim_whitespace(piece[name].drop_null())
            there = values.filter(pc.invert(pc.match_substring_regex(values, f"^{_MISSING}$")))
            if not len(there):
                continue
            if pc.all(pc.match_substring_regex(there, f"^{_NUMBER}$")).as_py():
                self._possible[name] = True
            else:
                del self._possible[name]

    @property
    def found(self) -> list[str]:
        """Columns of at least one number and nothing else, in their order."""
        return [name for name, any_number in self._possible.items() if any_number]


@dataclass(frozen=True)
class NumberColumn:
    """`values` [N] float64; NaN = no value."""

    values: npt.NDArray[np.float64]

    @classmethod
    def of(cls, texts: pa.StringArray) -> "NumberColumn":
        """The column of these texts; `number_of` of each, at once.

        Raises:
            ValueError: one is no number; it is named.
        """
        values = pc.utf8_trim_whitespace(texts)
        missing = pc.fill_null(pc.match_substring_regex(values, f"^{_MISSING}$"), True)
        wrong = pc.invert(pc.or_(missing, pc.fill_null(pc.match_substring_regex(values, f"^{_NUMBER}$"), False)))
        if (first := pc.index(wrong, True).as_py()) >= 0:
            raise ValueError(f"{texts[first].as_py()!r} is no number")
        numbers = pc.cast(pc.utf8_ltrim(pc.if_else(missing, None, values), "+"), pa.float64())
        return cls(pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False))

    @property
    def present(self) -> Mask:
        """[N] where there is a value."""
        return ~np.isnan(self.values)


@dataclass(frozen=True)
class TextColumn:
    """`codes` [N]: place of each value in `distinct`; the last place, that of no value, is its length."""

    codes: npt.NDArray[np.int32]
    distinct: pa.StringArray

    @classmethod
    def of(cls, texts: pa.StringArray) -> "TextColumn":
        """The column of these texts; an empty one is no value."""
        encoded = pc.if_else(pc.equal(texts, ""), None, texts).dictionary_encode()
        codes = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        return cls(codes.astype(np.int32, copy=False), encoded.dictionary)

    @property
    def present(self) -> Mask:
        """[N] where there is a value."""
        return self.codes < len(self.distinct)

    def where(self, wanted: pa.BooleanArray) -> Mask:
        """[N] the values of which are `wanted` [distinct values]."""
        return np.append(wanted.to_numpy(zero_copy_only=False).astype(bool), False)[self.codes]
