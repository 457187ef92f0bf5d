"""--attributes means the same for tables and for the editions of Amazon; dictionaries are written as `key: value`."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import metadata, nothing_written, rectangle, reviews_2018, write_json_lines, write_log

from linguarec.commands.prepare import prepare_amazon, prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, SettingsError

DETAILS = {
    "\n    Material: \n    ": "Steel",
    "Sizes": ["S", "M"],
    "Best Sellers Rank": {"Tools": 12, "Rulers": 3},
    "Color": None,
    "Style": "",
    "Weight": 1.50,
}
WRITTEN = "Material: Steel > Sizes: S, M > Best Sellers Rank: Tools: 12, Rulers: 3 > Weight: 1.5"


@pytest.fixture
def reviews(tmp_path: Path) -> dict[str, Path]:
    """Of each edition."""
    of_2023 = [
        {"user_id": user, "parent_asin": item, "rating": 4.0, "timestamp": 1000 * time}
        for user, item, time in rectangle()
    ]
    of_2018 = write_json_lines(tmp_path / "reviews_2018", reviews_2018())
    return {"2014": of_2018, "2018": of_2018, "2023": write_json_lines(tmp_path / "reviews_2023", of_2023)}


def values(folder: Path, attribute: str) -> list[Any]:
    return list(PreparedDataset.open(folder).items([attribute])[attribute].to_pylist())


def text(folder: Path) -> str:
    """Of the item i0."""
    dataset = PreparedDataset.open(folder)
    return dataset.texts[dataset.item_row["i0"]]


@pytest.mark.parametrize(("edition", "item", "brand"), [("2018", "asin", "brand"), ("2023", "parent_asin", "store")])
def test_details_of_amazon(edition: Any, item: str, brand: str, reviews: dict[str, Path], tmp_path: Path) -> None:
    meta = write_json_lines(tmp_path / "meta.jsonl", metadata(item, details=DETAILS, **{brand: "Acme"}))
    names = ["title", "brand", "details"]
    prepare_amazon(edition, reviews[edition], meta, tmp_path / "out", attributes=names)
    assert PreparedDataset.open(tmp_path / "out").manifest.attributes == names
    assert values(tmp_path / "out", "details") == [WRITTEN] * 5
    written = "Material: Steel Sizes: S, M Best Sellers Rank: Tools: 12, Rulers: 3 Weight: 1.5."
    assert text(tmp_path / "out") == f"Thing 0. Acme. {written}"


def test_items_with_other_details_or_none(reviews: dict[str, Path], tmp_path: Path) -> None:
    records = metadata("parent_asin")
    for record, details in zip(records, [{"A": "x"}, {}, None, {"B": ["y", {"C": "z"}]}, "plain"], strict=True):
        record["details"] = details
    meta = write_json_lines(tmp_path / "meta.jsonl", records)
    prepare_amazon("2023", reviews["2023"], meta, tmp_path / "out", attributes=["details"])
    found = dict(
        zip(PreparedDataset.open(tmp_path / "out").raw_item_ids, values(tmp_path / "out", "details"), strict=True)
    )
    assert found == {"i0": "A: x", "i1": None, "i2": None, "i3": "B: y, C: z", "i4": "plain"}


def test_single_keys_of_the_details(reviews: dict[str, Path], tmp_path: Path) -> None:
    """Each is an attribute of its own, as Recformer reads them."""
    meta = write_json_lines(tmp_path / "meta.jsonl", metadata(details=DETAILS))
    names = ["title", "details.Material", "details.Best Sellers Rank", "details.Color"]
    prepare_amazon("2018", reviews["2018"], meta, tmp_path / "out", attributes=names)
    assert PreparedDataset.open(tmp_path / "out").manifest.attributes == [
        "title",
        "Material",
        "Best Sellers Rank",
        "Color",
    ]
    assert text(tmp_path / "out") == "Thing 0. Steel. Tools: 12 Rulers: 3."
    assert values(tmp_path / "out", "Color") == [None] * 5


def test_other_keys_of_the_metadata(reviews: dict[str, Path], tmp_path: Path) -> None:
    """Those of the file are taken beside our own names; a name of our own columns is changed."""
    meta = write_json_lines(tmp_path / "meta.jsonl", metadata(main_category="Tools", text="words", category=["A"]))
    names = ["main_category", "text", "category", "categories"]
    prepare_amazon("2018", reviews["2018"], meta, tmp_path / "out", attributes=names)
    attributes = PreparedDataset.open(tmp_path / "out").manifest.attributes
    assert attributes == ["main_category", "text_attribute", "category", "categories"]
    assert text(tmp_path / "out") == "Tools. words. A. A."


def test_dictionaries_in_parquet(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", rectangle())
    specs = [{"Material": "Steel", "Sizes": ["S", "M"], "Color": None}] * 5
    maps = pa.array([[("Weight", 2.5), ("Height", None)]] * 5, pa.map_(pa.string(), pa.float64()))
    lists = [[{"a": 1}, {"a": None}, {"a": 2}]] * 5
    columns = {
        "item_id": [f"i{k}" for k in range(5)],
        "specs": specs,
        "maps": maps,
        "lists": lists,
        "nested": [[["x"], ["y"]]] * 5,
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    prepare_table(log, tmp_path / "out", tmp_path / "items.parquet")
    assert values(tmp_path / "out", "specs")[0] == "Material: Steel > Sizes: S, M"
    assert values(tmp_path / "out", "maps")[0] == "Weight: 2.5"
    assert values(tmp_path / "out", "lists")[0] == "a: 1 > a: 2"
    assert values(tmp_path / "out", "nested")[0] == "x > y"
    prepare_table(log, tmp_path / "part", tmp_path / "items.parquet", attributes=["specs.Sizes", "maps.Weight"])
    assert text(tmp_path / "part") == "S M. 2.5."


# -- names that cannot work ------------------------------------------------------------------------------------------


@pytest.fixture(params=["table", "2014", "2018", "2023"])
def prepared_with(request: pytest.FixtureRequest, reviews: dict[str, Path], tmp_path: Path) -> Any:
    """A function that prepares with the attributes that it is given."""
    output = tmp_path / "out"
    if request.param == "table":
        log = write_log(tmp_path / "log.csv", rectangle())
        items = write_log(tmp_path / "items.csv", [(f"i{k}", f"T{k}", "x") for k in range(5)], "item_id,title,other")
        return lambda names: prepare_table(log, output, items, attributes=names)
    key = "parent_asin" if request.param == "2023" else "asin"
    meta = write_json_lines(tmp_path / "meta.json", metadata(key, other="x"))
    return lambda names: prepare_amazon(request.param, reviews[request.param], meta, output, attributes=names)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], "--attributes is empty; choose from .*title"),
        (["colour", "other"], "attribute 'colour' is not known; choose from .*title.*other"),
        (["title", "title"], "attribute 'title' is named twice"),
        (["title.Color"], r"attribute title\.Color: .* has no such key in 'title'; .* it is no dictionary"),
        (["details.Color.x", "colour"], "attribute 'colour' is not known"),
    ],
)
def test_names_that_cannot_work(names: list[str], found: str, prepared_with: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=found):
        prepared_with(names)
    assert nothing_written(tmp_path)


def test_a_key_that_no_dictionary_has(reviews: dict[str, Path], tmp_path: Path) -> None:
    meta = write_json_lines(tmp_path / "meta.json", metadata(details=DETAILS))
    with pytest.raises(
        SettingsError, match=r"details\.Colour: meta\.json has no such key in 'details'; .*'Material', 'Sizes'"
    ):
        prepare_amazon("2018", reviews["2018"], meta, tmp_path / "out", attributes=["details.Colour"])
    with pytest.raises(DataFormatError, match="the attributes 'title' and 'title' are both called 'title'"):
        meta = write_json_lines(tmp_path / "meta.json", metadata(details={"title": "x"}))
        prepare_amazon("2018", reviews["2018"], meta, tmp_path / "out", attributes=["title", "details.title"])
    assert nothing_written(tmp_path)


def test_attributes_without_a_catalogue(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", rectangle())
    with pytest.raises(
        SettingsError, match="--attributes names columns of the catalogue, but there is none; pass --items"
    ):
        prepare_table(log, tmp_path / "out", attributes=["title"])
    with pytest.raises(SettingsError, match="--items-item-column names a column of the catalogue, but there is none"):
        prepare_table(log, tmp_path / "out", items_item_column="sku")
    assert nothing_written(tmp_path)


def test_an_attribute_that_no_item_has_is_told(
    reviews: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meta = write_json_lines(tmp_path / "meta.json", metadata(categories=["A"]))  # as in 2014
    prepare_amazon("2018", reviews["2018"], meta, tmp_path / "out", attributes=["title", "categories"])
    assert "meta.json: no item has a value of 'categories' ('category' in the file)" in caplog.text
