"""Reads released pre-training folders, which hold several domains, for `prepare atomic`."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import DataFormatError

if TYPE_CHECKING:
    from linguarec.codes.faiss_index import IndexContent
    from linguarec.data.folder import Content


def prepare_pretraining(
    source: Path,
    name: str,
    vector_width: int,
    output: Path,
    held_out_share: float,
    seed: int,
    overwrite: bool,
    discard: bool,
) -> dict[str, Any]:
    """Write one prepared folder per domain under `output`; all of them, or none.

    Raises:
        DataFormatError: see `linguarec.data.readers.pretraining`; or the faiss index does not fit the other files.
    """
    import numpy as np

    from linguarec.codes.codebook import ItemCodes
    from linguarec.codes.faiss_index import IMPORTED_CODES, IndexContent
    from linguarec.data.folder import Origin, check_nothing_added, write_folder
    from linguarec.data.readers.pretraining import check_indexed_items, content, read_pretraining
    from linguarec.data.splitting import SplitSettings
    from linguarec.files import writing_folder

    if overwrite and not discard:
        check_nothing_added(output, imported=[IMPORTED_CODES])
    index = _read_index(source, name, vector_width)
    found = read_pretraining(source, name, vector_width)
    has_list = index is not None or (source / f"{name}.filtered_id").exists()
    indexed = check_indexed_items(source, name, found) if has_list else []
    if index is not None and sum(map(len, indexed)) != len(index.codes):
        raise DataFormatError(
            f"The faiss index of {source} holds {len(index.codes):,} items, but {name}.filtered_id lists "
            f"{sum(map(len, indexed)):,}; both must come from one release."
        )
    splits = SplitSettings(held_out_share=held_out_share, seed=seed, training_only=not found.complete)
    settings = {"source": source.name, "name": name, "held_out_share": held_out_share, "seed": seed}
    rows: list[dict[str, Any]] = []
    with writing_folder(output, overwrite) as folder:
        for domain in found.domains:
            arguments = {**settings, "domain": domain.name, "training_only": splits.training_only}
            origin = Origin("atomic", arguments, "released")
            manifest = write_folder(folder / domain.name, origin, splits, False, partial(_made, content(domain)))
            row = {"domain": domain.name, "output": str(output / domain.name), **manifest.counts}
            rows.append({**row, "report": manifest.report, "fingerprint": manifest.fingerprint})
        if index is not None:
            parts = np.split(index.codes, np.cumsum([len(items) for items in indexed])[:-1])
            for row, domain, items, part in zip(rows, found.domains, indexed, parts, strict=True):
                codes, different = IndexContent(part, index.book).of_catalogue(items, domain.vectors)
                ItemCodes(codes, index.book).save(folder / domain.name / "codes" / f"{IMPORTED_CODES}.npz")
                row["indexed_items"] = len(items)
                row["indexed_items_whose_vectors_code_differently"] = different
    _show(f"{output} (atomic)", rows)
    return {
        "output": str(output),
        "training_only": splits.training_only,
        "word_drop_draws": 0 if found.domains[0].dropped is None else 1,
        "codes": None if index is None else IMPORTED_CODES,
        "domains": rows,
    }


def _made(content: "Content", scratch: Path) -> "AbstractContextManager[Content]":
    """Wrap content that needs no scratch folder."""
    return nullcontext(content)


def _read_index(source: Path, name: str, vector_width: int) -> "IndexContent | None":
    """The faiss index `NAME.*.index` of the folder, if there is one."""
    from linguarec.codes.faiss_index import read_faiss_index
    from linguarec.data.readers.pretraining import VECTORS

    files = sorted(source.glob(f"{name}.*.index"))
    if len(files) > 1:
        raise DataFormatError(
            f"{source} has several faiss indexes: {', '.join(file.name for file in files)}; keep the one to be read."
        )
    if not files:
        return None
    index = read_faiss_index(files[0], VECTORS)
    if index.book.width != vector_width:
        raise DataFormatError(
            f"{files[0]} codes vectors of width {index.book.width}, but --vector-width is {vector_width}; give the width of "
            f"the vectors that lie beside it."
        )
    return index


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    from linguarec.evaluation.report import Table
    from linguarec.runs.tables import plain_console, show_table

    columns = [key for key in rows[0] if key not in ("output", "report", "fingerprint")]
    cells = [[f"{row[key]:,}" if isinstance(row[key], int) else row[key] for key in columns] for row in rows]
    show_table(plain_console(), Table([column.replace("_", " ") for column in columns], cells), title)
