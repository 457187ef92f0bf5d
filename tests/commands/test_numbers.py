"""Attributes that are numbers, from the source to `recommend --filter`."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import linguarec
from linguarec.cli import main
from linguarec.commands.describe import describe
from linguarec.commands.finetune import finetune
from linguarec.commands.recommend import recommend
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, FilterError
from linguarec.seals import SEAL_FILE

ITEMS = 6
LOG = {
    "user_id": [f"u{user}" for user in range(8) for _ in range(ITEMS)],
    "item_id": [f"i{item}" for _ in range(8) for item in range(ITEMS)],
    "timestamp": [60 * place + 1_700_000_000 for place in range(8 * ITEMS)],
}
CATALOGUE = {
    "item_id": [f"i{item}" for item in range(ITEMS)],
    "title": [f"Thing {item}" for item in range(ITEMS)],
    "brand": ["Acme", "Acme", "Bolt", "Bolt", None, "Acme"],
    "price": [5.5, 20.0, 30.25, None, 8.0, 1000.0],
    "stock": [1, 2, 3, 4, 5, 6],
    "ean": ["007", "008", "009", "010", "011", "012"],
    "digits": ["1", "2", "3", "4", "5", "6"],
    "weight": ["1", "2 kg", "3", "4", "5", "6"],
    "empty": [None] * ITEMS,
}


def prepared(items: Any, folder: Path) -> PreparedDataset:
    result = linguarec.prepare_table(pd.DataFrame(LOG), folder, items, k_core=0)
    return linguarec.load_dataset(result.output)


def test_a_column_of_csv_is_numbers_if_all_its_values_are(tmp_path: Path) -> None:
    pd.DataFrame(CATALOGUE).to_csv(tmp_path / "items.csv", index=False)
    dataset = prepared(tmp_path / "items.csv", tmp_path / "data")
    assert dataset.manifest.numbers == ["price", "stock", "digits"]
    assert dataset.manifest.attributes == list(CATALOGUE)[1:]
    described = describe(tmp_path / "data")
    assert described["numbers"] == ["price", "stock", "digits"]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_columns_of_numbers_and_of_text_are_told_apart_by_type(make: Any, tmp_path: Path) -> None:
    dataset = prepared(make(CATALOGUE), tmp_path / "data")
    assert dataset.manifest.numbers == ["price", "stock"]


def test_texts_and_fingerprint_stay_as_they_were(tmp_path: Path) -> None:
    """The values of this folder were written by the version before numbers were kept."""
    dataset = prepared(pd.DataFrame(CATALOGUE), tmp_path / "data")
    assert dataset.items(["price"])["price"].to_pylist() == ["5.5", "20.0", "30.25", None, "8.0", "1000.0"]
    assert dataset.texts[0] == "Thing 0. Acme. 5.5. 1. 007. 1. 1."
    assert dataset.fingerprint.startswith("9f080eba81ac497c")


def test_a_folder_of_an_earlier_version_opens(tmp_path: Path) -> None:
    prepared(pd.DataFrame(CATALOGUE), tmp_path / "data")
    manifest = tmp_path / "data" / "manifest.json"
    values = json.loads(manifest.read_text())
    del values["numbers"]
    manifest.write_text(json.dumps(values))
    (tmp_path / "data" / SEAL_FILE).unlink()  # of the manifest, too
    assert linguarec.load_dataset(tmp_path / "data").manifest.numbers == []


def test_numbers_that_are_no_attributes_are_refused(tmp_path: Path) -> None:
    prepared(pd.DataFrame(CATALOGUE), tmp_path / "data")
    manifest = tmp_path / "data" / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "numbers": ["size"]}))
    with pytest.raises(DataFormatError, match=r"manifest.json: 'size' is among its numbers, but is no attribute"):
        linguarec.load_dataset(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    prepared(pd.DataFrame(CATALOGUE), tmp_path / "data")
    finetune("itemknn", tmp_path / "data", tmp_path / "run")
    return tmp_path / "run"


def ids(result: dict[str, Any]) -> set[str]:
    return {best["raw_id"] for best in result["recommendations"]}


def test_recommend_filters(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ids(recommend(run, ["i5"])) == {"i0", "i1", "i2", "i3", "i4"}
    assert ids(recommend(run, ["i5"], filter_="price <= 20")) == {"i0", "i1", "i4"}
    assert ids(recommend(run, ["i5"], filter_="not price <= 20")) == {"i2"}
    assert ids(recommend(run, ["i5"], filter_='brand == "Acme"', seen="include")) == {"i0", "i1", "i5"}
    capsys.readouterr()
    assert ids(recommend(run, ["i5"], filter_="price > 999")) == set()
    assert "no item may be recommended" in capsys.readouterr().out


def test_a_filter_and_a_list_of_candidates(run: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("i0\ni2\n", encoding="utf-8")
    assert ids(recommend(run, ["i5"], within=tmp_path / "ids.txt", filter_="price <= 20")) == {"i0"}
    recommender = linguarec.load_model(run)
    found = recommender.recommend([["i5"], ["i4"]], within=[["i0", "i2"], ["i1", "i3"]], filters="price <= 20")
    assert [[best.raw_id for best in row] for row in found] == [["i0"], ["i1"]]
    assert recommender.recommend(["i5"], filters="price <= 20", k=1) == recommender.recommend(["i5"], k=5)[:1]


def test_many_histories_are_filtered(run: Path, tmp_path: Path) -> None:
    recommend(run, for_=tmp_path / "data", output=tmp_path / "best.csv", seen="include", filter_="price >= 30")
    best = pd.read_csv(tmp_path / "best.csv")
    assert (set(best["raw_id"]), len(best)) == ({"i2", "i5"}, 16)


def test_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["recommend", str(run), "--history", "i5", "--filter", 'price <= 20 and brand == "Acme"', "--json"])
    assert stop.value.code == 0
    assert ids(json.loads(capsys.readouterr().out.splitlines()[-1])) == {"i0", "i1"}
    with pytest.raises(SystemExit) as stop:
        main(["recommend", str(run), "--history", "i5", "--filter", "prize <= 20"])
    assert stop.value.code == 2
    assert "'prize' is no attribute" in capsys.readouterr().err


def test_a_wrong_filter_is_refused_everywhere(run: Path) -> None:
    recommender = linguarec.load_model(run)
    with pytest.raises(FilterError, match="'price' holds numbers"):
        recommender.recommend(["i5"], filters='price == "20"')
    with pytest.raises(FilterError, match="holds texts"):
        recommender.recommend(["i5"], filters="digits == 1")
