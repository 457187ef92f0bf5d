"""`import linguarec`: what it offers, how little it loads, results that are typed, and one small pipeline through it."""

import importlib
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from prepared import untrained
from results import stored_result

import linguarec
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, LinguarecError, SettingsError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.recommender import Recommendation, Recommender
from linguarec.result import Result
from linguarec.runs.results import show_metrics
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=8)
TESTS = ("test", "test_excluded", "test_learned")
QUICK = TrainingSettings(learning_rate=5e-3, targets_per_step=64, max_epochs=2, accelerator="cpu")
HEAVY = ("torch", "numpy", "pandas", "polars", "pyarrow", "narwhals", "ibis", "duckdb", "transformers", "lightning")


# -- the module


def test_importing_it_loads_nothing_heavy() -> None:
    script = f"""
import sys
import linguarec
assert {{"finetune", "Recommender"}} <= set(dir(linguarec))
linguarec.prepare_table, linguarec.finetune, linguarec.SettingsError
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_name_is_there_and_is_the_function_of_the_command() -> None:
    from linguarec.cli import COMMANDS

    for name in linguarec.__all__:
        assert getattr(linguarec, name) is not None
    functions = {command.function: command.module for command in COMMANDS.values()}
    for name in (
        "prepare_table",
        "encode",
        "quantize",
        "tokenize",
        "pretrain",
        "finetune",
        "evaluate",
        "compare",
        "update",
    ):
        assert getattr(linguarec, name) is getattr(importlib.import_module(functions[name]), name)
    errors = [name for name in linguarec.__all__ if name.endswith("Error")]
    kinds = {kind.__name__ for kind in LinguarecError.__subclasses__()} | {"LinguarecError"}
    assert set(errors) == kinds and all(issubclass(getattr(linguarec, name), LinguarecError) for name in errors)
    assert linguarec.Recommender is Recommender
    assert (linguarec.TrainingSettings, linguarec.TransformerConfig) == (TrainingSettings, TransformerConfig)
    assert linguarec.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="module 'linguarec' has no attribute 'fine_tune'"):
        _ = linguarec.fine_tune


# -- results


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Example(Result):
    """A result."""

    run: str
    from_: str
    cut: dict[str, int] | None = None
    items_: int
    mode: str | None

    def _lines(self) -> list[str]:
        return [f"{self.items_} items", self.run]


def test_a_result_is_a_dataclass_and_a_mapping() -> None:
    result = Example(run="r", from_="f", items_=3, mode=None)
    assert (result.run, result["run"], result.items_, result["items"], result["from"]) == ("r", "r", 3, 3, "f")
    assert list(result) == ["run", "from", "items", "mode"] and len(result) == 4
    assert "mode" in result and "cut" not in result and result.get("cut", "none") == "none"
    assert result.to_dict() == {"run": "r", "from": "f", "items": 3, "mode": None} == result
    assert {**result}["items"] == 3 and dict(result.items()) == result.to_dict()
    assert repr(result) == "Example\n  3 items\n  r"
    assert Example.of_dict({**result, "cut": {"x": 1}}).cut == {"x": 1}
    assert Example.of_dict(result) == result != Example(run="r", from_="f", items_=4, mode=None)
    with pytest.raises(KeyError, match="nothing"):
        _ = result["nothing"]
    with pytest.raises(FrozenInstanceError):
        result.run = "x"  # type: ignore[misc]
    later = Example.of_later_process()
    assert not later and later.to_dict() == {} and "first process" in repr(later)


# -- a pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder: forty users, of whom each goes round twelve items from a place of their own; ids are numbers."""
    rows = [
        {"user_id": user, "item_id": 100 + (user + step) % 12, "timestamp": 1000 * user + step}
        for user in range(40)
        for step in range(8)
    ]
    items = [{"item_id": 100 + item, "title": f"Thing {item}"} for item in range(12)]
    folder = tmp_path_factory.mktemp("face")
    linguarec.prepare_table(pl.DataFrame(rows), items=pd.DataFrame(items), output=folder / "data")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Any:
    return linguarec.finetune("sasrec", str(folder / "data"), str(folder / "run"), transformer=SMALL, training=QUICK)


