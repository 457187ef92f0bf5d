"""Released pre-training folders: what `prepare atomic` and `export` do with several domains in one folder."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError

if TYPE_CHECKING:
    from linguarec.codes.faiss_index import IndexContent
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.folder import Content

CODES = "official"  # name of imported codes, as of `import-codes`


def prepare_pretraining(
    source: Path, name: str, vector_width: int, output: Path, held_out_share: float, seed: int, overwrite: bool
) -> dict[str, Any]:
    """Write one prepared folder a domain under `output`; all of them, or none.

    Raises:
        DataFormatError: see `linguarec.data.readers.pretraining`; or the faiss index does not fit the other files.
    """
    import numpy as np

    from linguarec.codes.codebook import ItemCodes
    from linguarec.codes.faiss_index import IndexContent
    from linguarec.data.folder import Origin, write_folder
    from linguarec.data.readers.pretraining import check_indexed_items, content, read_pretraining
    from linguarec.data.splitting import SplitSettings
    from linguarec.files import writing_folder

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
                ItemCodes(codes, index.book).save(folder / domain.name / "codes" / f"{CODES}.npz")
                row["indexed_items"] = len(items)
                row["indexed_items_whose_vectors_code_differently"] = different
    _show(f"{output} (atomic)", rows)
    return {
        "output": str(output),
        "training_only": splits.training_only,
        "word_drop_draws": 0 if found.domains[0].dropped is None else 1,
        "codes": None if index is None else CODES,
        "domains": rows,
    }


def export_pretraining(
    data: Sequence[Path],
    output: Path,
    name: str | None,
    features: str | None,
    codes: str | None,
    window: int,
    overwrite: bool,
) -> dict[str, Any]:
    """Write prepared folders as one pre-training folder; the domains stand in the order of `data`.

    Raises:
        StaleFeaturesError: the vectors are of different encoders, or the codes of different books.
        SettingsError: no vectors are named and none were imported; or the codes cannot be written as a faiss index.
    """
    from linguarec.codes.faiss_index import write_faiss_index
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.export import write_pretraining, write_vectors
    from linguarec.data.readers.pretraining import VECTORS, WORD_DROP
    from linguarec.data.same_encoder import check_same_encoder
    from linguarec.files import writing_folder
    from linguarec.runs.tables import plain_console, show_files

    datasets = [PreparedDataset.open(folder) for folder in data]
    name = name or "".join(dataset.name[0] for dataset in datasets)  # as the release: FHCKM
    lacking = [dataset for dataset in datasets if (features or VECTORS) not in dataset.feature_names]
    if features is None and lacking:
        raise SettingsError(
            [f"{lacking[0].path} has no imported vectors {VECTORS!r}; name the item vectors to write by --features."]
        )
    features = features or VECTORS
    encoder = check_same_encoder([(dataset, features) for dataset in datasets])
    if codes is None and all(CODES in dataset.code_names for dataset in datasets):
        codes = CODES
    drops = [dataset.word_drop_draws(features) for dataset in datasets]
    with writing_folder(output, overwrite) as folder:
        counts = write_pretraining(datasets, folder, name, window)
        for dataset, dropped in zip(datasets, drops, strict=True):
            write_vectors(dataset.features(features), folder / f"{dataset.name}.{VECTORS}")
            if all(drops):
                write_vectors(dropped[0], folder / f"{dataset.name}.{WORD_DROP}")
        if codes is not None:
            content = _joined_codes(datasets, codes)
            size = content.book.subvectors
            write_faiss_index(folder / f"{name}.OPQ{size},IVF1,PQ{size}x8.strict.index", content)
        files = sorted(file.name for file in folder.iterdir())
    counts["domains_without_word_drop"] = sum(not dropped for dropped in drops)
    counts["word_drop_draws_left_out"] = sum(len(dropped) - all(drops) for dropped in drops)
    show_files(plain_console(), output, counts, files)
    return {"output": str(output), "files": files, **counts, "vector_width": encoder.width}


def _made(content: "Content", scratch: Path) -> "AbstractContextManager[Content]":
    """Content that needs no scratch folder."""
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


def _joined_codes(datasets: "Sequence[PreparedDataset]", name: str) -> "IndexContent":
    """Codes of all items in training pairs, domain after domain, as `.filtered_id` lists them."""
    import numpy as np

    from linguarec.codes.codebook import ItemCodes
    from linguarec.codes.faiss_index import IndexContent
    from linguarec.data.splits import items_of_training_pairs

    stored = [ItemCodes.load(dataset.codes_path(name)) for dataset in datasets]
    parts = []
    for dataset, of_domain in zip(datasets, stored, strict=True):
        if of_domain.book.fingerprint != stored[0].book.fingerprint:
            raise StaleFeaturesError(
                f"The codes {name!r} of {dataset.path} are of another code book than those of {datasets[0].path}; fit one "
                "for all with `linguarec quantize`, naming all folders."
            )
        of_domain.check(dataset.num_items)
        parts.append(of_domain.codes[items_of_training_pairs(dataset.sequences, dataset.roles())])
    return IndexContent(np.concatenate(parts), stored[0].book)


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    from linguarec.evaluation.report import Table
    from linguarec.runs.tables import plain_console, show_table

    columns = [key for key in rows[0] if key not in ("output", "report", "fingerprint")]
    cells = [[f"{row[key]:,}" if isinstance(row[key], int) else row[key] for key in columns] for row in rows]
    show_table(plain_console(), Table([column.replace("_", " ") for column in columns], cells), title)
