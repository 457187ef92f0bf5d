"""A run as files for onnxruntime: the network of the queries, two tables of the items, and a manifest.

model.onnx      items [B, L, D] float32, lengths [B] int64 -> queries [B, Dk] float32
inputs.npy      [N, D] float32: what the network reads of an item
keys.npy        [N, Dk] float32: score = query . key
manifest.json   raw ids in the order of the tables, removed items, longest history
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linguarec.arrays import save_array
from linguarec.errors import OutputError, SettingsError
from linguarec.families.padded import PaddedModel
from linguarec.files import write_json, writing_file
from linguarec.recommender import Recommender

MODEL_FILE, INPUTS_FILE, KEYS_FILE, MANIFEST_FILE = "model.onnx", "inputs.npy", "keys.npy", "manifest.json"
TOLERANCE = 1e-4  # between torch and onnxruntime, relative to the longest query
_TRIED = ((1, 1), (2, 3), (3, 2))  # histories and their longest length
log = logging.getLogger(__name__)


def write_onnx(recommender: Recommender, folder: Path) -> dict[str, Any]:
    """Write the files of a run into a folder; returns the manifest without its ids, and the largest difference to torch.

    Raises:
        SettingsError: the model cannot be exported, it has no items, or the extra is not installed.
        OutputError: onnxruntime computes other queries from the file than torch.
    """
    now, name = recommender.snapshot, recommender.description.name
    make = recommender.description.family.padded
    if make is None:
        raise SettingsError(
            [
                f"{name} cannot be exported to ONNX: its query is not computed from one vector an item by a sequence "
                "encoder. Serve it with `linguarec serve`."
            ]
        )
    if not len(now.catalogue):
        raise SettingsError(["a model without items has nothing to export; fine-tune it, or name the folder of a run"])
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingsError([f"exporting to ONNX needs {error.name}: pip install 'linguarec[onnx]'"]) from error
    model = make(recommender.scorer, now.inputs, now.exact)
    for part in model.left_out:
        log.warning("left out of the export: %s, weight %.3g (%s)", part["model"], part["weight"], part["reason"])
    with writing_file(folder / MODEL_FILE) as temporary:
        _write_network(model, temporary)
        difference = _compared(model, temporary)
    for file, table in ((INPUTS_FILE, model.inputs), (KEYS_FILE, model.keys)):
        array = table.cpu().numpy()
        with writing_file(folder / file, array.nbytes) as temporary:
            save_array(temporary, array)
    facts = {
        "model": name,
        "items": len(now.catalogue),
        "max_length": model.max_length,
        "input_width": model.inputs.shape[1],
        "query_width": model.keys.shape[1],
        "parts_left_out": [dict(part) for part in model.left_out],
    }
    manifest = {
        "linguarec_onnx": 1,
        **facts,
        "how": (
            "rows = places of the history's ids in raw_ids (of an id that occurs twice the last one), oldest first, the "
            "last max_length of them. queries = model.onnx(items=inputs.npy[rows], float32 [histories, length, width], "
            "zero behind the end of a shorter history; lengths=int64 [histories]). scores = queries @ keys.npy.T. Leave "
            "out removed and the rows of the history, then take the best."
        ),
        "removed": np.flatnonzero(now.catalogue.removed).tolist(),
        "raw_ids": list(now.catalogue.raw_ids),
    }
    write_json(folder / MANIFEST_FILE, manifest)
    return {**facts, "largest_difference": difference}


def _write_network(model: PaddedModel, file: Path) -> None:
    histories, length = torch.export.Dim("histories"), torch.export.Dim("length")
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            model.network,
            _example(model, 3, 2),
            input_names=["items", "lengths"],
            output_names=["queries"],
            dynamic_shapes={"items": {0: histories, 1: length}, "lengths": {0: histories}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        program.save(file)


def _compared(model: PaddedModel, file: Path) -> float:
    """The largest difference between the queries of torch and of onnxruntime, for histories of different shapes.

    Raises:
        OutputError: it is larger than rounding explains.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for count, longest in _TRIED:
        items, lengths = _example(model, count, min(longest, model.max_length))
        with torch.inference_mode():
            expected = model.network(items, lengths).numpy()
        found = session.run(["queries"], {"items": items.numpy(), "lengths": lengths.numpy()})[0]
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE * max(1.0, float(np.linalg.norm(expected, axis=1).max())):
            raise OutputError(
                f"onnxruntime {onnxruntime.__version__} computes other queries than torch (they differ by {difference:.2g}); "
                "nothing was written. Install the newest onnxruntime and torch."
            )
        largest = max(largest, difference)
    return largest


def _example(model: PaddedModel, count: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of the first items as `count` histories, of which the first has `longest` items and the others one."""
    rows = torch.arange(count * longest) % len(model.inputs)
    lengths = torch.ones(count, dtype=torch.int64)
    lengths[0] = longest
    there = torch.arange(longest) < lengths[:, None]
    return model.inputs[rows].view(count, longest, -1).cpu() * there[:, :, None], lengths


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its steps, about libraries that are not needed and about its own old calls."""
    talkers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for talker, level in zip(talkers, before, strict=True):
            talker.setLevel(level)