def test_finetune_gives_its_figures(trained: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.to_dict() == stored_result(folder / "run/metrics.json")
    assert list(trained) == ["run", "model", "seed", "best_epoch", "epochs", "seconds", "valid", *TESTS]
    assert (trained.run, trained.model, trained.epochs) == (str(folder / "run"), "sasrec", 2)
    assert trained.test == trained["test"] and 0 <= trained.test["ndcg@10"] <= 1
    best = f"2 epochs, best epoch {trained.best_epoch} (numbered from 0)"
    assert repr(trained).startswith(f"FinetuneResult\n  sasrec, seed 0, {best}, ")
    assert f"ndcg@10 {trained.test['ndcg@10']:.4f}" in repr(trained) and str(folder / "run") in repr(trained)
    capsys.readouterr()
    again = linguarec.finetune(
        "sasrec", str(folder / "data"), str(folder / "run"), transformer=SMALL, training=QUICK, resume=True
    )
    title = " ".join(capsys.readouterr().out.partition("┏")[0].split())
    assert title == f"sasrec, {best}; finished before, nothing left to do"
    assert again == trained and type(again) is type(trained)


def test_a_closed_form_has_no_best_epoch_to_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solved = linguarec.finetune("itemknn", str(folder / "data"), str(folder / "solved"))
    assert repr(solved).startswith("FinetuneResult\n  itemknn, seed 0, ")
    capsys.readouterr()
    show_metrics(solved)
    title = capsys.readouterr().out.splitlines()[0].strip()
    assert title == "itemknn" and "epoch" not in repr(solved)


def test_evaluate_gives_its_figures(trained: Any, folder: Path) -> None:
    result = linguarec.evaluate(str(folder / "run"), str(folder / "data"), plots=False)
    assert (result.items_, result["items"], result.targets, result.cut) == (12, 12, 40, None)
    assert result.systems["sasrec"]["ndcg@10"]["mean"] == pytest.approx(trained.test["ndcg@10"], abs=1e-9)
    means = {metric: found["mean"] for metric, found in (result.learned or {})["sasrec"].items()}
    assert means == pytest.approx(trained.test_learned)
    assert result.to_dict() == stored_result(folder / "run/evaluation/test.json")
    shown = repr(result).splitlines()
    assert shown[1] == "  sasrec on data, leave-one-out, test: 40 targets among 12 items"
    assert shown[2].startswith(f"  sasrec: recall@10 {result.systems['sasrec']['recall@10']['mean']:.4f}")
    assert [line.split(":")[0].strip() for line in shown[3:]] == [
        *("popularity", "chance"),
        *("sasrec, excluded", "popularity, excluded", "chance, excluded"),
        *("sasrec, learned", "popularity, learned", "chance, learned"),
        *("lists of sasrec, kept", "lists of sasrec, excluded", "lists of sasrec, learned", "run folder"),
    ]


def ids_of(found: list[Recommendation]) -> list[str]:
    return [each.raw_id for each in found]


def test_a_model_takes_ids_of_every_kind(trained: Any, folder: Path) -> None:
    model = linguarec.load_model(str(folder / "run"))
    one = model.recommend(["103", "104"], k=3)
    assert [type(found) for found in one] == [Recommendation] * 3
    assert model.recommend([["103", "104"]], k=3) == [one]
    for same in (
        [103, 104],
        (103, 104),
        np.array([103, 104]),
        np.array(["103", "104"]),
        pd.Series([103, 104], index=[7, 9]),
        pd.Series([103.0, 104.0]),
        pl.Series(["103", "104"]),
    ):
        assert model.recommend(same, k=3) == one
        # In a batch of its own or with a history of another length: the same sums, in another order on some processors.
        assert ids_of(model.recommend([same, ["105"]], k=3)[0]) == ids_of(one)
        assert np.array_equal(model.history_vectors(same), model.history_vectors([["103", "104"]])[0])
    assert ids_of(model.recommend(np.array([[103, 104], [104, 105]]), k=3)[0]) == ids_of(one)
    assert model.recommend([]) == []


def test_whitelists_and_neighbours_take_ids_of_every_kind(trained: Any, folder: Path) -> None:
    model = linguarec.load_model(folder / "run")
    allowed = model.recommend(["103"], within=["107", "108"])
    assert {found.raw_id for found in allowed} == {"107", "108"}
    assert model.recommend([103], within=np.array([107, 108])) == allowed
    assert model.recommend([103], within=pd.Series([107, 108])) == allowed
    each = model.recommend([[103], [104]], within=[[107, 108], pl.Series([109])])
    assert each[0] == allowed and [found.raw_id for found in each[1]] == ["109"]
    near = model.similar_items(["103", "104"], k=2)
    assert model.similar_items(np.array([103, 104]), k=2) == near == model.similar_items(pd.Series([103, 104]), k=2)
    model.remove_items(pd.Series([107]))
    assert [found.raw_id for found in model.recommend([103], within=[107, 108])] == ["108"]


def test_answers_as_a_table(trained: Any, folder: Path) -> None:
    model = linguarec.load_model(folder / "run")
    found = model.recommend([[103], [104, 105]], k=2)
    table = model.recommend([[103], [104, 105]], k=2, as_table=True)
    assert table.column_names == ["history", "rank", "raw_id", "score", "title"]
    assert table["history"].to_pylist() == [0, 0, 1, 1] and table["rank"].to_pylist() == [1, 2, 1, 2]
    assert table["raw_id"].to_pylist() == [best.raw_id for row in found for best in row]
    assert table["score"].to_pylist() == [best.score for row in found for best in row]
    assert table["title"].to_pylist()[0] == f"Thing {int(found[0][0].raw_id) - 100}"
    assert model.recommend([103], k=2, as_table=True).to_pylist() == table.to_pylist()[:2]
    empty = model.recommend([], as_table=True)
    assert (len(empty), empty.schema) == (0, table.schema)


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ("103", "histories is the string '103'; expected a history"),
        (103, "histories is '103', a int; expected a history"),
        (None, "histories is 'None', a NoneType"),
        ({"103": 1}, "histories is .*, a dict"),
        (pd.DataFrame({"item": [103]}), "histories is a table, a DataFrame; .* take its column of ids"),
        ([103, [104]], "number 1 is '103', a int, number 2 is .*, a list"),
        ([103, 1.5], "history 1 holds '1.5', a float; item ids are text, or whole numbers"),
        ([[103], [None]], "history 2 holds 'None', a NoneType"),
        ([[103], []], "history 2 is empty"),
    ],
)
def test_what_is_no_history_is_refused(histories: Any, message: str, trained: Any, folder: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        linguarec.load_model(folder / "run").recommend(histories)


def test_models_and_folders_may_be_single_strings(folder: Path) -> None:
    with pytest.raises(SettingsError, match="unknown model 'sasrek'"):
        linguarec.compare(str(folder / "data"), "sasrek", str(folder / "compared"))
    with pytest.raises(LinguarecError, match="nowhere"):
        linguarec.quantize("nowhere", "words")
    with pytest.raises(LinguarecError, match="nowhere"):
        linguarec.pretrain("unisrec", "nowhere", str(folder / "pretrained"))


# -- new items


@pytest.fixture
def reader(make_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> Recommender:
    """An untrained model of text vectors, and a stand-in for the encoder of new texts."""

    class Encoder:
        def encode(self, texts: list[str]) -> Any:
            vectors = [np.random.default_rng(list(text.encode())).standard_normal(12) for text in texts]
            return np.stack(vectors).astype(np.float32)

    monkeypatch.setattr(EmbeddingSource, "_text_encoder", Encoder())
    texts = [f"Thing {row}." for row in range(6)]
    dataset: PreparedDataset = make_dataset([[0, 1, 2]], texts=texts, features={"enc": Encoder().encode(texts)})
    torch.manual_seed(0)
    family = FAMILIES["sasrec-text"]
    description = ModelDescription(family, family.config(), SMALL, CatalogueShape(6, 12))
    return untrained(description, dataset, EmbeddingSource.stored(dataset, "enc"))


NEW = {"raw_id": [71, 72], "title": ["Caliper", None], "text": [None, "Micrometer"]}


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pl.DataFrame, lambda columns: pl.DataFrame(columns).to_arrow()])
def test_items_of_every_kind_of_table_are_added(make: Any, reader: Recommender) -> None:
    assert reader.add_items(make(NEW)) == 2
    assert list(reader.catalogue.raw_ids)[6:] == ["71", "72"]
    assert [reader.catalogue.text(entry) for entry in (6, 7)] == ["Caliper.", "Micrometer."]
    assert reader.recommend([71, "i1"], k=7, exclude_seen=False, within=[71, 72])[0].raw_id in ("71", "72")


