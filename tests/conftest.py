"""Fixtures that tests of several packages use."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linguarec.data.dataset import FORMAT_VERSION, PreparedDataset, fingerprint_of_texts
from linguarec.data.features import FeatureInfo
from linguarec.data.ragged import Ragged
from linguarec.data.splits import leave_one_out
from linguarec.files import write_json

MakeDataset = Callable[..., PreparedDataset]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; the test is skipped where it is absent."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("LINGUAREC_SHARED", beside))
    if not (folder / "DESIGN.md").exists():
        pytest.skip(f"needs the shared folder: set LINGUAREC_SHARED, or put it at {beside}")
    return folder


@pytest.fixture(scope="session")
def released_outputs() -> Path:
    """What the released code gave with tiny models, a folder a model: weights, settings, inputs and outputs."""
    return Path(__file__).parent / "fixtures" / "released"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """`drawn(file)`: the matplotlib figure that was saved as `file`, so that a test can read what it shows."""
    from matplotlib.figure import Figure

    figures: dict[Path, Figure] = {}
    save = Figure.savefig

    def savefig(figure: Figure, target: Path, **settings: Any) -> None:
        save(figure, target, **settings)
        figures[target] = figure

    monkeypatch.setattr(Figure, "savefig", savefig)

    def figure_of(file: Path) -> Figure:
        # Files, or their folders, are written beside their place and renamed: the figure is found by what the names hold.
        assert file.is_file()
        [found] = [
            figure
            for target, figure in figures.items()
            if file.parent.name in target.parent.name and file.name in target.name
        ]
        return found

    return figure_of


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Write a small prepared folder by hand and open it.

    `make_dataset(sequences, texts=..., features={"enc": array}, name=...)`: `sequences` are lists of item rows, one a
    user; by default an item's text is "item <row>" and its raw id "i<row>".
    """

    def make(
        sequences: Sequence[Sequence[int]],
        texts: Sequence[str] | None = None,
        features: dict[str, npt.NDArray[Any]] | None = None,
        name: str = "tiny",
        num_items: int | None = None,
        raw_ids: Sequence[str] | None = None,
    ) -> PreparedDataset:
        folder = tmp_path / name
        for part in ("sequences", "features", "codes", "splits"):
            (folder / part).mkdir(parents=True)
        if texts is not None:
            num_items = len(texts)
        elif num_items is None:
            num_items = 1 + max(max(sequence) for sequence in sequences if len(sequence))
        if texts is None:
            texts = [f"item {row}" for row in range(num_items)]
        if raw_ids is None:
            raw_ids = [f"i{row}" for row in range(num_items)]
        flat = Ragged.from_lists([list(sequence) for sequence in sequences])
        items = {
            "item": pa.array(range(num_items), pa.int32()),
            "raw_id": list(raw_ids),
            "title": list(texts),
            "text": list(texts),
        }
        pq.write_table(pa.table(items), folder / "items.parquet")
        pq.write_table(pa.table({"raw_id": [f"u{row}" for row in range(len(flat))]}), folder / "users.parquet")
        np.save(folder / "sequences" / "items.npy", flat.values)
        np.save(folder / "sequences" / "offsets.npy", flat.offsets)
        np.save(folder / "splits" / "leave-one-out.npy", leave_one_out(flat.offsets))
        manifest = {
            "recipe": "test",
            "arguments": {},
            "counts": {"users": len(flat), "items": num_items, "interactions": len(flat.values)},
            "attributes": ["title"],
            "fingerprint": fingerprint_of_texts([*texts, str(flat.values.tolist()), str(flat.offsets.tolist())]),
            "format_version": FORMAT_VERSION,
        }
        write_json(folder / "manifest.json", manifest)
        dataset = PreparedDataset.open(folder)
        for feature, vectors in (features or {}).items():
            info = FeatureInfo(feature, vectors.shape[1], "mean", "0" * 64, dataset.texts_fingerprint, "default")
            dataset.write_features(feature, vectors, info)
        return dataset

    return make
