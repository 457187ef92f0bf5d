"""Tables in memory as Arrow tables: every kind of them, missing values, ids, and what is no table."""

import doctest
import uuid
from datetime import UTC, datetime
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import linguarec.histories
from linguarec.errors import DataFormatError, SettingsError
from linguarec.histories import as_histories, ids_of
from linguarec.tables import TableSource, as_arrow, as_rows, naming_tables

ROWS = [{"id": "a", "price": 2.5, "tags": ["x", "y"]}, {"id": "b", "price": None, "tags": None}]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
KINDS = {
    "rows": ROWS,
    "columns": COLUMNS,
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "arrow": pa.table(COLUMNS),
    "batch": pa.record_batch(COLUMNS),
    "narwhals": nw.from_native(pl.DataFrame(ROWS)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_is_the_same_arrow_table(kind: str) -> None:
    table = as_arrow(KINDS[kind], "Items")
    assert table.column_names == ["id", "price", "tags"]
    assert table.to_pylist() == ROWS
    assert as_rows(KINDS[kind], "Items") == ROWS


def test_rows_may_come_one_by_one_and_lack_columns() -> None:
    rows: Any = (row for row in [{"id": "a"}, {"title": "x", "id": "b"}])
    assert as_arrow(rows, "Items").to_pylist() == [{"id": "a", "title": None}, {"id": "b", "title": "x"}]


def test_columns_may_be_arrays_and_series() -> None:
    columns = {
        "list": ["x", None],
        "numpy": np.array([1.5, np.nan]),
        "pandas": pd.Series([1.5, np.nan]),
        "polars": pl.Series(["u", None]),
        "arrow": pa.array([1, None]),
    }
    assert as_arrow(columns, "Items").to_pylist() == [
        {"list": "x", "numpy": 1.5, "pandas": 1.5, "polars": "u", "arrow": 1},
        dict.fromkeys(columns),
    ]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, dict])
def test_nan_is_null(make: Any) -> None:
    assert as_arrow(make({"price": [1.5, float("nan"), None]}), "Items")["price"].to_pylist() == [1.5, None, None]


def test_ids_that_became_floats_are_whole_numbers_again() -> None:
    frame = pd.DataFrame({"id": [7, None, 12], "price": [1.0, 2.0, 3.0], "half": [1.0, 2.5, 3.0]})
    table = as_arrow(frame, "Items", ids=["id", "half"])
    assert table["id"].to_pylist() == [7, None, 12] and table.schema.field("id").type == pa.int64()
    assert table["price"].to_pylist() == [1.0, 2.0, 3.0] and table.schema.field("price").type == pa.float64()
    assert table["half"].to_pylist() == [1.0, 2.5, 3.0]
    rows = as_rows(frame.to_dict("records"), "Items", ids=["id", "half"])
    assert [str(row["id"]) for row in rows] == ["7", "nan", "12"]
    assert [str(row["half"]) for row in rows] == ["1.0", "2.5", "3.0"]
    assert as_arrow({"id": [1e30, 1.0]}, "Items", ids=["id"])["id"].to_pylist() == [1e30, 1.0]


def test_categories_and_columns_of_several_types_are_text() -> None:
    frame = pd.DataFrame({"kind": pd.Categorical(["u", None, "u"]), "id": [1, "a", np.nan]})
    assert as_arrow(frame, "Items").to_pydict() == {"kind": ["u", None, "u"], "id": ["1", "a", None]}
    assert as_arrow([{"id": 2**70}], "Items").to_pydict() == {"id": [str(2**70)]}


