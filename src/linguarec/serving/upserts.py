"""Live changes of the catalogue, put into a recommender: items added, replaced and removed, one snapshot for all of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linguarec.catalogue import Catalogue
from linguarec.errors import DataFormatError, LinguarecError, SettingsError
from linguarec.recommender import CATALOGUE_FILE, Recommender
from linguarec.seals import digest_of
from linguarec.serving.state import ItemChange
from linguarec.sources.source import ItemSource

Vector = npt.NDArray[np.float32]
_TAG = 16  # bytes before a stored vector, that say what it is of
_ENCODED_AT_ONCE = 256


@dataclass
class Applied:
    """What changes did to a recommender: ids that were added or replaced, removed, unchanged, and left out with the reason."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def join(self, other: "Applied") -> None:
        """Take in what later changes did."""
        self.added += other.added
        self.removed += other.removed
        self.unchanged += other.unchanged
        self.left_out |= other.left_out


def fingerprint_of(run: Path) -> str:
    """Identifies the catalogue of a run: the digest of its file, so that nothing of it need be read into memory."""
    return digest_of(run / CATALOGUE_FILE)


# -- vectors as they are stored ----------------------------------------------------------------------------------------


def packed(vector: Vector, source: ItemSource, text: str | None) -> bytes:
    """A vector as the state keeps it: with a tag of the encoder and, of a computed one, of the text that was encoded.

    A run with other attributes makes another text of the same item, whose vector is another. `text`: None = the vector was
    given with the item.
    """
    return _tag(source, text) + vector.astype("<f4").tobytes()


def unpacked(content: bytes | None, source: ItemSource, text: str) -> Vector | None:
    """A vector of the state; None if there is none, or it is of another encoder or of another text."""
    if content is None or content[:_TAG] not in (_tag(source, None), _tag(source, text)):
        return None
    return np.frombuffer(content[_TAG:], dtype="<f4").astype(np.float32)


def _tag(source: ItemSource, text: str | None) -> bytes:
    about = [source.encoder_id or "", "given" if text is None else f"text {text}"]
    return hashlib.sha256("\0".join(about).encode("utf-8", "surrogatepass")).digest()[:_TAG]


# -- new items ---------------------------------------------------------------------------------------------------------


def new_rows(catalogue: Catalogue, items: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, dict[int, str]]:
    """Items, of different ids, as rows of the catalogue's table, and why each of the others, by its place, cannot be one.

    An item may have an id of the catalogue.
    """
    there = present(catalogue, [item["raw_id"] for item in items])
    known = [item["raw_id"] for item, entry in zip(items, there.tolist(), strict=True) if entry >= 0]
    free = catalogue.with_removed(known) if known else catalogue
    try:
        return free.new_entries(items), {}
    except DataFormatError:
        rows, refused = [], {}
        for place, item in enumerate(items):
            try:
                rows.append(free.new_entries([item]))
            except DataFormatError as error:
                refused[place] = str(error).replace("New item 1", "The item", 1)
        return (pa.concat_tables(rows) if rows else free.new_entries([])), refused


