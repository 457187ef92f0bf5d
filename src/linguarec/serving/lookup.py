"""Finds items of a catalogue by words of their titles and by their ids."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from linguarec.catalogue import Catalogue

_AT_ONCE = 1 << 16
_MOST_WORDS = 16
_MOST_CHUNKS = 64


class Lookup:
    """A search in the ids and titles of one catalogue and of those that were made from it; read when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: list[pa.Array] = []
        self._count = 0

    def entries(self, catalogue: Catalogue, query: str) -> npt.NDArray[np.int64]:
        """Entries that can be recommended, whose id or title has every word of the query, in any case of letters.

        First the one with this id, then those whose title begins with the query, then the others in their order.
        """
        found = ~catalogue.removed
        wanted = " ".join(query.casefold().split())
        if not wanted:
            return np.flatnonzero(found)
        names = self._names(catalogue)
        for word in wanted.split()[:_MOST_WORDS]:
            found &= pc.match_substring(names, word).combine_chunks().to_numpy(zero_copy_only=False)
        entries = np.flatnonzero(found)
        begins = pc.match_substring(names.take(pa.array(entries)), "\n" + wanted).combine_chunks()
        exact = entries == catalogue.find([query.strip()])[0]
        order = np.lexsort((entries, ~begins.to_numpy(zero_copy_only=False), ~exact))
        return entries[order]

    def _names(self, catalogue: Catalogue) -> pa.ChunkedArray:
        """`id\\ntitle` of each entry, in small letters."""
        with self._lock:
            for start in range(self._count, len(catalogue), _AT_ONCE):
                entries = np.arange(start, min(start + _AT_ONCE, len(catalogue)))
                pairs = zip(catalogue.values("raw_id", entries), catalogue.titles(entries), strict=True)
                self._chunks.append(
                    pa.array([f"{raw_id}\n{title}".casefold() for raw_id, title in pairs], pa.large_string())
                )
                self._count = start + len(entries)
            if len(self._chunks) > _MOST_CHUNKS:
                self._chunks = [pa.concat_arrays(self._chunks)]
            return pa.chunked_array(self._chunks, pa.large_string()).slice(0, len(catalogue))


def described(catalogue: Catalogue, entries: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Items as they stand in lists of recommendations."""
    columns = (
        catalogue.values("raw_id", entries),
        catalogue.titles(entries),
        catalogue.attributes_of(entries),
        catalogue.values("row", entries),
    )
    for raw_id, title, attributes, row in zip(*columns, strict=True):
        known = {name: value for name, value in attributes.items() if value is not None}
        yield {"raw_id": raw_id, "title": title, "attributes": known, "trained": int(row) >= 0}


def views(catalogue: Catalogue, entries: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Items as they are shown by themselves: with their text."""
    for item, text in zip(described(catalogue, entries), catalogue.values("text", entries), strict=True):
        yield item | {"text": text}
