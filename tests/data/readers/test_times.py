"""Times in another unit or form: told, refused or read, and never taken for something else in silence."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import START, metadata, nothing_written, rectangle, write_json_lines, write_log

from linguarec.commands.describe import describe
from linguarec.commands.prepare import prepare_amazon, prepare_atomic, prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.data.moments import moment_text
from linguarec.errors import DataFormatError, SettingsError


def log_in(file: Path, factor: int) -> Path:
    return write_log(file, [(user, item, time * factor) for user, item, time in rectangle()])


def sequence(folder: Path) -> list[str]:
    """Raw item ids of the first user."""
    dataset = PreparedDataset.open(folder)
    return [dataset.raw_item_ids[row] for row in dataset.sequences[0]]


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "read_as", "right"),
    [
        (1_000, "seconds", "milliseconds"),
        (1_000_000, "milliseconds", "microseconds"),
    ],
)
def test_times_in_a_finer_unit_are_refused(factor: int, read_as: Any, right: Any, tmp_path: Path) -> None:
    log = log_in(tmp_path / "log.csv", factor)
    match = (
        r"log\.csv: 25 of 25 times lie after the next year, first that of data row 1 \(the year [\d,]+\)\. "
        rf"In {right} they would be plausible: pass --time-unit {right}\."
    )
    with pytest.raises(DataFormatError, match=match):
        prepare_table(log, tmp_path / "out", time_unit=read_as)
    assert nothing_written(tmp_path)
    prepare_table(log, tmp_path / "out", time_unit=right)
    times = PreparedDataset.open(tmp_path / "out").timestamps
    assert times is not None
    assert times[:2].tolist() == [START + 86_400, START + 2 * 86_400]


def test_times_in_microseconds_are_too_large_for_seconds(tmp_path: Path) -> None:
    """They do not even parse as such."""
    log = log_in(tmp_path / "log.csv", 1_000_000)
    match = (
        r"data row 1: timestamp is '1500432000000000', .*In microseconds it would be plausible: pass --time-unit micro"
    )
    with pytest.raises(DataFormatError, match=match):
        prepare_table(log, tmp_path / "out")
    prepare_table(log, tmp_path / "out", time_unit="microseconds")
    assert sequence(tmp_path / "out") == ["i4", "i3", "i2", "i1", "i0"]


def test_times_in_a_coarser_unit_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their order is right: they are warned of and not refused."""
    report = prepare_table(log_in(tmp_path / "log.csv", 1), tmp_path / "out", time_unit="milliseconds")["report"]
    assert (report["times_before_1971"], report["times_after_next_year"]) == (25, 0)
    assert "25 of 25 times lie before 1971, first that of data row 1 (1970-01-18 " in caplog.text
    assert "In seconds they would be plausible: pass --time-unit seconds." in caplog.text


def test_positions_in_the_sequence_are_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(f"u{user}", f"i{item}", item) for user in range(5) for item in range(5)]
    log = write_log(tmp_path / "log.csv", rows)
    report = prepare_table(log, tmp_path / "out")["report"]
    assert report["times_before_1971"] == 25
    assert sequence(tmp_path / "out") == ["i0", "i1", "i2", "i3", "i4"]
    assert "they are ranks and no times: prepare table --order rank reads them so" in caplog.text
    caplog.clear()
    assert "times_before_1971" not in prepare_table(log, tmp_path / "rank", order="rank")["report"]
    assert caplog.text == ""