def test_ids_that_pandas_made_floats_are_whole_numbers_again(reader: Recommender) -> None:
    frame = pd.DataFrame({"raw_id": [71.0, 72.0], "title": ["Caliper", "Micrometer"]})
    assert reader.add_items(frame) == 2 and reader.add_items([{"raw_id": 73.0, "title": "Gauge"}]) == 1
    assert list(reader.catalogue.raw_ids)[6:] == ["71", "72", "73"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            pd.DataFrame({"raw_id": [1], "colour": ["red"]}),
            "New item 1 .* has the column 'colour'; this catalogue knows",
        ),
        (
            pl.DataFrame({"title": ["x"]}),
            "New item 1 has no `raw_id`; it has: title. Rename the column of the item ids",
        ),
        (pd.DataFrame({"raw_id": [1.0, np.nan], "title": ["x", "y"]}), "New item 2: its `raw_id` is empty"),
        (pl.DataFrame({"raw_id": ["a", "a"], "title": ["x", "y"]}), "New item 2: the raw_id 'a' occurs twice"),
        (pl.LazyFrame({"raw_id": ["a"]}), "New items: found an object of the type polars LazyFrame"),
        ("items.csv", "New items: found an object of the type str; expected a DataFrame"),
        (pd.Series(["a"]), "New items: found an object of the type pandas Series"),
    ],
)
def test_bad_tables_of_items_are_refused_and_change_nothing(items: Any, message: str, reader: Recommender) -> None:
    with pytest.raises(DataFormatError, match=message):
        reader.add_items(items)
    assert len(reader.catalogue) == 6
