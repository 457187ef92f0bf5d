"""A run exported to ONNX gives, with onnxruntime and NumPy alone, what `Recommender` recommends."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import tiny_shop, untrained

import linguarec
from linguarec.commands.blend import blend
from linguarec.commands.export import export
from linguarec.commands.finetune import finetune
from linguarec.commands.quantize import quantize
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import OutputError, SettingsError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import GRUConfig, PoolingConfig, TransformerConfig
from linguarec.recommender import Recommender
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.ids import IdSource
from linguarec.training.settings import TrainingSettings

onnxruntime = pytest.importorskip("onnxruntime")
SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=2, max_length=8)
QUICK = TrainingSettings(max_epochs=2, targets_per_step=200, accelerator="cpu", precision="fp32")
EXPORTED = [name for name, family in FAMILIES.items() if family.padded is not None and family.encoders]
HISTORIES, BEST = 1_000, 10


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    """A shop with vectors and codes."""
    made = tiny_shop(make_dataset)
    quantize([made.path], features="enc", subvectors=8, centroids=16, name="codes")
    return PreparedDataset.open(made.path)


def saved_run(name: str, encoder: Any, dataset: PreparedDataset, folder: Path) -> Path:
    """A run with random weights, large enough that scores differ."""
    family = FAMILIES[name]
    source: Any
    if family.source is EmbeddingSource:
        source = EmbeddingSource.stored(dataset, "enc")
    elif family.source is CodeSource:
        source = CodeSource.stored(dataset, "codes")
    else:
        source = IdSource(dataset.path, dataset.num_items)
    torch.manual_seed(0)
    description = ModelDescription(family, family.config(), encoder, source.shape)
    recommender = untrained(description, dataset, source)
    with torch.no_grad():
        for weight in recommender.model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    Recommender.of_items(recommender.scorer, description, recommender.catalogue, source).save(folder)
    return folder


def random_histories(number: int, catalogue: Sequence[str]) -> list[list[str]]:
    """1 to 12 items each: the encoders read 8."""
    generator = np.random.default_rng(0)
    return [[catalogue[row] for row in generator.integers(len(catalogue), size=1 + n % 12)] for n in range(number)]


def assert_same_best(recommender: Recommender, folder: Path, number: int = HISTORIES) -> None:
    """The same ids in the same order, but for neighbours whose scores are equal up to rounding."""
    histories = random_histories(number, list(recommender.catalogue.raw_ids))
    table = recommender.recommend(histories, k=BEST, as_table=True)
    expected = np.array(table["raw_id"].to_pylist()).reshape(number, BEST)
    expected_scores = table["score"].to_numpy().reshape(number, BEST)
    found, scores = best_by_onnx(folder, histories, BEST + 1)
    scale = np.abs(expected_scores).max()
    np.testing.assert_allclose(scores[:, :BEST], expected_scores, atol=1e-5 * scale)
    near = np.abs(np.diff(scores, axis=1)) < 1e-5 * scale
    close = near | np.pad(near, ((0, 0), (1, 0)))[:, :BEST]
    assert (np.array(found)[:, :BEST] == expected)[~close].all()
    assert close.mean() < 0.02


@pytest.mark.parametrize("name", EXPORTED)
def test_the_best_ten_of_a_thousand_histories(name: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    run = saved_run(name, SMALL, dataset, tmp_path / "run")
    result = export([run], tmp_path / "onnx", form="onnx")
    assert result["files"] == ["inputs.npy", "keys.npy", "manifest.json", "model.onnx"]
    assert result["largest_difference"] < 1e-4
    assert (tmp_path / "onnx/model.onnx").stat().st_size < 400_000  # no item tables in it
    assert_same_best(linguarec.load_model(run), tmp_path / "onnx")


def test_pooling(dataset: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = PoolingConfig(hidden_size=16, inner_size=16, max_length=8)
    run = saved_run("sasrec-text", encoder, dataset, tmp_path / "run")
    with caplog.at_level("INFO"):
        export([run], tmp_path / "onnx", form="onnx")
    assert caplog.records == []
    assert_same_best(linguarec.load_model(run), tmp_path / "onnx")


def test_removed_items(dataset: PreparedDataset, tmp_path: Path) -> None:
    recommender = linguarec.load_model(saved_run("sasrec", SMALL, dataset, tmp_path / "run"))
    recommender.remove_items(["i3", "i5"])
    recommender.save(tmp_path / "run")
    export([tmp_path / "run"], tmp_path / "onnx", form="onnx")
    manifest = json.loads((tmp_path / "onnx/manifest.json").read_text())
    assert manifest["removed"] == [3, 5]
    found, _ = best_by_onnx(tmp_path / "onnx", [["i3", "i1"], ["i5"]], 20)
    expected = recommender.recommend([["i3", "i1"], ["i5"]], k=20)
    assert found == [[one.raw_id for one in of_one] for of_one in expected]


def test_the_dense_part_of_a_blend(dataset: PreparedDataset, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("sasrec", "zesrec", "itemknn")]
    longer = replace(SMALL, max_length=10)
    finetune("sasrec", dataset.path, runs[0], transformer=SMALL, training=QUICK)
    finetune("zesrec", dataset.path, runs[1], transformer=longer, training=QUICK, features="enc")
    finetune("itemknn", dataset.path, runs[2])
    blend(runs[:2], tmp_path / "dense")
    result = export([tmp_path / "dense"], tmp_path / "onnx", form="onnx")
    assert result["parts_left_out"] == [] and result["max_length"] == 10
    assert_same_best(linguarec.load_model(tmp_path / "dense"), tmp_path / "onnx")
    blend([runs[0], runs[2]], tmp_path / "mixed")
    result = export([tmp_path / "mixed"], tmp_path / "part", form="onnx")
    assert [part["model"] for part in result["parts_left_out"]] == ["itemknn"]
    finetune("ease", dataset.path, tmp_path / "ease")
    blend([runs[2], tmp_path / "ease"], tmp_path / "sparse")
    with pytest.raises(
        SettingsError, match=r"no part of this blend can be exported \(itemknn: it has no padded form; ease: "
    ):
        export([tmp_path / "sparse"], tmp_path / "none", form="onnx")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_exported_is_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    finetune("itemknn", dataset.path, tmp_path / "counts")
    with pytest.raises(
        SettingsError, match="itemknn cannot be exported to ONNX: its query is not computed from one vec"
    ):
        export([tmp_path / "counts"], tmp_path / "onnx", form="onnx")
    gru = saved_run("sasrec", GRUConfig(hidden_size=16, inner_size=16, max_length=8), dataset, tmp_path / "gru")
    with pytest.raises(SettingsError, match="a GRU has no padded form"):
        export([gru], tmp_path / "onnx", form="onnx")
    with pytest.raises(SettingsError, match="--form onnx takes one folder and gives fixed names"):
        export([gru], tmp_path / "onnx", form="onnx", name="x")
    assert not (tmp_path / "onnx").exists()


def test_a_file_that_computes_something_else_is_not_kept(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved_run("sasrec", SMALL, dataset, tmp_path / "run")

    class Wrong:
        def __init__(self, *given: Any, **named: Any) -> None: ...

        def run(self, names: Any, given: dict[str, Any]) -> list[Any]:
            return [np.ones((len(given["lengths"]), 16), np.float32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(OutputError, match="computes other queries than torch"):
        export([run], tmp_path / "onnx", form="onnx")
    assert not (tmp_path / "onnx").exists()


def test_the_page_gives_the_same(dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved_run("sasrec", SMALL, dataset, tmp_path / "run")
    export([run], tmp_path / "onnx", form="onnx")
    page = (Path(__file__).parents[2] / "docs/sharing.md").read_text()
    [code] = [block for block in page.split("```python\n")[1:] if "onnxruntime" in block.split("```")[0]]
    shown: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(code.split("```")[0], shown)
    for history in (["i3"], ["i1", "i2"] * 7):
        expected = [
            (one.raw_id, pytest.approx(one.score, abs=1e-4)) for one in linguarec.load_model(run).recommend(history)
        ]
        assert shown["recommend"](history) == expected


def best_by_onnx(folder: Path, histories: Sequence[Sequence[str]], k: int) -> tuple[list[list[str]], Any]:
    """What docs/sharing.md shows, for a list of histories: the best ids and their scores."""
    manifest = json.loads((folder / "manifest.json").read_text())
    inputs, keys = (np.load(folder / file, mmap_mode="r") for file in ("inputs.npy", "keys.npy"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    row_of = {raw_id: row for row, raw_id in enumerate(manifest["raw_ids"])}
    rows = [[row_of[raw_id] for raw_id in history] for history in histories]
    read = [history[-manifest["max_length"] :] for history in rows]
    items = np.zeros((len(read), max(map(len, read)), inputs.shape[1]), np.float32)
    for place, history in enumerate(read):
        items[place, : len(history)] = inputs[history]
    lengths = np.array([len(history) for history in read])
    [queries] = session.run(None, {"items": items, "lengths": lengths})
    scores = queries @ keys.T
    scores[:, manifest["removed"]] = -np.inf
    for place, history in enumerate(rows):
        scores[place, history] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[manifest["raw_ids"][row] for row in of_one] for of_one in best], np.take_along_axis(scores, best, 1)
