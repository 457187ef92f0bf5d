"""Prepare table: small worlds with known answers, every kind of bad input."""

import errno
import gzip
import json
import lzma
import os
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import RETAIL_HEADER, amazon_meta, every_pair, nothing_written, write_log

from linguarec.catalogue import Catalogue
from linguarec.commands.prepare import (
    prepare_amazon,
    prepare_atomic,
    prepare_online_retail,
    prepare_table,
    writing,
)
from linguarec.data import filtering, preparation
from linguarec.data.dataset import PreparedDataset
from linguarec.data.readers import files, times
from linguarec.errors import DataFormatError, OutputError, SettingsError
from linguarec.text import cleaning


def write_items(file: Path, rows: list[tuple[str, ...]], header: str = "item_id,title,brand") -> Path:
    file.write_text(header + "\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "items.csv", [(f"i{k}", f"Thing &amp; {k}..", "Acme") for k in range(5)])


# -- table ----------------------------------------------------------------------------------------------------------


def test_table_sequences_texts_and_ids(tmp_path: Path, items: Path) -> None:
    log = write_log(tmp_path / "log.csv", [*every_pair(), ("u9", "i0", 5)])
    result = prepare_table(log, tmp_path / "out", items)
    assert (result["users"], result["items"], result["interactions"]) == (5, 5, 25)
    assert result["report"]["rows_outside_k_core"] == 1
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.raw_user_ids == ["u0", "u1", "u2", "u3", "u4"]
    assert dataset.raw_item_ids == ["i0", "i1", "i2", "i3", "i4"]
    assert dataset.sequences[2].tolist() == [4, 3, 2, 1, 0]
    assert dataset.timestamps is not None
    assert dataset.timestamps[:5].tolist() == [1, 2, 3, 4, 5]
    assert dataset.texts[3] == "Thing & 3. Acme."
    assert dataset.manifest.attributes == ["title", "brand"]
    assert dataset.items(["title"])["title"][3].as_py() == "Thing &amp; 3.."
    assert dataset.roles("leave-one-out")[:5].tolist() == [0, 0, 0, 1, 2]
    assert sorted(file.stem for file in (tmp_path / "out/splits").iterdir()) == [
        "held-out-items",
        "leave-one-out",
        "temporal",
    ]
    assert not (tmp_path / "out/scratch").exists()


def test_parquet_dates_lists_and_other_column_names(tmp_path: Path) -> None:
    from datetime import datetime

    rows = every_pair()
    log = pa.table(
        {
            "who": [row[0] for row in rows],
            "what": [int(row[1][1:]) for row in rows],
            "when": [datetime(2024, 1, 1 + row[2] % 10) for row in rows],
        }
    )
    catalogue = pa.table(
        {"sku": list(range(5)), "name": [f"n{k}" for k in range(5)], "tags": [["a", "b"]] * 5, "text": ["x"] * 5}
    )
    pq.write_table(log, tmp_path / "log.parquet")
    pq.write_table(catalogue, tmp_path / "items.parquet")
    prepare_table(
        tmp_path / "log.parquet",
        tmp_path / "out",
        tmp_path / "items.parquet",
        user_column="who",
        item_column="what",
        time_column="when",
        items_item_column="sku",
        attributes=["name", "tags"],
    )
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.raw_item_ids == ["0", "1", "2", "3", "4"]
    assert dataset.texts[1] == "n1. a b."
    assert dataset.timestamps is not None
    assert dataset.timestamps.min() == 1704153600  # 2024-01-02 UTC


def test_a_column_named_text_does_not_collide(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    items = write_items(tmp_path / "items.csv", [(f"i{k}", f"words {k}") for k in range(5)], "item_id,text")
    prepare_table(log, tmp_path / "out", items)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.texts[2] == "words 2."
    assert dataset.manifest.attributes == ["text_attribute"]


def test_columns_with_names_of_our_own_do_not_collide(tmp_path: Path) -> None:
    """`row` and `removed` are columns of a trained run's catalogue."""
    log = write_log(tmp_path / "log.csv", every_pair())
    rows = [(f"i{k}", f"words {k}", f"{k}", "no") for k in range(5)]
    prepare_table(log, tmp_path / "out", write_items(tmp_path / "items.csv", rows, "item_id,title,row,Removed"))
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.manifest.attributes == ["title", "row_attribute", "Removed_attribute"]
    catalogue = Catalogue.of(dataset.items(), dataset.manifest.attributes, "default")
    assert catalogue.removed.tolist() == [False] * 5
    assert catalogue.attributes == dataset.manifest.attributes


@pytest.mark.parametrize("header", ["item_id,title,Title", "item_id,title,title", "item_id,row,row_attribute"])
def test_columns_of_one_name_are_refused(header: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    items = write_items(tmp_path / "items.csv", [(f"i{k}", "a", "b") for k in range(5)], header)
    with pytest.raises(DataFormatError, match=r"items\.csv: the (columns|attributes) '\w+' and '\w+' .*rename one"):
        prepare_table(log, tmp_path / "out", items)
    assert nothing_written(tmp_path)


def test_times_keep_their_fractions(tmp_path: Path) -> None:
    """Two visits within a second are two, in their order."""
    rows = [("u", "a", "1609459200.75"), ("u", "b", "1609459200.25"), ("u", "b", "16094592005e-1"), ("u", "c", "1.6")]
    prepare_table(write_log(tmp_path / "log.csv", rows), tmp_path / "out", k_core=0)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert [dataset.raw_item_ids[row] for row in dataset.sequences[0]] == ["c", "b", "b", "a"]


def test_order_by_rank_and_by_file(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", [("u", "a", 2), ("u", "b", 0), ("u", "c", 1), ("u", "b", 3)])
    prepare_table(log, tmp_path / "rank", order="rank", k_core=0)
    by_rank = PreparedDataset.open(tmp_path / "rank")
    assert [by_rank.raw_item_ids[row] for row in by_rank.sequences[0]] == ["b", "c", "a", "b"]
    assert by_rank.timestamps is None
    prepare_table(log, tmp_path / "file", order="file", k_core=0)
    by_file = PreparedDataset.open(tmp_path / "file")
    assert [by_file.raw_item_ids[row] for row in by_file.sequences[0]] == ["a", "b", "c", "b"]


def test_whole_catalogue_is_kept_if_asked(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    items = write_items(tmp_path / "items.csv", [(f"i{k}", f"T{k}", "") for k in (7, 0, 1, 2, 3, 4, 6)])
    result = prepare_table(log, tmp_path / "out", items, catalogue="all")
    assert PreparedDataset.open(tmp_path / "out").raw_item_ids == ["i0", "i1", "i2", "i3", "i4", "i7", "i6"]
    assert result["report"]["items_without_interactions"] == 2


def test_the_result_does_not_depend_on_memory_or_on_the_run(tmp_path: Path, items: Path) -> None:
    log = write_log(tmp_path / "log.csv", [(user, item, 7) for user, item, _ in every_pair()])
    results = [
        prepare_table(log, tmp_path / f"out{k}", items, ties="random", seed=seed, memory=memory)
        for k, (seed, memory) in enumerate([(0, "1500MB"), (0, "200MB"), (1, "200MB")])
    ]
    assert results[0]["fingerprint"] == results[1]["fingerprint"] != results[2]["fingerprint"]


# -- bad input ------------------------------------------------------------------------------------------------------


def test_missing_column(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair(), "user,item_id,timestamp")
    with pytest.raises(DataFormatError, match=r"log\.csv has no column 'user_id'; its columns are 'user', 'item_id'"):
        prepare_table(log, tmp_path / "out")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("bad", ["yesterday", "", "12:60", "1e30", "-99999999999999999", "nan", "99999999999999999999"])
def test_unparsable_time_with_row_number(tmp_path: Path, bad: str) -> None:
    rows: list[tuple[Any, ...]] = list(every_pair())
    rows[7] = ("u1", "i2", bad)
    with pytest.raises(DataFormatError, match=rf"log\.csv, data row 8: timestamp is '{bad}', expected a number"):
        prepare_table(write_log(tmp_path / "log.csv", rows), tmp_path / "out")
    assert nothing_written(tmp_path)


def test_unparsable_number_with_row_number(tmp_path: Path) -> None:
    file = tmp_path / "retail.csv"
    file.write_text(RETAIL_HEADER + "1,A,x,2,2010-12-01 08:26:00,1,,UK\n1,A,x,two,2010-12-01 08:26:00,1,,UK\n")
    with pytest.raises(DataFormatError, match="data row 2: Quantity is 'two', expected a number"):
        prepare_online_retail(file, tmp_path / "out")
    assert nothing_written(tmp_path)


def test_line_with_too_few_values(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu,i,1\nu,i\n")
    with pytest.raises(DataFormatError, match=r"line 3.*Expected Number of Columns: 3 Found: 2"):
        prepare_table(log, tmp_path / "out")
    assert nothing_written(tmp_path)


def test_mixed_encodings(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    items = tmp_path / "items.csv"
    items.write_bytes("item_id,title\ni0,café\n".encode() + "i1,café\n".encode("latin-1") + b"i2,x\ni3,x\ni4,x\n")
    with pytest.raises(DataFormatError, match=r"items\.csv.*not UTF-8.*--encoding latin-1"):
        prepare_table(log, tmp_path / "out", items)
    assert nothing_written(tmp_path)


def test_latin_1(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    items = tmp_path / "items.csv"
    items.write_bytes(b"item_id,title\n" + "".join(f"i{k},café {k}\n" for k in range(5)).encode("latin-1"))
    prepare_table(log, tmp_path / "out", items, encoding="latin-1")
    assert PreparedDataset.open(tmp_path / "out").texts[0] == "café 0."


@pytest.mark.parametrize("keep", [8, 300, 0.5])
def test_truncated_gzip(tmp_path: Path, keep: float) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"u{a}", f"i{b}", c) for a, b, c in rng.integers(0, 10**6, (20_000, 3)).tolist()]
    packed = gzip.compress(write_log(tmp_path / "log.csv", rows).read_bytes())
    file = tmp_path / "log.csv.gz"
    file.write_bytes(packed[: int(keep if keep > 1 else keep * len(packed))])
    with pytest.raises(DataFormatError, match=r"log\.csv\.gz.*cut short"):
        prepare_table(file, tmp_path / "out")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("suffix", [".xz", ".zip"])
def test_truncated_xz_and_zip(tmp_path: Path, suffix: str) -> None:
    plain = write_log(tmp_path / "log.csv", every_pair(50, 50))
    file = tmp_path / f"log.csv{suffix}"
    if suffix == ".xz":
        file.write_bytes(lzma.compress(plain.read_bytes()))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(plain, "log.csv")
    prepare_table(file, tmp_path / "whole")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataFormatError, match="cut short or damaged"):
        prepare_table(file, tmp_path / "out")
    assert nothing_written(tmp_path)


def test_duplicate_item_with_different_texts_keeps_the_first_and_counts(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    rows = [("i1", "First", "A"), *((f"i{k}", f"T{k}", "A") for k in range(5)), ("i2", "T2", "A")]
    report = prepare_table(log, tmp_path / "out", write_items(tmp_path / "items.csv", rows))["report"]
    assert (report["repeated_catalogue_rows"], report["items_with_different_texts"]) == (2, 1)
    assert PreparedDataset.open(tmp_path / "out").texts[1] == "First. A."


@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_item_without_metadata(tmp_path: Path, items: Path, policy: Any) -> None:
    log = write_log(tmp_path / "log.csv", every_pair(6, 6))
    result = prepare_table(log, tmp_path / "out", items, items_without_metadata=policy)
    assert result["report"]["items_without_metadata"] == 1
    dataset = PreparedDataset.open(tmp_path / "out")
    if policy == "keep":
        assert (result["items"], result["report"]["items_without_text"]) == (6, 1)
        assert dataset.texts[dataset.item_row["i5"]] == ""
    else:
        assert (result["items"], result["report"]["rows_of_items_without_metadata"]) == (5, 6)


def test_the_choices_of_the_flags_are_those_of_the_code() -> None:
    """The commands name them once more, so that --help need not load the database."""
    for ours, theirs in (
        (writing.TextRules, cleaning.TextRules),
        (writing.Ties, filtering.Ties),
        (writing.Duplicates, filtering.Duplicates),
        (writing.Catalogue, preparation.Catalogue),
        (writing.Encoding, files.Encoding),
        (writing.TimeUnit, times.TimeUnit),
    ):
        assert get_args(ours) == get_args(theirs)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="nowhere does not exist or is not a folder"):
        prepare_atomic(tmp_path / "nowhere", tmp_path / "out")


def test_no_common_item(tmp_path: Path, items: Path) -> None:
    log = write_log(tmp_path / "log.csv", [(item, user, time) for user, item, time in every_pair()])
    with pytest.raises(DataFormatError, match=r"None of the 5 items of the log \(such as 'u0'\).*swapped"):
        prepare_table(log, tmp_path / "out", items)
    assert nothing_written(tmp_path)


def test_nothing_left_after_k_core(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair(4, 4))
    with pytest.raises(DataFormatError, match=r"No interaction is left: 16 rows were read.*5-core.*lower --k-core"):
        prepare_table(log, tmp_path / "out")
    assert nothing_written(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "log.csv").touch()
    with pytest.raises(DataFormatError, match=r"log\.csv is empty"):
        prepare_table(tmp_path / "log.csv", tmp_path / "out")
    write_log(tmp_path / "log.csv", [])
    with pytest.raises(DataFormatError, match="No interaction is left: the log has no row"):
        prepare_table(tmp_path / "log.csv", tmp_path / "out")


def test_ids_with_blanks_tabs_quotes_and_emoji_stay_as_they_are(tmp_path: Path) -> None:
    odd = ["a b", "a\tb", " a", "ü😀", 'say "hi", you']
    quoted = ['"' + name.replace('"', '""') + '"' for name in odd]
    rows = [(user, item, k) for k, user in enumerate(quoted) for item in quoted]
    log = write_log(tmp_path / "log.csv", rows)
    items = write_items(tmp_path / "items.csv", [(name, "T", "") for name in quoted])
    result = prepare_table(log, tmp_path / "out", items)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert (dataset.raw_item_ids, dataset.raw_user_ids) == (odd, odd)
    assert result["report"]["items_without_metadata"] == 0


def test_rows_without_user_or_item_are_counted(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", [*every_pair(), ("", "i0", 1), ("u0", "", 1)])
    assert prepare_table(log, tmp_path / "out")["report"]["rows_without_user_or_item"] == 2


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("linguarec.data.folder.write_npy", full)
    with pytest.raises(OutputError, match=r"There is no space left for"):
        prepare_table(write_log(tmp_path / "log.csv", every_pair()), tmp_path / "out")
    assert nothing_written(tmp_path)


def test_output_not_writable(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"):
        prepare_table(log, tmp_path / "file" / "out")


def test_existing_output_stays_unless_overwritten(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    prepare_table(log, tmp_path / "out")
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        prepare_table(log, tmp_path / "out")
    before = PreparedDataset.open(tmp_path / "out").fingerprint
    bad = write_log(tmp_path / "bad.csv", [])
    with pytest.raises(DataFormatError):
        prepare_table(bad, tmp_path / "out", overwrite=True)
    assert PreparedDataset.open(tmp_path / "out").fingerprint == before


@pytest.mark.parametrize("first_end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_mixed_line_ends(tmp_path: Path, first_end: str, suffix: str) -> None:
    lines = [",".join(map(str, row)) for row in every_pair()]
    text = "user_id,item_id,timestamp" + first_end
    text += "".join(line + ("\r\n" if k % 3 else "\n") for k, line in enumerate(lines))
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    file = tmp_path / f"log.csv{suffix}"
    file.write_bytes(pack(text.encode()))
    prepare_table(file, tmp_path / "out")
    prepare_table(write_log(tmp_path / "plain.csv", every_pair()), tmp_path / "plain")
    mixed, plain = (PreparedDataset.open(tmp_path / name) for name in ("out", "plain"))
    assert mixed.fingerprint == plain.fingerprint


@pytest.mark.parametrize("where", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_gzip_damaged_in_the_middle(tmp_path: Path, where: float, kind: str) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 10**6, (20_000, 3)).tolist()
    meta = amazon_meta(tmp_path / "meta.json.gz", "asin", "brand", "category")
    file = tmp_path / f"log.{kind}.gz"
    if kind == "csv":
        packed = gzip.compress(write_log(tmp_path / "log.csv", numbers).read_bytes())
    else:
        keys = ("reviewerID", "asin", "unixReviewTime")
        records = [{**dict(zip(keys, row, strict=True)), "overall": 5} for row in numbers]
        packed = gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode())
    at = 12 + int(where * (len(packed) - 60))
    file.write_bytes(packed[:at] + bytes(byte ^ 0xA5 for byte in packed[at : at + 20]) + packed[at + 20 :])
    with pytest.raises(DataFormatError, match=rf"log\.{kind}\.gz is .*damaged.*fetch it again"):
        if kind == "csv":
            prepare_table(file, tmp_path / "out")
        else:
            prepare_amazon("2018", file, meta, tmp_path / "out")
    assert nothing_written(tmp_path)


def test_zip_damaged_in_the_middle(tmp_path: Path) -> None:
    file = tmp_path / "log.csv.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(write_log(tmp_path / "log.csv", every_pair(50, 50)), "log.csv")
    packed = file.read_bytes()
    file.write_bytes(packed[:37] + b"\xff" * 8 + packed[45:])
    with pytest.raises(DataFormatError, match=r"log\.csv\.zip is cut short or damaged.*fetch it again"):
        prepare_table(file, tmp_path / "out")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("damaged", ["log", "items"])
@pytest.mark.parametrize("content", [b"", b"PAR1 no parquet PAR", b"PAR1" + b"\xff" * 40 + b"\x20\0\0\0PAR1"])
def test_damaged_parquet(tmp_path: Path, damaged: str, content: bytes) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    file = tmp_path / f"{damaged}.parquet"
    file.write_bytes(content)
    with pytest.raises(DataFormatError, match=rf"{damaged}\.parquet is damaged or not a Parquet file.*write it again"):
        prepare_table(*((file, tmp_path / "out") if damaged == "log" else (log, tmp_path / "out", file)))
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("rows", "found"),
    [("", "the log has no row"), ("u1,,3\n,i2,4\n", "2 of the 2 rows of the log lack a user or an item")],
)
def test_a_log_without_interactions(tmp_path: Path, rows: str, found: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n" + rows)
    with pytest.raises(DataFormatError, match=f"No interaction is left: {found}; check the file and the columns"):
        prepare_table(log, tmp_path / "out", k_core=0)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("value", "written"), [({"x": 1}, "x: 1"), ([{"x": 1}, {"x": 2}], "x: 1 x: 2"), ([["a"], ["b"]], "a b")]
)
def test_an_attribute_that_is_no_text(tmp_path: Path, value: Any, written: str) -> None:
    log, items = write_log(tmp_path / "log.csv", every_pair()), tmp_path / "items.parquet"
    found = sorted({line.split(",")[1] for line in log.read_text().splitlines()[1:]})
    columns = {"item_id": found, "title": [["a", None, "b"]] * len(found), "price": [1.5] * len(found)}
    pq.write_table(pa.table({**columns, "tags": [value] * len(found)}), items)
    prepare_table(log, tmp_path / "out", items)
    assert set(PreparedDataset.open(tmp_path / "out").texts) == {f"a b. 1.5. {written}."}


@pytest.mark.parametrize("memory", ["lots", "", "5", "-5GB"])
def test_memory_that_is_no_amount(tmp_path: Path, memory: str) -> None:
    with pytest.raises(SettingsError, match=rf"--memory is '{memory}'.*1500MB"):
        prepare_table(write_log(tmp_path / "log.csv", every_pair()), tmp_path / "out", memory=memory)
    assert nothing_written(tmp_path)


def test_settings_that_cannot_work_are_named_together(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    for share in (1.5, 1.0, -1.0):
        with pytest.raises(SettingsError) as caught:
            prepare_table(log, tmp_path / "out", held_out_share=share, seed=-1, k_core=-3)
        starts = [problem.split(";")[0] for problem in caught.value.problems]
        assert starts == [f"--held-out-share is {share}", "--seed is -1", "--k-core is -3"]
    assert nothing_written(tmp_path)


def test_held_out_share_of_zero_holds_nothing_out(tmp_path: Path) -> None:
    prepare_table(write_log(tmp_path / "log.csv", every_pair()), tmp_path / "out", held_out_share=0)
    roles = PreparedDataset.open(tmp_path / "out").roles("held-out-items")
    assert roles.reshape(5, 5).tolist() == [[0, 0, 0, 0, 1]] * 5


def test_the_manifest_records_every_argument(tmp_path: Path, items: Path) -> None:
    log = write_log(tmp_path / "log.csv", every_pair())
    prepare_table(log, tmp_path / "out", items, attributes=["brand"])
    arguments = PreparedDataset.open(tmp_path / "out").manifest.arguments
    assert (arguments["items_item_column"], arguments["attributes"]) == ("item_id", ["brand"])
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("".join(f"{item},{user},5,{time}\n" for user, item, time in every_pair()))
    meta = amazon_meta(tmp_path / "meta.json.gz", "asin", "brand", "category")
    prepare_amazon("2018", ratings, meta, tmp_path / "amazon", items_without_metadata="keep")
    assert PreparedDataset.open(tmp_path / "amazon").manifest.arguments["items_without_metadata"] == "keep"
