"""Ids that two files write in different ways: read alike where that is safe, else the likely cause is named."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import nothing_written, write_log

from linguarec.commands.prepare import prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError


def catalogue(file: Path, ids: list[str]) -> Path:
    return write_log(file, [(raw_id, f"T{k}") for k, raw_id in enumerate(ids)], "item_id,title")


def log_of(file: Path, ids: list[str]) -> Path:
    return write_log(file, [(f"u{user}", raw_id, k) for user in range(2) for k, raw_id in enumerate(ids)])


@pytest.mark.parametrize(
    ("of_log", "of_items", "changed"),
    [
        (["3.0", "1.0", "20.0"], ["1", "3", "20", "7"], 3),
        (["3", "1", "20"], ["1.0", "3.0", "20.0", "7.0"], 4),
        (["3", "1", "20"], ["1.0", "3.0", "20.0", ""], 3),  # the missing value that made the column one of floats
    ],
)
def test_floats_in_one_file_are_read_as_integers(
    of_log: list[str], of_items: list[str], changed: int, tmp_path: Path
) -> None:
    log, items = log_of(tmp_path / "log.csv", of_log), catalogue(tmp_path / "items.csv", of_items)
    report = prepare_table(log, tmp_path / "out", items, k_core=0)["report"]
    assert (report["item_ids_read_as_integers"], report["items_without_metadata"]) == (changed, 0)
    assert report["catalogue_rows_without_item"] == of_items.count("")
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.raw_item_ids == ["3", "1", "20"]
    assert dataset.texts == ["T1.", "T0.", "T2."]
    assert dataset.sequences[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("of_log", "of_items"),
    [
        (["1.0", "2.0"], ["1.0", "2.0"]),  # they match: version numbers, say
        (["1.0", "2.5"], ["1.0", "2.5", "3"]),
        (["1.0", "2"], ["2", "1"]),  # not all of them are floats: 1.0 may be another item than 1
    ],
)
def test_ids_that_may_be_meant_so_stay(of_log: list[str], of_items: list[str], tmp_path: Path) -> None:
    log, items = log_of(tmp_path / "log.csv", of_log), catalogue(tmp_path / "items.csv", of_items)
    report = prepare_table(log, tmp_path / "out", items, k_core=0)["report"]
    assert "item_ids_read_as_integers" not in report
    assert PreparedDataset.open(tmp_path / "out").raw_item_ids == of_log


def test_float_columns_of_parquet(tmp_path: Path) -> None:
    """Whole numbers are integers, and NaN is a missing id."""
    nan = float("nan")
    log = {"user_id": [7.0, 7.0, 8.0, nan], "item_id": [1.0, 1e15, 2.5, 1.0], "timestamp": [1, 2, 3, 4]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    pq.write_table(pa.table({"item_id": ["1", "1000000000000000"], "title": ["A", "B"]}), tmp_path / "items.parquet")
    result = prepare_table(tmp_path / "log.parquet", tmp_path / "out", tmp_path / "items.parquet", k_core=0)
    assert result["report"]["rows_without_user_or_item"] == 1
    dataset = PreparedDataset.open(tmp_path / "out")
    assert (dataset.raw_user_ids, dataset.raw_item_ids) == (["7", "8"], ["1", "1000000000000000", "2.5"])
    assert dataset.texts == ["A.", "B.", ""]


@pytest.mark.parametrize(
    ("of_log", "of_items", "cause"),
    [
        (["1.0", "x"], ["1", "2.0"], r"1 of the 2 would match, but one of the files writes whole numbers as 1\.0"),
        (["7", "12"], ["007", "012"], "2 of the 2 would match, but one of the files lacks leading zeros"),
        (
            ["ab1", "AB2"],
            ["AB1", "Ab2"],
            "2 of the 2 would match, but they differ in blanks or in upper and lower case",
        ),
        (['" ab1"', "ab2"], ["ab1", "ab3"], "1 of the 2 would match, but they differ in blanks"),
        (["p", "q"], ["u0", "u1"], "the user and item columns are swapped"),
        (["p", "q"], ["r", "s"], "Check that both files name items in the same way"),
    ],
)
def test_the_likely_cause_is_named(of_log: list[str], of_items: list[str], cause: str, tmp_path: Path) -> None:
    log, items = log_of(tmp_path / "log.csv", of_log), catalogue(tmp_path / "items.csv", of_items)
    match = rf"None of the 2 items of the log \(such as '.+'\) is in the catalogue \(such as '.+'\)\. .*{cause}"
    with pytest.raises(DataFormatError, match=match):
        prepare_table(log, tmp_path / "out", items, k_core=0)
    assert nothing_written(tmp_path)
