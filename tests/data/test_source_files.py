"""Globs, folders of parts, partitions and addresses: which files are read, in which order."""

import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import write_log

from linguarec.commands.prepare import prepare_append, prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.data.engine import EngineChoice, open_engine
from linguarec.data.source_files import SourceFiles, as_address
from linguarec.errors import DataFormatError, SettingsError


def write_parts(folder: Path, number: int = 3, **partitions: str) -> Path:
    """Parts of one user's log: part k holds the items 2 k and 2 k + 1, all at one time."""
    below = folder.joinpath(*(f"{key}={value}" for key, value in partitions.items()))
    below.mkdir(parents=True, exist_ok=True)
    for k in range(number):
        table = {
            "user_id": ["u", "u"],
            "item_id": [f"i{2 * k}", f"i{2 * k + 1}"],
            "timestamp": [5_000_000_000 // 10] * 2,
        }
        pq.write_table(pa.table(table), below / f"part-{k}.parquet")
    return folder


def items_of(folder: Path) -> list[str]:
    dataset = PreparedDataset.open(folder)
    return [dataset.raw_item_ids[row] for row in dataset.sequences[0]]


@pytest.mark.parametrize("named", ["log", "log/*.parquet", "log/part-[0-2].parquet", "*/part-?.parquet"])
def test_parts_of_parquet_are_read_in_the_order_of_their_names(tmp_path: Path, named: str) -> None:
    write_parts(tmp_path / "log")
    (tmp_path / "log/_SUCCESS").touch()
    (tmp_path / "log/.part-9.parquet.crc").touch()
    prepare_table(str(tmp_path / named), tmp_path / "out", k_core=0)
    assert items_of(tmp_path / "out") == [f"i{k}" for k in range(6)]
    assert PreparedDataset.open(tmp_path / "out").manifest.arguments["interactions"] == Path(named).name


def test_a_partition_is_a_column_of_text(tmp_path: Path) -> None:
    for day in ("2024-01-02", "2024-01-01"):
        write_parts(tmp_path / "log", 1, region="07", day=day)
    prepare_table(tmp_path / "log", tmp_path / "out", k_core=0, time_column="day", user_column="region")
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.raw_user_ids == ["07"]
    assert dataset.timestamps is not None
    assert dataset.timestamps.tolist() == [1_704_067_200] * 2 + [1_704_153_600] * 2
    # A glob names the same columns; a file within no partition lacks them.
    prepare_table(
        str(tmp_path / "log/*/day=2024-01-0*"), tmp_path / "glob", k_core=0, time_column="day", user_column="region"
    )
    assert PreparedDataset.open(tmp_path / "glob").fingerprint == dataset.fingerprint
    write_parts(tmp_path / "log", 1)
    with pytest.raises(DataFormatError, match="all parts of one table need the same"):
        prepare_table(tmp_path / "log", tmp_path / "mixed", k_core=0, time_column="day")


@pytest.mark.parametrize("named", ["log", "log/*/*.parquet", "log/day=2024-01-0[12]"])
def test_folders_above_the_given_one_are_no_partitions(tmp_path: Path, named: str) -> None:
    """They neither add columns, nor replace those of the files, nor those of a folder below with the same key."""
    above = tmp_path / "item_id=above/day=1999-01-01/user_id=above"
    for day in ("2024-01-02", "2024-01-01"):
        write_parts(above / "log", 1, day=day)
    prepare_table(str(above / named), tmp_path / "out", k_core=0, time_column="day")
    assert items_of(tmp_path / "out") == ["i0", "i1", "i0", "i1"]
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.raw_user_ids == ["u"] and dataset.timestamps is not None
    assert dataset.timestamps.tolist() == [1_704_067_200] * 2 + [1_704_153_600] * 2
    found = SourceFiles.of(str(above / named))
    assert (found.partitions, found.root) == (("day",), str(above / "log"))


@pytest.mark.parametrize("named", ["day=2024-01-01", "day=2024-01-01/*.parquet"])
def test_the_given_folder_itself_is_a_partition(tmp_path: Path, named: str) -> None:
    write_parts(tmp_path / "region=7/log", 1, day="2024-01-01")
    found = SourceFiles.of(str(tmp_path / "region=7/log" / named))
    assert (found.partitions, found.root) == (("day",), str(tmp_path / "region=7/log"))
    prepare_table(str(tmp_path / "region=7/log" / named), tmp_path / "out", k_core=0, time_column="day")
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.timestamps is not None and set(dataset.timestamps.tolist()) == {1_704_067_200}


def test_values_of_partitions_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Signs that a path cannot hold are written as %XX; a row without a value lies in a folder of its own."""
    for who in ("a%3Ab c+d", "x=y", "__HIVE_DEFAULT_PARTITION__"):
        write_parts(tmp_path / "log", 1, **{"the user": who})
    prepare_table(tmp_path / "log", tmp_path / "out", k_core=0, user_column="the user")
    assert PreparedDataset.open(tmp_path / "out").raw_user_ids == ["a:b c+d", "x=y"]


def test_csv_parts_plain_and_packed(tmp_path: Path) -> None:
    rows = [[("u", f"i{3 * part + k}", 1_500_000_000) for k in range(3)] for part in range(3)]
    for part, of_part in enumerate(rows):
        write_log(tmp_path / f"log-{part}.csv", of_part)
    packed = tmp_path / "log-1.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "log-1.csv").read_bytes()))
    (tmp_path / "log-1.csv").unlink()
    prepare_table(str(tmp_path / "log-*"), tmp_path / "out", k_core=0)
    assert items_of(tmp_path / "out") == [f"i{k}" for k in range(9)]


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "a.csv", [("u", "i", 5)])
    write_log(tmp_path / "b.csv", [("i", "u", 5)], header="item_id,user_id,timestamp")
    with pytest.raises(
        DataFormatError, match=r"b\.csv has the columns 'item_id', 'user_id', 'timestamp', but .*a\.csv has 'user_id'"
    ):
        prepare_table(str(tmp_path / "*.csv"), tmp_path / "out")
    write_parts(tmp_path, 1)
    with pytest.raises(DataFormatError, match=r"holds Parquet files \(part-0\.parquet\) and text \("):
        prepare_table(tmp_path, tmp_path / "out")
    pq.write_table(pa.table({"user_id": ["u"], "item_id": [3], "timestamp": [5]}), tmp_path / "part-1.parquet")
    with pytest.raises(
        DataFormatError, match=r"part-1\.parquet: the column 'item_id' holds int64, but string in .*part-0"
    ):
        prepare_table(str(tmp_path / "*.parquet"), tmp_path / "out")
    with pytest.raises(DataFormatError, match=r"day-\*\.csv matches no file; check the path, and quote it"):
        prepare_table(str(tmp_path / "day-*.csv"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFormatError, match="empty is a folder without Parquet or CSV files"):
        prepare_table(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_with_brackets_is_the_file_itself(tmp_path: Path) -> None:
    write_log(tmp_path / "log [1].csv", [("u", "i", 1_500_000_000)])
    prepare_table(tmp_path / "log [1].csv", tmp_path / "out", k_core=0)
    assert items_of(tmp_path / "out") == ["i"]


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("s3://bucket/log/*.parquet", "s3://bucket/log/*.parquet"),
        ("https://host/a.csv?sig=1%2F", "https://host/a.csv?sig=1%2F"),
        ("hdfs:///logs/day=1", "hdfs:///logs/day=1"),
        (Path("s3://bucket/log"), "s3://bucket/log"),
        (Path("hdfs:///logs"), "hdfs:///logs"),
        ("log/a.csv", None),
        ("c:/log.csv", None),
    ],
)
def test_addresses(given: str | Path, address: str | None) -> None:
    assert as_address(given) == address
    if address is not None:
        assert SourceFiles.of(given).paths == (address,)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An HTTP server of the folder on the loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_an_address_reaches_duckdb_unchanged(tmp_path: Path, server: str) -> None:
    """With the extension httpfs the log is read; without it the error names the address and the extension."""
    import duckdb

    write_log(tmp_path / "log.csv", [("u", "i", 1_500_000_000)])
    try:
        duckdb.connect().execute("LOAD httpfs")
    except duckdb.Error:
        with pytest.raises(DataFormatError, match=rf"DuckDB cannot open {server}/log\.csv\?sig=a%2Fb \(.*extension"):
            prepare_table(f"{server}/log.csv?sig=a%2Fb", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    prepare_table(f"{server}/log.csv?sig=a%2Fb", tmp_path / "out", k_core=0)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.raw_item_ids == ["i"]
    assert dataset.manifest.arguments["interactions"] == "log.csv"


def test_addresses_of_files_are_opened_by_the_engine(tmp_path: Path) -> None:
    """file:// is opened without an extension, so that the whole way of an address is tested everywhere."""
    folder = write_parts(tmp_path / "log")
    prepare_table(f"file://{folder}/*.parquet", tmp_path / "out", k_core=0)
    assert items_of(tmp_path / "out") == [f"i{k}" for k in range(6)]
    log = write_log(tmp_path / "log.csv", [("u", "i7", 1_500_000_000)])
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\ni7,Seven\n")
    prepare_table(f"file://{log}", tmp_path / "csv", f"file://{items}", k_core=0)
    assert PreparedDataset.open(tmp_path / "csv").texts == ["Seven."]


def test_a_master_is_for_spark(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match="--master names a Spark master"),
        open_engine(tmp_path, EngineChoice(master="local")),
    ):
        pass


