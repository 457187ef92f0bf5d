"""Prepare: a log and a catalogue from their source files to a prepared dataset folder."""

from pathlib import Path
from typing import Any, Literal

from linguarec.errors import DataFormatError


def prepare_atomic(
    source: Path,
    output: Path,
    name: str | None = None,
    text_rules: Literal["default", "released"] = "default",
    held_out_share: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Prepare RecBole's atomic files, or the benchmark files that UniSRec and VQ-Rec released.

    Args:
        source: folder with NAME.inter and NAME.item, or with NAME.train.inter, NAME.item2index, NAME.text and so on
        output: the prepared folder to write
        name: name of the data set, the part before the first dot of its file names; found by itself when there is one
        text_rules: cleaning of the item texts; "released" repeats the published code
        held_out_share: share of the items in the held-out-items split
        seed: seed of the held-out items
        overwrite: replace the output folder if it exists
    """
    from linguarec.data.folder import write_folder
    from linguarec.data.readers import benchmark as reader
    from linguarec.data.splitting import SplitSettings

    name = name or reader.find_name(source)
    manifest = write_folder(
        output,
        recipe="atomic",
        arguments={
            "source": source.name,
            "name": name,
            "text_rules": text_rules,
            "held_out_share": held_out_share,
            "seed": seed,
        },
        text_rules=text_rules,
        splits=SplitSettings(held_out_share=held_out_share, seed=seed),
        overwrite=overwrite,
        make_content=lambda scratch: _benchmark_content(source, name, text_rules),
    )
    return {"output": str(output), **manifest.counts, "report": manifest.report, "fingerprint": manifest.fingerprint}


def _benchmark_content(source: Path, name: str, text_rules: str) -> Any:
    import pyarrow as pa

    from linguarec.data.dataset import FeatureInfo
    from linguarec.data.folder import Content, sequences_in_pieces
    from linguarec.data.readers import benchmark as reader

    found = reader.read_benchmark(source, name)
    texts = [found.texts.get(raw_id, "") for raw_id in found.raw_items]
    if text_rules == "default":
        texts = [" ".join(text.split()) for text in texts]
    report = {
        "items_without_text": sum(not text.strip() for text in texts),
        "texts_of_unknown_items": len(found.texts.keys() - set(found.raw_items)),
    }
    columns = {"raw_id": pa.array(found.raw_items, pa.string())}
    for attribute in found.attribute_names:
        values = [found.attributes.get(raw_id, {}).get(attribute) or None for raw_id in found.raw_items]
        columns[attribute] = pa.array(values, pa.string())
    if found.attributes:
        report["items_without_attributes"] = sum(raw_id not in found.attributes for raw_id in found.raw_items)
    features = {}
    for feature, vectors in reader.read_vectors(source, name, len(found.raw_items)).items():
        info = FeatureInfo(
            encoder=feature,
            width=vectors.shape[1],
            pooling="cls" if feature.endswith("CLS") else "mean" if feature.endswith("Mean") else "unknown",
            weights_sha256=None,
            texts_fingerprint=None,
            text_rules="released",
        )
        features[feature] = (vectors, info)
    return Content(
        items=pa.table({**columns, "text": pa.array(texts, pa.string())}),
        users=[pa.array(found.raw_users, pa.string())],
        offsets=found.sequences.offsets,
        interactions=sequences_in_pieces(found.sequences),
        report=report,
        features=features,
    )
