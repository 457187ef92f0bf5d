"""Import codes: convert a published faiss index to item codes, and on request to decoded vectors."""

from pathlib import Path
from typing import Any, Literal


def import_codes(
    data: Path,
    index: Path,
    name: str = "official",
    features: str | None = None,
    rows: Literal["train", "all"] = "train",
    split: str = "leave-one-out",
    decode_as: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Import item codes and their codebook from a faiss index, as VQ-Rec released them.

    Row k of such an index is the k-th training item in the order of the folder's rows. Items that are not in the index are
    coded from their vectors with --features; else they get the code of the indexed item with the nearest text (TF-IDF).

    Args:
        data: a prepared folder
        index: the .index file
        name: name of the stored codes
        features: name of the item vectors that the index was fitted on, to code the items that are not in it
        rows: which items the index holds, in ascending order: those that occur in training sequences, or all
        split: the split that defines the training items
        decode_as: also store the decoded vectors under this name
        overwrite: replace codes or vectors of that name
    """
    import numpy as np

    from linguarec.codes.codebook import ItemCodes
    from linguarec.codes.faiss_index import read_faiss_index
    from linguarec.codes.quantisation import code_statistics
    from linguarec.commands.quantize import training_items
    from linguarec.data.dataset import PATIENCE, PreparedDataset
    from linguarec.data.features import FeatureInfo
    from linguarec.errors import DataFormatError, OutputError
    from linguarec.files import updating_folder
    from linguarec.text.tfidf import nearest_texts

    dataset = PreparedDataset.open(data)
    if not overwrite and name in dataset.code_names:
        raise OutputError(f"{data} has codes {name!r} already; pass --overwrite to replace them, or --name another.")
    if not overwrite and decode_as in dataset.feature_names:
        raise OutputError(f"{data} has vectors {decode_as!r} already; pass --overwrite, or --decode-as another name.")
    info = None if features is None else dataset.feature_info(features)
    content = read_faiss_index(index, encoder=features or decode_as or "unknown")
    indexed = np.arange(dataset.num_items) if rows == "all" else training_items(dataset, split)
    if len(indexed) != len(content.codes):
        raise DataFormatError(
            f"{index} holds {len(content.codes):,} items, but {data} has {len(indexed):,} "
            f"{'items' if rows == 'all' else f'training items ({split}) of {dataset.num_items:,} items'}; the index "
            "belongs to another data set, split or numbering of the items."
        )
    missing = np.setdiff1d(np.arange(dataset.num_items), indexed)
    unequal = None
    if features is not None:
        codes, unequal = content.of_catalogue(indexed, dataset.features(features))
    else:
        codes = np.empty((dataset.num_items, content.book.subvectors), dtype=content.book.code_type)
        codes[indexed] = content.codes
    if features is None and len(missing):
        texts = dataset.texts
        nearest = nearest_texts([texts[row] for row in missing], [texts[row] for row in indexed])
        codes[missing] = content.codes[nearest.rows]
    fingerprint = dataset.texts_fingerprint if info is None else info.texts_fingerprint
    decoded = content.book.decode(codes)
    with updating_folder(dataset.path, PATIENCE) as folder:
        changed = PreparedDataset(folder, dataset.manifest)
        ItemCodes(codes, content.book, fingerprint).save(changed.codes_path(name))
        if decode_as is not None:
            pooling = "unknown" if info is None else info.pooling
            description = FeatureInfo(decode_as, content.book.width, pooling, None, None, dataset.manifest.text_rules)
            changed.write_features(decode_as, decoded, description)

    statistics = code_statistics(codes, decoded if features is None else dataset.features(features), content.book)
    result = {
        "data": str(data),
        "codes": name,
        "items": dataset.num_items,
        "indexed_items": len(indexed),
        "coded_from_vectors": len(missing) if features is not None else 0,
        "coded_from_nearest_text": len(missing) if features is None else 0,
        "indexed_items_whose_vectors_code_differently": unequal,
        "subvectors": content.book.subvectors,
        "centroids": content.book.num_centroids,
        "width": content.book.width,
        "decoded_vectors": decode_as,
        "distinct_codes": statistics.distinct_codes,
        "book_sha256": content.book.fingerprint,
    }
    _show(result)
    return result


def _show(result: dict[str, Any]) -> None:
    from linguarec.runs.tables import show_result

    shown = {key: value for key, value in result.items() if key not in ("data", "codes", "book_sha256")}
    show_result(f"Codes {result['codes']}", shown, notes={})