def test_an_index_is_no_column() -> None:
    frame = pd.DataFrame({"id": ["a", "b", "c"]}, index=["x", "y", "z"])
    assert as_arrow(frame[frame.id != "b"], "Items").to_pydict() == {"id": ["a", "c"]}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (3, "Items: found an object of the type int; expected a DataFrame of pandas or polars"),
        ("x", "Items: found an object of the type str; expected"),
        (None, "Items: found an object of the type NoneType"),
        (pl.LazyFrame({"a": [1]}), r"the type polars LazyFrame; .*a lazy frame is collected first"),
        (pd.Series([1]), "the type pandas Series"),
        (np.zeros((2, 2)), "the type numpy ndarray"),
        ([{"a": 1}, "x"], "a list that holds 'x'; .*a list of mappings"),
        (
            {"raw_id": "x"},
            r"Items: the column 'raw_id' is 'x', a str; .*One row is a list of one mapping: \[\{\.\.\.\}\]",
        ),
        ({"a": {"x": 1}}, "the column 'a' is .*, a dict"),
        ({"a": np.zeros((2, 2))}, "the column 'a' is an array with 2 dimensions; expected one"),
        ({"a": [1], "b": [1, 2]}, "different numbers of values: 'a' has 1, 'b' has 2"),
        (pd.DataFrame([[1, 2]]), "a column is named 0; name columns by text"),
        ({1: [2]}, "a column is named 1"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns have one name"),
        (pa.table([[1], [2]], names=["a", "a"]), "two columns have one name"),
        ([{"a": 1}, {"a": {"x": 1j, "y": {1}}}], r"the column 'a', row 2 is a set .*Write it as text"),
        (pd.DataFrame({"a": [None, b"x"]}), "the column 'a', row 2 is a bytes"),
        (pd.DataFrame({"a": [uuid.UUID(int=7)]}), "the column 'a', row 1 is a UUID"),
        (pd.DataFrame({"a": pd.period_range("2024-01", periods=2, freq="M")}), "row 1 is a Period"),
    ],
)
def test_what_is_no_table_is_refused(table: Any, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        as_arrow(table, "Items")


def test_a_table_goes_through_a_file_as_if_it_were_csv(tmp_path: Any) -> None:
    moment = datetime(2024, 5, 31, 12, tzinfo=UTC)
    frame = pd.DataFrame({"id": [1, None], "text": ["", "x"], "at": pd.to_datetime([moment, None])})
    frame["at"] = frame["at"].dt.tz_convert("Asia/Tokyo")
    source = TableSource.of(frame, "items", ["id"])
    assert (source.name, str(source)) == ("a table in memory", "the table of items")
    found = pd.read_parquet(source.file(tmp_path), dtype_backend="pyarrow").astype(object)
    assert found["id"][0] == 1 and found["text"].tolist()[1] == "x" and pd.isna(found["text"][0])
    assert found["at"][0] == datetime(2024, 5, 31, 12)
    with (
        pytest.raises(DataFormatError, match=r"^the table of items has no column 'x'$"),
        naming_tables(tmp_path),
    ):
        raise DataFormatError(f"{tmp_path}/items.parquet has no column 'x'")
    file = TableSource.of(str(tmp_path / "log.csv"), "interactions", [])
    assert (file.name, file.file(tmp_path)) == ("log.csv", str(tmp_path / "log.csv"))


# -- histories


@pytest.mark.parametrize(
    "single",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        pd.Series(["a", "b"], index=[3, 1]),
        pl.Series(["a", "b"]),
        pa.array(["a", "b"]),
        pa.chunked_array([["a"], ["b"]]),
        iter(["a", "b"]),
    ],
)
def test_a_flat_list_of_ids_is_one_history(single: Any) -> None:
    found, is_single = as_histories(single, "histories", "a history")
    assert [ids_of(history, "h") for history in found] == [["a", "b"]] and is_single


@pytest.mark.parametrize(
    "several",
    [
        [["a", "b"], ["c"]],
        (iter(history) for history in [["a", "b"], ["c"]]),
        [pd.Series(["a", "b"]), pl.Series(["c"])],
        pd.DataFrame({"user": [1, 1, 2], "item": ["a", "b", "c"]}).groupby("user")["item"].apply(list),
        pl.Series([["a", "b"], ["c"]]),
        pa.array([["a", "b"], ["c"]]),
    ],
)
def test_lists_of_ids_are_histories(several: Any) -> None:
    found, is_single = as_histories(several, "histories", "a history")
    assert [ids_of(history, "h") for history in found] == [["a", "b"], ["c"]] and not is_single


def test_numbers_are_ids_by_their_digits() -> None:
    assert ids_of([7, np.int32(8), 9.0, np.float32(10), "x", np.str_("y")], "h") == ["7", "8", "9", "10", "x", "y"]
    assert (
        ids_of(pd.Series([7, 8]), "h") == ids_of(pl.Series([7, 8]), "h") == ids_of(np.array([7, 8]), "h") == ["7", "8"]
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("i1", "^h is the string 'i1'; expected ids"),
        (b"i1", "^h is .*, a bytes; expected ids"),
        (3, "^h is '3', a int; expected ids"),
        ({"i1": 1}, "^h is .*, a dict"),
        ({"i1"}, "^h is .*, a set"),
        (np.array(3), "^h is '3', a ndarray"),
        (pd.DataFrame({"item": ["i1"]}), "^h is a table, a DataFrame; expected ids: take its column of ids"),
        (pl.DataFrame({"item": ["i1"]}), "^h is a table, a DataFrame"),
        (pa.table({"item": ["i1"]}), "^h is a table, a Table"),
        (["i1", ["i2"]], r"^h: number 1 is 'i1', a str, number 2 is .*, a list; expected ids, not ids and lists"),
        ([["i1"], 3], r"^h: number 1 is .*, a list, number 2 is '3', a int"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(given: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        as_histories(given, "h", "ids")


@pytest.mark.parametrize("wrong", [1.5, float("nan"), None, True, pd.NA, uuid.UUID(int=1), ["i2"]])
def test_what_is_no_id_is_refused(wrong: Any) -> None:
    with pytest.raises(
        SettingsError, match=f"history 3 holds .*, a {type(wrong).__name__}; item ids are text, or whole"
    ):
        ids_of(["i1", wrong], "history 3")


def test_doctests_of_histories() -> None:
    result = doctest.testmod(linguarec.histories)
    assert result.attempted == 3 and result.failed == 0