def present(catalogue: Catalogue, raw_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """The entry of each id, -1 if it is not in the catalogue or is removed."""
    entries = catalogue.find(raw_ids)
    there = entries >= 0
    there[there] = ~catalogue.removed[entries[there]]
    return np.where(there, entries, -1)


def check_ranks_new(recommender: Recommender) -> None:
    """Refuse new items for a model that cannot rank them.

    Raises:
        SettingsError: it ranks items by their ID.
    """
    family = recommender.description.family
    if not family.ranks_new:
        raise SettingsError([f"{family.bound_to_ids} and cannot rank new ones; serve a model that ranks by text"])


def vectors_for(source: ItemSource, rows: pa.Table, given: Sequence[Vector | None]) -> list[Vector | None]:
    """The vector of each row: the given one, or that of its text, encoded now; None each if the source takes no vectors.

    Raises:
        SettingsError: the encoder is not on this machine.
    """
    if source.encoder_id is None:
        return [None] * len(rows)
    vectors = list(given)
    lacking = [place for place, vector in enumerate(vectors) if vector is None]
    for start in range(0, len(lacking), _ENCODED_AT_ONCE):
        places = lacking[start : start + _ENCODED_AT_ONCE]
        for place, vector in zip(places, source.new_vectors(rows.take(pa.array(places))), strict=True):
            vectors[place] = vector
    return vectors


def unreadable(recommender: Recommender, rows: pa.Table, vectors: Sequence[Vector | None]) -> dict[int, str]:
    """Why rows, by place, cannot be new items of the model: it ranks none, or their vectors do not fit."""
    try:
        check_ranks_new(recommender)
        recommender.encode_new(_source_of(recommender.snapshot.source, rows, vectors))
        return {}
    except (LinguarecError, ValueError) as error:
        if len(rows) == 1:
            return {0: str(error)}
        if not recommender.description.family.ranks_new:
            return dict.fromkeys(range(len(rows)), str(error))
        alone = [
            unreadable(recommender, rows.slice(place, 1), vectors[place : place + 1]) for place in range(len(rows))
        ]
        return {place: refused[0] for place, refused in enumerate(alone) if refused}


def _source_of(source: ItemSource, rows: pa.Table, vectors: Sequence[Vector | None]) -> ItemSource:
    """The rows as new items of a source."""
    known = [vector for vector in vectors if vector is not None]
    if known and source.encoder_id is None:
        raise SettingsError(["this model reads no vectors of items; leave `vector` out"])
    return source.new(rows, np.stack(known) if known else None)


# -- applying ----------------------------------------------------------------------------------------------------------


def apply_changes(recommender: Recommender, changes: Sequence[ItemChange]) -> Applied:
    """Put changes of different items into a recommender: those who ask see all of them or none.

    An item whose text and attributes are those that it has already stays as it is; of an item that a run was trained on, that
    keeps what the model learned about it. Columns that this catalogue does not know are left out.
    """
    now = recommender.snapshot
    done = Applied()
    there = present(now.catalogue, [change.raw_id for change in changes]).tolist()
    upserts: list[ItemChange] = []
    gone: list[str] = []
    for change, entry in zip(changes, there, strict=True):
        if change.attributes is not None:
            upserts.append(change)
        elif entry >= 0:
            gone.append(change.raw_id)
            done.removed.append(change.raw_id)
        else:
            done.unchanged.append(change.raw_id)
    known = {*now.catalogue.attributes, "text"}
    items = [
        {name: value for name, value in (change.attributes or {}).items() if name in known} | {"raw_id": change.raw_id}
        for change in upserts
    ]
    rows, refused = new_rows(now.catalogue, items)
    done.left_out |= {upserts[place].raw_id: reason for place, reason in refused.items()}
    unchanged = rows["raw_id"].to_pylist()
    rows = changed_rows(now.catalogue, rows)
    raw_ids = rows["raw_id"].to_pylist()
    differing = set(raw_ids)
    done.unchanged += [raw_id for raw_id in unchanged if raw_id not in differing]
    gone += [
        raw_id for raw_id, entry in zip(raw_ids, present(now.catalogue, raw_ids).tolist(), strict=True) if entry >= 0
    ]
    if len(rows):
        texts = rows["text"].to_pylist()
        stored = {change.raw_id: change.vector for change in upserts}
        given = [unpacked(stored[raw_id], now.source, text) for raw_id, text in zip(raw_ids, texts, strict=True)]
        try:
            check_ranks_new(recommender)
            _exchange(recommender, gone, rows, vectors_for(now.source, rows, given))
        except LinguarecError as error:
            if len(changes) == 1:
                done.left_out[changes[0].raw_id] = str(error)
                return done
            done = Applied()
            for change in changes:  # which of them it is shows when each is taken alone
                done.join(apply_changes(recommender, [change]))
        else:
            done.added += raw_ids
    elif gone:
        _exchange(recommender, gone, rows, [])
    return done


def changed_rows(catalogue: Catalogue, rows: pa.Table) -> pa.Table:
    """The rows whose text or attributes differ from what the catalogue has."""
    raw_ids = rows["raw_id"].to_pylist()
    entries = present(catalogue, raw_ids)
    differs = entries < 0
    old = entries[~differs]
    same = np.ones(len(old), dtype=bool)
    for name in [*catalogue.attributes, "text"] if len(old) else []:
        before = np.array(catalogue.values(name, old), dtype=object)
        after = np.array(rows[name].to_pylist(), dtype=object)[~differs]
        same &= before == after
    differs[~differs] = ~same
    return rows.filter(pa.array(differs))


def _exchange(recommender: Recommender, gone: Sequence[str], rows: pa.Table, vectors: Sequence[Vector | None]) -> None:
    """Replace the snapshot by one without the items `gone`, and with `rows`."""
    now = recommender.snapshot
    catalogue, ranker, inputs, source = now.catalogue, now.ranker, now.inputs, now.source
    if gone:
        ranker = ranker.with_removed(catalogue.find(gone))
        catalogue = catalogue.with_removed(gone)
    if len(rows):
        added = _source_of(source, rows, vectors)
        new_inputs, keys = recommender.encode_new(added)
        catalogue, inputs = catalogue.with_added(rows), inputs.joined(new_inputs)
        ranker, source = ranker.with_added(keys), source.joined(added)
    recommender.snapshot = now.changed(catalogue=catalogue, inputs=inputs, ranker=ranker, source=source)
