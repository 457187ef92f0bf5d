"""Prepare table from tables in memory: the same folder as from files of the same data."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import linguarec
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError

USERS, ITEMS = 6, 5
LOG = {
    "user_id": [f"u{user}" for user in range(USERS) for _ in range(ITEMS)],
    "item_id": [10 * (item + 1) for _ in range(USERS) for item in range(ITEMS)],
    "timestamp": [1_700_000_000 + 60 * (ITEMS * user - item) for user in range(USERS) for item in range(ITEMS)],
}
CATALOGUE = {
    "item_id": [10, 20, 30, 40, 50],
    "title": ["Ruler, 30 cm", 'Saw 12"', "Drill", "Bits", None],
    "brand": ["Acme", None, "Acme", "Zenith", None],
}
KINDS: dict[str, Any] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "arrow": pa.table,
    "columns": dict,
    "rows": lambda columns: pa.table(columns).to_pylist(),
}


@pytest.fixture
def from_csv(tmp_path: Path) -> PreparedDataset:
    pd.DataFrame(LOG).to_csv(tmp_path / "log.csv", index=False)
    pd.DataFrame(CATALOGUE).to_csv(tmp_path / "items.csv", index=False)
    linguarec.prepare_table(str(tmp_path / "log.csv"), str(tmp_path / "csv"), str(tmp_path / "items.csv"))
    return linguarec.load_dataset(str(tmp_path / "csv"))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_give_the_folder_that_csv_files_give(kind: str, from_csv: PreparedDataset, tmp_path: Path) -> None:
    make = KINDS[kind]
    result = linguarec.prepare_table(make(LOG), items=make(CATALOGUE), output=str(tmp_path / "out"))
    dataset = linguarec.load_dataset(result.output)
    assert result.fingerprint == dataset.fingerprint == from_csv.fingerprint
    assert (result.users, result.items_, result.interactions) == (USERS, ITEMS, USERS * ITEMS)
    assert dataset.raw_item_ids == ["10", "20", "30", "40", "50"]
    assert dataset.sequences[0].tolist() == [4, 3, 2, 1, 0]
    assert dataset.texts[:2] == ["Ruler, 30 cm. Acme.", "Saw 12."]
    assert dataset.manifest.attributes == ["title", "brand"]
    assert dataset.manifest.arguments["interactions"] == dataset.manifest.arguments["items"] == "a table in memory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "items.csv", "log.csv", "out"]
    assert not list((tmp_path / "out").rglob("*interactions*"))


def test_a_table_and_a_file_go_together(from_csv: PreparedDataset, tmp_path: Path) -> None:
    result = linguarec.prepare_table(tmp_path / "log.csv", tmp_path / "out", pl.DataFrame(CATALOGUE))
    assert result.fingerprint == from_csv.fingerprint
    arguments = linguarec.load_dataset(tmp_path / "out").manifest.arguments
    assert (arguments["interactions"], arguments["items"]) == ("log.csv", "a table in memory")


def test_ids_stay_whole_numbers_where_one_is_missing(from_csv: PreparedDataset, tmp_path: Path) -> None:
    """pandas makes floats of whole numbers as soon as one is missing."""
    log = pd.concat([pd.DataFrame(LOG), pd.DataFrame({"user_id": ["u0"], "item_id": [np.nan], "timestamp": [1]})])
    assert log["item_id"].dtype == np.float64
    result = linguarec.prepare_table(log, tmp_path / "out", pd.DataFrame(CATALOGUE))
    assert result.report["rows_without_user_or_item"] == 1
    assert result.fingerprint == from_csv.fingerprint


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
@pytest.mark.parametrize("zone", [None, UTC])
def test_moments_are_seconds_in_utc(make: Any, zone: Any, from_csv: PreparedDataset, tmp_path: Path) -> None:
    moments = [datetime(1970, 1, 1, tzinfo=zone) + timedelta(seconds=each) for each in LOG["timestamp"]]
    log = make({**LOG, "timestamp": moments})
    if zone is not None and make is pd.DataFrame:
        log["timestamp"] = log["timestamp"].dt.tz_convert("America/New_York")
    result = linguarec.prepare_table(log, tmp_path / "out", make(CATALOGUE))
    assert result.fingerprint == from_csv.fingerprint


def test_empty_text_is_missing_as_in_csv(tmp_path: Path) -> None:
    blank = pd.DataFrame(CATALOGUE).fillna("")
    assert (blank["brand"] == "").sum() == 2
    found = [
        linguarec.prepare_table(pd.DataFrame(LOG), tmp_path / name, items).fingerprint
        for name, items in (("null", pd.DataFrame(CATALOGUE)), ("blank", blank))
    ]
    assert found[0] == found[1]


def test_a_log_alone_and_columns_of_other_names(tmp_path: Path) -> None:
    log = pd.DataFrame(LOG).rename(columns={"user_id": "who", "item_id": "what", "timestamp": "when"})
    result = linguarec.prepare_table(log, tmp_path / "out", user_column="who", item_column="what", time_column="when")
    assert (result.users, result.items_, result.attributes) == (USERS, ITEMS, [])
    assert result.report["items_without_text"] == ITEMS


@pytest.mark.parametrize(
    ("log", "items", "message"),
    [
        (3, None, "the table of interactions: found an object of the type int; expected a DataFrame"),
        (pd.DataFrame(LOG), 3, "the table of items: found an object of the type int"),
        (
            pd.DataFrame(LOG).rename(columns={"user_id": "who"}),
            None,
            "^the table of interactions has no column 'user_id'; its columns are 'who', 'item_id', 'timestamp'",
        ),
        (pl.DataFrame(LOG), pl.DataFrame({"title": ["x"]}), "^the table of items has no column 'item_id'"),
        (
            {**LOG, "timestamp": ["soon", *map(str, LOG["timestamp"][1:])]},
            None,
            "^the table of interactions, data row 1: timestamp is 'soon', expected a number or a date",
        ),
        (pd.DataFrame(LOG), pd.DataFrame({"item_id": [1], "title": ["x"]}), "None of the 5 items of the log"),
        ([], None, "^the table of interactions has no column 'user_id'"),
        (pd.DataFrame(LOG)[:0], None, "No interaction is left: the log has no row"),
    ],
)
def test_bad_tables_are_refused_and_leave_nothing(log: Any, items: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=message):
        linguarec.prepare_table(log, tmp_path / "out", items)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_takes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from linguarec.cli import main

    pd.DataFrame(LOG).to_csv(tmp_path / "log.csv", index=False)
    words = ["prepare", "table", "--interactions", str(tmp_path / "log.csv"), "-o", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(printed) == ["output", "users", "items", "interactions", "attributes", "report", "fingerprint"]
    assert (printed["users"], printed["items"]) == (USERS, ITEMS)
    again = linguarec.prepare_table(pd.DataFrame(LOG), tmp_path / "again").to_dict()
    assert printed == {**again, "output": str(tmp_path / "out")}
