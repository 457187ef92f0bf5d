"""Writes a prepared folder as the JSON files that the released Recformer fine-tunes on (see `readers.recformer`)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import TEST, TRAIN, VALID


def write_recformer(dataset: PreparedDataset, folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Write `train.json`, `val.json`, `test.json`, `smap.json`, `umap.json`, `meta_data.json` into `folder`; returns counts.

    The parts are those of the leave-one-out split. `names`: attributes to write; an attribute that an item lacks is omitted.
    """
    sequences, roles = dataset.sequences, dataset.roles("leave-one-out")
    parts: dict[int, dict[str, list[int]]] = {TRAIN: {}, VALID: {}, TEST: {}}
    for user in range(len(sequences)):
        items, of_user = sequences[user], roles[sequences.offsets[user] : sequences.offsets[user + 1]]
        for role, part in parts.items():
            found = np.asarray(items)[of_user == role].tolist()
            if found or role == TRAIN:
                part[str(user)] = found
    rows = zip(*(dataset.items([name])[name].to_pylist() for name in names), strict=True)
    attributes = [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows]
    metadata = dict(zip(dataset.raw_item_ids, attributes, strict=True)) if names else {}
    _write(folder / "train.json", parts[TRAIN])
    _write(folder / "val.json", parts[VALID])
    _write(folder / "test.json", parts[TEST])
    _write(folder / "smap.json", {raw_id: row for row, raw_id in enumerate(dataset.raw_item_ids)})
    _write(folder / "umap.json", {raw_id: row for row, raw_id in enumerate(dataset.raw_user_ids)})
    _write(folder / "meta_data.json", metadata)
    return {
        "train_users": len(parts[TRAIN]),
        "val_users": len(parts[VALID]),
        "test_users": len(parts[TEST]),
        "items_with_attributes": sum(map(bool, attributes)),
    }


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
