"""Recformer's JSON files: read into a folder, written back as they were, refused where they do not fit together."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from linguarec.commands.export import export
from linguarec.commands.prepare import prepare_recformer
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, SettingsError

FILES: dict[str, dict[str, Any]] = {
    "smap": {"B1": 0, "B0": 1, "B3": 2, "B2": 3},
    "umap": {"ann": 0, "bob": 1, "cid": 2, "dot": 3},
    "train": {"0": [1, 0], "1": [2], "2": [3, 0], "3": []},
    "val": {"0": [2], "1": [3]},
    "test": {"0": [3], "1": [0]},
    "meta_data": {
        "B0": {"title": "Steel ruler", "brand": "Acme", "category": "Tools Rulers"},
        "B1": {"title": "Mug &amp; cup", "brand": "", "category": "Kitchen"},
        "B2": {"title": "Tea towel", "category": "Kitchen"},
        "B9": {"title": "Never bought", "brand": "Acme", "category": ""},
    },
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "Tiny"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def rewrite(source: Path, name: str, change: dict[str, Any]) -> None:
    (source / f"{name}.json").write_text(json.dumps(FILES[name] | change))


def test_sequences_attributes_and_counts(source: Path, tmp_path: Path) -> None:
    result = prepare_recformer(source, tmp_path / "data")
    assert (result["users"], result["items"], result["interactions"]) == (4, 4, 9)
    assert result["attributes"] == ["title", "brand", "category"]
    assert result["report"]["items_without_metadata"] == 1
    assert result["report"]["metadata_of_unknown_items"] == 1
    dataset = PreparedDataset.open(tmp_path / "data")
    assert dataset.raw_item_ids == ["B1", "B0", "B3", "B2"]
    assert dataset.raw_user_ids == ["ann", "bob", "cid", "dot"]
    assert [dataset.sequences[user].tolist() for user in range(4)] == [[1, 0, 2, 3], [2, 3, 0], [3, 0], []]
    assert dataset.roles("leave-one-out").tolist() == [0, 0, 1, 2, 0, 1, 2, 0, 0]
    assert dataset.texts == ["Mug & cup. Kitchen.", "Steel ruler. Acme. Tools Rulers.", "", "Tea towel. Kitchen."]
    assert dataset.items(["brand"])["brand"].to_pylist() == ["", "Acme", None, None]
    assert tokenize(tmp_path / "data")["items_without_tokens"] == 1


def test_the_files_come_back(source: Path, tmp_path: Path) -> None:
    prepare_recformer(source, tmp_path / "data")
    result = export([tmp_path / "data"], tmp_path / "out", form="recformer")
    assert (result["train_users"], result["val_users"], result["test_users"]) == (4, 2, 2)
    found = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in FILES}
    assert found.pop("meta_data") == {**{k: v for k, v in FILES["meta_data"].items() if k != "B9"}, "B3": {}}
    assert found == {name: content for name, content in FILES.items() if name != "meta_data"}
    prepare_recformer(tmp_path / "out", tmp_path / "again")
    datasets = [PreparedDataset.open(tmp_path / name) for name in ("data", "again")]
    assert datasets[0].fingerprint == datasets[1].fingerprint
    few = tmp_path / "few"
    export([tmp_path / "data"], few, form="recformer", attributes=["category", "title"])
    written = json.loads((few / "meta_data.json").read_text())
    assert {name for item in written.values() for name in item} == {"category", "title"}
    assert list(written["B0"]) == ["category", "title"]
    with pytest.raises(SettingsError, match=r"there is no attribute 'colour'; .* has: title, brand, category"):
        export([tmp_path / "data"], tmp_path / "none", form="recformer", attributes=["colour"])


def test_attributes_that_are_no_text(source: Path, tmp_path: Path) -> None:
    change: dict[str, Any] = {
        "B0": {"title": 12, "brand": None, "category": ["Tools", "Rulers", 3], "text": "x"},
        "B1": {"title": "Mug", "brand": float("nan"), "category": [float("nan")]},
    }
    rewrite(source, "meta_data", change)
    result = prepare_recformer(source, tmp_path / "data")
    assert result["report"]["attributes_that_were_no_text"] == 4
    assert result["attributes"] == ["title", "brand", "category", "text_attribute"]
    items = PreparedDataset.open(tmp_path / "data").items()
    assert items["category"].to_pylist()[:2] == [None, "Tools > Rulers > 3"]
    assert items["brand"].to_pylist()[:2] == [None, None]  # NaN, which JSON files from pandas have, is no brand
    assert items["text"].to_pylist()[:2] == ["Mug.", "12. Tools Rulers 3. x."]


BAD = [
    ("smap", {"B0": 7}, r"smap.json: the numbers must run from 0 to 3"),
    ("train", {"0": [9]}, r"train.json: user 0 has \[9\]; expected a list of item numbers of smap.json, 0 to 3"),
    ("train", {"8": [1]}, r"train.json: user '8' is not a number of umap.json"),
    ("val", {"0": []}, r"user 0 has 2 items in train.json, 0 in val.json, 1 in test.json"),
    ("test", {"2": [1]}, r"user 2 has 2 items in train.json, 0 in val.json, 1 in test.json"),
    ("meta_data", {"B0": "Steel ruler"}, r"item 'B0' has 'Steel ruler'; expected its attributes by name"),
    (
        "meta_data",
        {"B0": {"text": "a", "text_attribute": "b"}},
        r"meta_data.json: the attributes 'text' and 'text_attribute'",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_files_that_do_not_fit_are_refused(
    source: Path, tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    rewrite(source, name, change)
    with pytest.raises(DataFormatError, match=message):
        prepare_recformer(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_missing_cut_and_foreign_files_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "val.json").write_text('{"0": [')
    with pytest.raises(DataFormatError, match=r"val.json is not JSON"):
        prepare_recformer(source, tmp_path / "data")
    whole = (source / "umap.json").read_text()
    (source / "umap.json").write_text("{}")
    with pytest.raises(DataFormatError, match=r"umap.json is empty; expected a number for each raw id"):
        prepare_recformer(source, tmp_path / "data")
    (source / "umap.json").write_text(whole)
    (source / "val.json").write_text("[]")
    with pytest.raises(DataFormatError, match=r"val.json holds a list; expected a JSON object"):
        prepare_recformer(source, tmp_path / "data")
    shutil.rmtree(source)
    with pytest.raises(DataFormatError, match=r"smap.json is missing; expected train.json, val.json"):
        prepare_recformer(source, tmp_path / "data")


def test_files_without_users_are_refused(source: Path, tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        (source / f"{name}.json").write_text("{}")
    with pytest.raises(
        DataFormatError, match=f"nothing to prepare in {tmp_path}/data: no user of the source has an item"
    ):
        prepare_recformer(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_flags_of_benchmark_files_are_refused(source: Path, tmp_path: Path) -> None:
    prepare_recformer(source, tmp_path / "data")
    with pytest.raises(SettingsError, match="takes one folder and gives fixed names"):
        export([tmp_path / "data"], tmp_path / "out", form="recformer", name="X")
    with pytest.raises(SettingsError, match="--attributes is for --form recformer"):
        export([tmp_path / "data"], tmp_path / "out", attributes=["title"])