def test_real_positions(shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The timestamp of this data is the position in the sequence."""
    log = shared / "data/amazon14_toys/interactions.csv.gz"
    result = prepare_table(log, tmp_path / "out")
    assert (result["users"], result["report"]["times_before_1971"]) == (19412, 167597)
    assert "--order rank" in caplog.text


def test_single_times_that_cannot_be_right_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = rectangle()
    rows[3], rows[8] = ("u0", "i3", 253_402_300_799), ("u1", "i3", 0)
    result = prepare_table(write_log(tmp_path / "log.csv", rows), tmp_path / "out")
    assert (result["report"]["times_before_1971"], result["report"]["times_after_next_year"]) == (1, 1)
    assert "1 of 25 times lie after the next year, first that of data row 4 (9999-12-31 23:59:59)" in caplog.text
    assert "1 of 25 times lie before 1971, first that of data row 9 (1970-01-01 00:00:00)" in caplog.text
    assert describe(tmp_path / "out")["times"] == {"first": "1970-01-01 00:00:00", "last": "9999-12-31 23:59:59"}


def test_dates_that_are_shifted_on_purpose_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No other unit mends them."""
    log = write_log(tmp_path / "log.csv", [(u, i, f"21{time % 90 + 10}-03-04") for u, i, time in rectangle()])
    assert prepare_table(log, tmp_path / "out")["report"]["times_after_next_year"] == 25
    assert "25 of 25 times lie after the next year" in caplog.text


def test_plausible_times_are_not_remarked_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime.now().replace(microsecond=0)
    log = write_log(tmp_path / "log.csv", [("u", "a", "1971-01-01"), ("u", "b", now.isoformat())])
    report = prepare_table(log, tmp_path / "out", k_core=0)["report"]
    assert (report["times_before_1971"], report["times_after_next_year"]) == (0, 0)
    assert caplog.text == ""


def test_an_edition_of_amazon_with_the_times_of_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("".join(f"{item},{user},5,{time}000\n" for user, item, time in rectangle()))
    meta = write_json_lines(tmp_path / "meta.json", metadata())
    with pytest.raises(
        DataFormatError, match=r"In milliseconds they would be plausible: is it of 2023\? \(prepare amazon"
    ):
        prepare_amazon("2018", ratings, meta, tmp_path / "out", attributes=["title"])
    assert nothing_written(tmp_path)


def test_atomic_files_have_the_flag_too(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    rows = "".join(f"{user}\t{item}\t{time}000\n" for user, item, time in rectangle())
    (tmp_path / "src/toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    with pytest.raises(DataFormatError, match=r"toy\.inter: 25 of 25 .*pass --time-unit milliseconds"):
        prepare_atomic(tmp_path / "src", tmp_path / "out")
    prepare_atomic(tmp_path / "src", tmp_path / "out", time_unit="milliseconds")
    assert sequence(tmp_path / "out") == ["i4", "i3", "i2", "i1", "i0"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01 00:00:00"),
        (-1, "1969-12-31 23:59:59"),
        (1_500_000_000_000, "the year 49,503"),
        (-1_500_000_000_000, "the year -45,564"),
        (1 << 60, "the year 36,534,630,048"),
    ],
)
def test_moments_as_text(seconds: int, text: str) -> None:
    assert moment_text(seconds) == text


def test_describe_shows_the_first_and_the_last_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_table(log_in(tmp_path / "log.csv", 1), tmp_path / "out")
    result = describe(tmp_path / "out")
    assert json.loads(json.dumps(result["times"])) == {"first": "2017-07-15 02:40:00", "last": "2017-07-19 02:40:00"}
    assert "2017-07-15 02:40:00 to 2017-07-19 02:40:00" in capsys.readouterr().out
    prepare_table(log_in(tmp_path / "log.csv", 1), tmp_path / "rank", order="rank")
    assert describe(tmp_path / "rank")["times"] is None


# -- forms ------------------------------------------------------------------------------------------------------------

MOMENTS = [datetime(2017, 12, 31, 14, 5), datetime(2018, 1, 2, 9, 30), datetime(2018, 11, 3, 0, 0)]
SECONDS = [1_514_729_100, 1_514_885_400, 1_541_203_200]


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        ("%d/%m/%Y %H:%M", ""),
        ("%m/%d/%Y %I:%M %p", ""),
        ("%Y%m%d%H%M", ""),  # digits alone, and yet no number of seconds
        ("%d %B %Y, %H:%M:%S", ""),
        ("%d.%m.%y %H:%M", " "),
    ],
)
def test_time_format(form: str, suffix: str, tmp_path: Path) -> None:
    rows = [("u", item, f'"{moment.strftime(form)}{suffix}"') for item, moment in zip("cab", MOMENTS, strict=True)]
    log = write_log(tmp_path / "log.csv", rows[::-1])
    prepare_table(log, tmp_path / "out", time_format=form, k_core=0)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert sequence(tmp_path / "out") == ["c", "a", "b"]
    assert np.asarray(dataset.timestamps).tolist() == SECONDS
    assert dataset.manifest.arguments["time_format"] == form


def test_time_format_with_a_zone(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", [("u", "a", "31/12/2017 14:05 +0200")])
    prepare_table(log, tmp_path / "out", time_format="%d/%m/%Y %H:%M %z", k_core=0)
    assert np.asarray(PreparedDataset.open(tmp_path / "out").timestamps).tolist() == [SECONDS[0] - 7200]


def test_time_format_of_integers_in_parquet(tmp_path: Path) -> None:
    table = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [20180102, 20171231]})
    pq.write_table(table, tmp_path / "log.parquet")
    prepare_table(tmp_path / "log.parquet", tmp_path / "out", time_format="%Y%m%d", k_core=0)
    assert sequence(tmp_path / "out") == ["b", "a"]


def test_a_time_in_another_form_names_the_flag(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", [("u", "a", "31/12/2017 14:05")])
    match = (
        r"data row 1: timestamp is '31/12/2017 14:05', expected a number or a date .* --time-format, such as '%d/%m/%Y"
    )
    with pytest.raises(DataFormatError, match=match):
        prepare_table(log, tmp_path / "out")
    with pytest.raises(
        DataFormatError, match=r"data row 1: timestamp is .*, expected a time in the format '%m/%d/%Y %H:%M'"
    ):
        prepare_table(log, tmp_path / "out", time_format="%m/%d/%Y %H:%M")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("%Q", "Unrecognized format"),
        ("%d/%", "Trailing format character"),
        ("dd/mm/yyyy", "it names no part of a date"),
    ],
)
def test_a_format_that_is_none(form: str, problem: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", [("u", "a", "31/12/2017 14:05")])
    with pytest.raises(SettingsError, match=rf"--time-format is '{form}': .*{problem}.*Python's strptime"):
        prepare_table(log, tmp_path / "out", time_format=form)
    assert nothing_written(tmp_path)


def test_a_format_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", [("u", "a", "1")])
    with pytest.raises(SettingsError, match="--time-format is not read with --order rank"):
        prepare_table(log, tmp_path / "out", order="rank", time_format="%Y")
    with pytest.raises(SettingsError, match="--time-unit is not read with --time-format"):
        prepare_table(log, tmp_path / "out", time_unit="milliseconds", time_format="%Y")
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [MOMENTS[0]]}), tmp_path / "log.parquet")
    with pytest.raises(
        SettingsError, match=r"--time-format is not read: the column 'timestamp' .* holds times, not text"
    ):
        prepare_table(tmp_path / "log.parquet", tmp_path / "out", time_format="%Y")
    assert nothing_written(tmp_path)