def test_brackets_are_no_pattern_for_duckdb(tmp_path: Path) -> None:
    """A sibling whose name the brackets would match is left alone: CSV, Parquet, and a folder to which is appended."""
    rows = [("u", "right", 1_500_000_000), ("v", "right", 1_500_000_001)]
    write_log(tmp_path / "log1.csv", [("wrong", "wrong", 1_500_000_000)])
    write_log(tmp_path / "log[1].csv", rows)
    prepare_table(tmp_path / "log1.csv", tmp_path / "D1", k_core=0)
    prepare_table(tmp_path / "log[1].csv", tmp_path / "D[1]", k_core=0)
    prepare_append(tmp_path / "D[1]", write_log(tmp_path / "more[*?].csv", [("u", "new", 1_500_000_009)]))
    dataset = PreparedDataset.open(tmp_path / "D[1]")
    assert (dataset.raw_user_ids, dataset.raw_item_ids) == (["u", "v"], ["right", "new"])
    write_parts(tmp_path / "p[1]", 1)
    write_parts(tmp_path / "p1", 3)
    prepare_table(tmp_path / "p[1]", tmp_path / "out", k_core=0)
    assert items_of(tmp_path / "out") == ["i0", "i1"]


def test_a_folder_named_like_a_column_of_a_csv_is_no_partition(tmp_path: Path) -> None:
    folder = tmp_path / "log/timestamp=2024-01-01"
    folder.mkdir(parents=True)
    write_log(folder / "a.csv", [("u", "late", 1_500_000_009), ("u", "early", 1_500_000_001)])
    for name, given in (("folder", tmp_path / "log"), ("file", folder / "a.csv")):
        prepare_table(given, tmp_path / name, k_core=0)
        assert items_of(tmp_path / name) == ["early", "late"]


def test_a_glob_leaves_hidden_files_out(tmp_path: Path) -> None:
    write_log(tmp_path / "a.csv", [("u", "i", 1_500_000_000)])
    write_log(tmp_path / "_old.csv", [("u", "old", 1_500_000_000)])
    assert SourceFiles.of(str(tmp_path / "*.csv")).paths == (str(tmp_path / "a.csv"),)
    assert SourceFiles.of(str(tmp_path / "_*.csv")).paths == (str(tmp_path / "_old.csv"),)
