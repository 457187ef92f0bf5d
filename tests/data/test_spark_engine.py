"""Spark against DuckDB: the same folder, byte for byte. One Spark context for the module, on two threads of this machine."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import amazon_meta

from linguarec.commands.prepare import prepare_amazon, prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.data.engine import Engine, EngineChoice, open_engine
from linguarec.data.source_files import SourceFiles
from linguarec.errors import DataFormatError, SettingsError

pytest.importorskip("pyspark")

from linguarec.data.spark_engine import SparkEngine

pytestmark = pytest.mark.slow

PART = 4000  # bytes of a part of a file


@pytest.fixture(scope="module", autouse=True)
def spark() -> Iterator[Any]:
    """The context that every preparation of this module joins; files are read in many parts."""
    from pyspark.sql import SparkSession

    from linguarec.data.spark_session import _settings, check_java

    try:
        check_java()
    except SettingsError as error:
        pytest.skip(str(error))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder
    settings = _settings(EngineChoice("spark", "1GB", "local[2]"))
    own = {"spark.sql.files.maxPartitionBytes": str(PART), "spark.sql.shuffle.partitions": "2"}
    for key, value in {**settings, **own}.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module")
def engine(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_engine(tmp_path_factory.mktemp("scratch"), EngineChoice("spark")) as engine:
        yield engine


def same_folder(one: Path, other: Path) -> None:
    """The folders hold the same bytes; Parquet files the same table."""
    files = sorted(file.relative_to(one) for file in one.rglob("*") if file.is_file() and file.name != "files.json")
    assert files == sorted(f.relative_to(other) for f in other.rglob("*") if f.is_file() and f.name != "files.json")
    for file in files:
        if file.suffix == ".parquet":
            assert pq.read_table(one / file).equals(pq.read_table(other / file)), file
        else:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def in_spark(engine: Engine, **columns: list[Any]) -> ir.Table:
    """A stored table of these values."""
    assert isinstance(engine, SparkEngine)
    return engine._named(engine.spark.createDataFrame(pa.table(columns)))


def write_shop(folder: Path, rows: int = 900) -> tuple[Path, Path]:
    """A log with repeated rows, many ties, rows without a user, and users and items outside the 5-core; a catalogue
    whose texts have quotes and line breaks, with items that are there twice or not at all."""
    rng = np.random.default_rng(7)
    lines = ["user_id,item_id,timestamp"]
    for _ in range(rows):
        user, item, moment = rng.integers(90), int(rng.random() ** 2 * 70), 1_700_000_000 + rng.integers(12)
        lines.append(f"{'' if rng.random() < 0.02 else f'u{user}'},i{item},{moment}")
        if rng.random() < 0.05:
            lines.append(lines[-1])
    log = folder / "log.csv"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [
        f'i{k},"A ""thing"", no {k}\nwith a second line, ö",{"" if k % 5 == 0 else f"B{k % 3}"}' for k in range(64)
    ]
    items = folder / "items.csv"
    items.write_text(
        "item_id,title,brand\n" + "\n".join([*texts, "i3,Another,B0", "i99,Unseen,B1"]) + "\n", encoding="utf-8"
    )
    return log, items


def test_csv_in_parts_ties_duplicates_and_k_core(tmp_path: Path) -> None:
    log, items = write_shop(tmp_path)
    assert log.stat().st_size > 4 * PART
    for name in ("duckdb", "spark"):
        result = prepare_table(
            log, tmp_path / name, items, ties="random", catalogue="all", engine=name, items_without_metadata="drop"
        )
    assert result["report"]["rows_outside_k_core"] > 0
    assert result["report"]["k_core_rounds"] > 1
    assert result["report"]["duplicate_rows"] > 0
    assert result["report"]["rows_without_user_or_item"] > 0
    assert result["report"]["rows_of_items_without_metadata"] > 0
    assert result["report"]["repeated_catalogue_rows"] == 1
    same_folder(tmp_path / "duckdb", tmp_path / "spark")


def test_partitioned_parquet_with_dates_and_file_ties(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    log = tmp_path / "who=above" / "log"  # the folder above it is no column
    for day in ("2024-01-02", "2024-01-01"):
        for part in range(2):
            folder = log / f"day={day}"
            folder.mkdir(parents=True, exist_ok=True)
            users, items = rng.integers(0, 9, 120), rng.integers(0, 7, 120).astype(float)
            pq.write_table(pa.table({"who": users, "what": items}), folder / f"part-{part}.parquet", row_group_size=40)
    catalogue = pa.table({"what": range(6), "tags": [["a", "b"]] * 6, "more": [{"x": k, "y": None} for k in range(6)]})
    pq.write_table(catalogue, tmp_path / "items.parquet")
    columns: dict[str, Any] = {"user_column": "who", "item_column": "what", "time_column": "day", "k_core": 0}
    for name in ("duckdb", "spark"):
        prepare_table(log, tmp_path / name, tmp_path / "items.parquet", **columns, duplicates="first", engine=name)
    same_folder(tmp_path / "duckdb", tmp_path / "spark")
    dataset = PreparedDataset.open(tmp_path / "spark")
    assert dataset.timestamps is not None
    assert len(dataset.raw_user_ids) == 9
    assert set(dataset.timestamps.tolist()) == {1_704_067_200, 1_704_153_600}
    assert dataset.texts[dataset.item_row["2"]] == "a b. x: 2."


def test_amazon_reviews_and_metadata(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    reviews = [
        {
            "reviewerID": f"A{rng.integers(12)}",
            "asin": f"i{rng.integers(8)}",
            "overall": float(rng.integers(1, 6)),
            "unixReviewTime": 1_500_000_000 + 86_400 * int(rng.integers(4)),
            "reviewText": f"good \u00fc {rng.integers(2)}",
            "style": {"Size:": " S"},
        }
        for _ in range(200)
    ]
    log = tmp_path / "reviews.json"
    log.write_text("".join(json.dumps(row) + "\n" for row in [*reviews, *reviews[:20]]), encoding="utf-8")
    meta = amazon_meta(tmp_path / "meta.json.gz", "asin", "brand", "category")
    for name in ("duckdb", "spark"):
        result = prepare_amazon("2018", log, meta, tmp_path / name, k_core=2, engine=name)
    assert result["report"]["duplicate_rows"] > 0
    same_folder(tmp_path / "duckdb", tmp_path / "spark")


def test_positions_are_those_of_the_files(engine: Engine, tmp_path: Path) -> None:
    """Two files in many parts: the row in the files, whatever worker read it."""
    from linguarec.data.readers.files import csv_table

    for number in (1, 2):
        rows = range(1000 * (number - 1), 1000 * number)
        (tmp_path / f"log [{number}] ä.csv").write_text("a,b\n" + "".join(f"x{k},{'y' * (k % 9)}\n" for k in rows))
    table = csv_table(engine, SourceFiles.of(tmp_path), tmp_path, {"a": "a"})
    stored = engine.positioned(engine.store_rows(table))
    rows = engine.rows(stored.order_by("position"))
    assert [(row["a"], row["position"]) for row in rows] == [(f"x{k}", k) for k in range(2000)]


def test_a_row_may_go_on_in_the_next_part(engine: Engine, tmp_path: Path) -> None:
    """Line breaks within quotes: wherever a part ends, it ends within a value."""
    from linguarec.data.readers.files import csv_table

    values = [f"{k}\n" + f'a, "b"\n{"x" * 70}\n' * 15 for k in range(12)]
    rows = "".join('"' + value.replace('"', '""') + '",u\n' for value in values)
    (tmp_path / "log.csv").write_text("a,b\n" + rows)
    assert len(rows) > 3 * PART
    table = csv_table(engine, SourceFiles.of(tmp_path / "log.csv"), tmp_path, {"a": "a"})
    found = engine.rows(engine.positioned(engine.store_rows(table)).order_by("position"))
    assert [(row["a"], row["position"]) for row in found] == [(value, k) for k, value in enumerate(values)]


def test_numbers_follow_the_order_over_several_ranges(engine: Engine) -> None:
    shuffled = np.random.default_rng(0).permutation(500)
    table = in_spark(engine, name=[f"n{k}" for k in shuffled], first=(shuffled * 3).tolist())
    found = engine.rows(engine.numbered(table, "first"))
    assert {row["name"]: row["code"] for row in found} == {f"n{k}": k for k in range(500)}
    assert list(found[0]) == ["name", "code"]


def test_large_results_come_in_their_order(engine: Engine) -> None:
    table = in_spark(engine, value=np.random.default_rng(0).permutation(3000).tolist())
    found = pa.Table.from_batches(list(engine.stream(table.order_by("value"))))
    assert found["value"].to_pylist() == list(range(3000))


def test_an_unreadable_row_is_named(engine: Engine, tmp_path: Path) -> None:
    from linguarec.data.readers.files import csv_table

    file = tmp_path / "log.csv"
    file.write_text("a,b\n" + "x,1\n" * 3000 + "y,2,3\n")
    with (
        pytest.raises(DataFormatError, match=r"log\.csv, line 3002: .*'y,2,3'"),
        open_engine(tmp_path, EngineChoice("spark")) as own,
    ):
        own.store_rows(csv_table(own, SourceFiles.of(file), tmp_path, {"a": "a"}))
    with pytest.raises(DataFormatError, match="one JSON array, which Spark cannot read in parts"):
        (tmp_path / "meta.json").write_text("[" + json.dumps({"asin": "i1", "title": "x"}) + "]")
        (tmp_path / "ratings.csv").write_text("i1,A1,5.0,1500000000\n")
        prepare_amazon("2018", tmp_path / "ratings.csv", tmp_path / "meta.json", tmp_path / "out", engine="spark")


def test_an_address_reaches_spark_unchanged(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"Spark cannot read s3a://nowhere/log/day=\*/part\.parquet \(.*S3A"):
        engine.parquet_columns("s3a://nowhere/log/day=*/part.parquet")
    (tmp_path / "log.csv").write_text("a,b\nx,1\n")
    assert engine.first_line(f"file://{tmp_path}/log.csv") == "a,b"


def test_another_master_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match=r"has a Spark context on local\[2\]"),
        open_engine(tmp_path, EngineChoice("spark", master="local[3]")),
    ):
        pass
