"""The nearest text by TF-IDF: a substitute for items that have neither a vector nor a code."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"\w\w+")


@dataclass(frozen=True, eq=False)
class NearestTexts:
    """For each query the row of the nearest candidate, `rows` [Q], and its cosine, `similarities` [Q] (0 = no common word)."""

    rows: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float64]


def nearest_texts(queries: Sequence[str], candidates: Sequence[str]) -> NearestTexts:
    """Nearest candidate of each query by the cosine of TF-IDF vectors of words; the first one of ties.

    Words are lower-cased runs of two and more letters or digits, weighted by count x (1 + ln((1 + n) / (1 + df))).
    """
    counts = [Counter(_WORD.findall(text.lower())) for text in [*candidates, *queries]]
    column: dict[str, int] = {}
    for words in counts:
        for word in words:
            column.setdefault(word, len(column))
    holding = Counter(word for words in counts for word in words)
    weight = np.empty(max(len(column), 1))
    for word, place in column.items():
        weight[place] = 1.0 + np.log((1 + len(counts)) / (1 + holding[word]))
    known = _matrix(counts[: len(candidates)], column, weight)
    asked = _matrix(counts[len(candidates) :], column, weight)
    similar = (asked @ known.T).toarray()
    rows = similar.argmax(axis=1)
    return NearestTexts(rows, similar[np.arange(len(rows)), rows])


def _matrix(counts: Sequence[Counter[str]], column: dict[str, int], weight: npt.NDArray[np.float64]) -> Any:
    """Sparse rows of length 1 (0 for a text without words), [N, W]."""
    from scipy.sparse import csr_matrix

    offsets = np.concatenate([[0], np.cumsum([len(words) for words in counts])])
    columns = np.array([column[word] for words in counts for word in words], dtype=np.int64)
    values = np.array([count for words in counts for count in words.values()], dtype=np.float64) * weight[columns]
    rows = np.repeat(np.arange(len(counts)), np.diff(offsets))
    lengths = np.sqrt(np.bincount(rows, weights=values**2, minlength=len(counts)))
    return csr_matrix((values / lengths[rows], columns, offsets), shape=(len(counts), len(weight)))
