"""Prepare append: a day's log into a folder, against a preparation of both days at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from raw_files import amazon_meta, write_log

import linguarec
from linguarec.commands.prepare import prepare_amazon, prepare_append, prepare_table
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.errors import DataFormatError, OutputError, SettingsError, StaleFeaturesError

Row = tuple[str, str, int]
DAY = 86_400


def two_days(seed: int = 0, number: int = 160) -> tuple[list[Row], list[Row]]:
    """Rows of two days with many equal times; the second day has new users and items."""
    rng = np.random.default_rng(seed)

    def rows(first: int, users: int, items: int) -> list[Row]:
        drawn = zip(
            rng.integers(users, size=number),
            rng.integers(items, size=number),
            rng.integers(6, size=number),
            strict=True,
        )
        return [(f"u{user}", f"i{item}", first + int(step)) for user, item, step in drawn]

    return rows(DAY * 19_000, 9, 12), rows(DAY * 19_001, 14, 18)


def catalogue(file: Path, numbers: range) -> Path:
    file.write_text("item_id,title,price\n" + "".join(f"i{k},Thing {k},{k}.5\n" for k in numbers))
    return file


def sequences(folder: Path) -> dict[str, list[tuple[str, int | None]]]:
    """Raw ids and times of every user."""
    dataset = PreparedDataset.open(folder)
    offsets, times, ids = dataset.sequences.offsets, dataset.timestamps, dataset.raw_item_ids
    found = {}
    for row, user in enumerate(dataset.raw_user_ids):
        places = range(offsets[row], offsets[row + 1])
        found[user] = [
            (ids[dataset.sequences.values[place]], None if times is None else int(times[place])) for place in places
        ]
    return found


@pytest.fixture
def days(tmp_path: Path) -> dict[str, Path]:
    first, second = two_days()
    return {
        "first": write_log(tmp_path / "first.csv", first),
        "second": write_log(tmp_path / "second.csv", second),
        "both": write_log(tmp_path / "both.csv", [*first, *second]),
        "items": catalogue(tmp_path / "items.csv", range(18)),
        "old": catalogue(tmp_path / "old.csv", range(12)),
    }


@pytest.mark.parametrize("duplicates", ["identical", "first", "keep"])
def test_two_days_are_one_log(tmp_path: Path, days: dict[str, Path], duplicates: Any) -> None:
    settings: dict[str, Any] = {"k_core": 0, "duplicates": duplicates}
    both = prepare_table(days["both"], tmp_path / "both", days["items"], **settings)
    prepare_table(days["first"], tmp_path / "data", days["old"], **settings)
    before = PreparedDataset.open(tmp_path / "data")
    ids, users = before.raw_item_ids, before.raw_user_ids
    result = prepare_append(tmp_path / "data", days["second"], days["items"])
    after = PreparedDataset.open(tmp_path / "data")
    assert sequences(tmp_path / "data") == sequences(tmp_path / "both")
    assert after.raw_item_ids[: len(ids)] == ids
    assert after.raw_user_ids[: len(users)] == users
    assert (result.users_added, result.items_added) == (5, 6)
    # New ids follow by first appearance, as in one log: the folders are equal in every byte of content.
    assert result.fingerprint == both.fingerprint
    for file in sorted((tmp_path / "both").glob("s*/*.npy")):
        assert file.read_bytes() == (tmp_path / "data" / file.relative_to(tmp_path / "both")).read_bytes(), file
    assert after.manifest.numbers == ["price"]
    assert after.manifest.report == before.manifest.report
    assert after.manifest.pieces[0]["report"]["rows_read"] == 160
    assert after.manifest.pieces[0]["interactions_added"] == result.interactions_added


def test_late_rows_are_merged_by_time(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["both"], tmp_path / "both", days["items"], k_core=0)
    prepare_table(days["second"], tmp_path / "data", days["items"], k_core=0)
    result = prepare_append(tmp_path / "data", days["first"])
    assert result.report["rows_before_the_folders_last"] == result.interactions_added > 100
    assert result.fingerprint != PreparedDataset.open(tmp_path / "both").fingerprint  # items are numbered otherwise
    assert sequences(tmp_path / "data") == sequences(tmp_path / "both")
    assert PreparedDataset.open(tmp_path / "data").manifest.attributes == ["title", "price"]


@pytest.mark.parametrize("order", ["rank", "file"])
def test_without_times_the_piece_follows(tmp_path: Path, days: dict[str, Path], order: Any) -> None:
    settings: dict[str, Any] = {"k_core": 0, "order": order, "duplicates": "keep"}
    both = prepare_table(days["both"], tmp_path / "both", **settings)
    prepare_table(days["first"], tmp_path / "data", **settings)
    assert prepare_append(tmp_path / "data", days["second"]).fingerprint == both.fingerprint
    # Ranks of the folder are not known: a late piece follows, too.
    prepare_table(days["second"], tmp_path / "late", **settings)
    prepare_append(tmp_path / "late", days["first"])
    one, other = sequences(tmp_path / "late"), sequences(tmp_path / "data")
    assert all(sorted(one[user]) == sorted(other[user]) for user in other)
    assert one["u0"] != other["u0"]


def test_random_ties_keep_the_order_of_the_folder(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", k_core=0, ties="random", seed=3)
    before = sequences(tmp_path / "data")
    prepare_append(tmp_path / "data", days["second"])
    after = sequences(tmp_path / "data")
    assert all(after[user][: len(before[user])] == before[user] for user in before)
    assert all([time for _, time in rows] == sorted(time for _, time in rows) for rows in after.values())


@pytest.mark.parametrize("which", ["log", "all"])
def test_those_who_enter_do_not_wait(tmp_path: Path, which: Literal["log", "all"]) -> None:
    old = ["i0", "i1", "i2"]
    log = write_log(tmp_path / "a.csv", [(user, item, DAY + k) for user in "abc" for k, item in enumerate(old)])
    prepare_table(log, tmp_path / "data", catalogue(tmp_path / "old.csv", range(3)), k_core=3, catalogue=which)
    piece = write_log(tmp_path / "b.csv", [("e", item, 2 * DAY + k) for k, item in enumerate([*old, "i9"])])
    result = prepare_append(tmp_path / "data", piece, catalogue(tmp_path / "new.csv", range(8, 11)))
    assert (result.users_added, result.items_added) == (1, 0 if which == "log" else 3)
    waiting = {key: result.report[f"{key}_waiting"] for key in ("rows", "users", "items")}
    assert waiting == {"rows": 1, "users": 0, "items": 1 if which == "log" else 0}
    # i9 waits, i8 and i10 are of no use to a folder of clicked items.
    assert result.report.get("catalogue_items_left_out") == (2 if which == "log" else None)


def test_users_and_items_below_the_core_wait(tmp_path: Path) -> None:
    def rows(users: list[str], items: list[str], day: int) -> list[Row]:
        return [(user, item, DAY * day + k) for user in users for k, item in enumerate(items)]

    old = ["i0", "i1", "i2"]
    log = write_log(tmp_path / "a.csv", rows(["a", "b", "c"], old, 19_000))
    prepare_table(log, tmp_path / "data", catalogue(tmp_path / "old.csv", range(3)), k_core=3)
    # d has two rows, and i7 one, of the three that they need.
    second = write_log(tmp_path / "b.csv", [*rows(["d"], ["i0", "i1"], 19_001), *rows(["a"], ["i2", "i7"], 19_001)])
    result = prepare_append(tmp_path / "data", second, catalogue(tmp_path / "new.csv", range(7, 8)))
    assert (result.users_added, result.items_added, result.interactions_added) == (0, 0, 1)
    assert {key: result.report[f"{key}_waiting"] for key in ("rows", "users", "items")} == {
        "rows": 3,
        "users": 1,
        "items": 1,
    }
    waiting = pq.read_table(tmp_path / "data/waiting/log.parquet").to_pylist()
    assert [(row["user"], row["item"]) for row in waiting] == [("d", "i0"), ("d", "i1"), ("a", "i7")]
    # They enter with what waited, and i7 with the text that the second piece brought.
    third = write_log(tmp_path / "c.csv", rows(["d", "b", "e"], ["i2", "i7"], 19_002))
    result = prepare_append(tmp_path / "data", third)
    assert (result.users_added, result.items_added, result.interactions_added) == (1, 1, 7)
    assert (result.report["rows_of_earlier_pieces_taken_in"], result.report["rows_waiting"]) == (3, 2)
    dataset = PreparedDataset.open(tmp_path / "data")
    assert dataset.texts[dataset.item_row["i7"]] == "Thing 7. 7.5."
    assert [item for item, _ in sequences(tmp_path / "data")["d"]] == ["i0", "i1", "i2", "i7"]
    assert [piece["interactions"] for piece in dataset.manifest.pieces] == ["b.csv", "c.csv"]
    everything = write_log(
        tmp_path / "all.csv", [*rows(["a", "b", "c"], old, 19_000), *_rows_of(second), *_rows_of(third)]
    )
    prepare_table(everything, tmp_path / "all", catalogue(tmp_path / "every.csv", range(8)), k_core=3)
    assert sequences(tmp_path / "all") == sequences(tmp_path / "data")


def _rows_of(file: Path) -> list[list[str]]:
    return [line.split(",") for line in file.read_text().splitlines()[1:]]


def test_the_same_piece_twice_is_refused(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", days["items"], k_core=0)
    prepare_append(tmp_path / "data", days["second"], days["items"])
    content = {file: file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()}
    other_name = tmp_path / "other.csv"
    other_name.write_bytes(days["second"].read_bytes())
    with pytest.raises(SettingsError, match=r"other\.csv was appended to .*data already, as piece 1 \(second\.csv\)"):
        prepare_append(tmp_path / "data", other_name, days["items"])
    with pytest.raises(DataFormatError, match=r"nothing to append: of the 160 rows read, .* are in the folder already"):
        prepare_append(tmp_path / "data", days["first"], days["items"])
    assert {file: file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()} == content


def test_overlapping_pieces_count_once(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["both"], tmp_path / "both", k_core=0)
    prepare_table(days["first"], tmp_path / "data", k_core=0)
    result = prepare_append(tmp_path / "data", days["both"])
    assert (
        result.report["rows_already_in_the_folder"]
        == 320 - result.report["duplicate_rows"] - result.interactions_added
        > 0
    )
    assert result.fingerprint == PreparedDataset.open(tmp_path / "both").fingerprint


def test_all_of_the_catalogue_and_amazon(tmp_path: Path) -> None:
    def ratings(name: str, days: range) -> Path:
        file = tmp_path / name
        file.write_text("".join(f"i{k % 5},A{k % 3},{k % 5}.0,{DAY * day}\n" for day in days for k in range(15)))
        return file

    meta = amazon_meta(tmp_path / "meta.json.gz", "asin", "brand", "category")
    for name, days in (("data", range(17_000, 17_002)), ("both", range(17_000, 17_003))):
        prepare_amazon("2018", ratings(f"{name}.csv", days), meta, tmp_path / name, k_core=0, catalogue="all")
    with pytest.raises(SettingsError, match="--items is missing: the metadata"):
        prepare_append(tmp_path / "data", ratings("day.csv", range(17_002, 17_003)))
    result = prepare_append(tmp_path / "data", ratings("day.csv", range(17_002, 17_003)), meta)
    assert (result.items_added, result.interactions_added) == (0, 15)
    assert result.fingerprint == PreparedDataset.open(tmp_path / "both").fingerprint


def test_tables_in_memory_and_other_attributes(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", days["old"], k_core=0)
    rows = [{"user_id": "u0", "item_id": "i50", "timestamp": DAY * 19_005}]
    with pytest.raises(
        SettingsError, match=r"has the attributes 'title', but .*data has 'title', 'price'; give the new items"
    ):
        prepare_append(tmp_path / "data", rows, [{"item_id": "i50", "title": "New"}])
    linguarec.prepare_append(tmp_path / "data", rows, [{"item_id": "i50", "title": "New", "price": 3}])
    dataset = PreparedDataset.open(tmp_path / "data")
    assert dataset.texts[dataset.item_row["i50"]] == "New. 3."


def test_vectors_stay_and_lack_the_new_items(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", days["old"], k_core=0)
    dataset = PreparedDataset.open(tmp_path / "data")
    vectors = np.arange(2 * dataset.num_items, dtype=np.float32).reshape(-1, 2)
    info = FeatureInfo("enc", 2, "mean", "0" * 64, dataset.texts_fingerprint, "default")
    dataset.write_features("enc", vectors, info)
    result = prepare_append(tmp_path / "data", days["second"], days["items"])
    assert result.incomplete == ["enc"]
    dataset = PreparedDataset.open(tmp_path / "data")
    with pytest.raises(
        StaleFeaturesError, match=r"enc\.npy lacks 6 items that were appended .* `linguarec encode .* --encoder enc`"
    ):
        dataset.features("enc")
    so_far = dataset.vectors_so_far("enc")
    assert so_far is not None
    assert so_far.tolist() == vectors.tolist()


def test_encode_adds_the_new_items_only(tmp_path: Path, days: dict[str, Path]) -> None:
    from linguarec.commands.encode import encode

    prepare_table(days["first"], tmp_path / "data", days["old"], k_core=0)
    encode(tmp_path / "data", precision="fp32")
    name = "all-MiniLM-L6-v2"
    before = PreparedDataset.open(tmp_path / "data").features(name).tolist()
    prepare_append(tmp_path / "data", days["second"], days["items"])
    with pytest.raises(OutputError, match="all but the last 6 items, which cannot be added with token limit"):
        encode(tmp_path / "data", precision="fp32", max_tokens=8)
    result = encode(tmp_path / "data", precision="fp32")
    assert (result.items_, result.kept_items, result.distinct_texts) == (18, 12, 6)
    vectors = np.array(PreparedDataset.open(tmp_path / "data").features(name))
    assert vectors[:12].tolist() == before
    encode(tmp_path / "data", precision="fp32", overwrite=True)
    np.testing.assert_allclose(vectors, PreparedDataset.open(tmp_path / "data").features(name), atol=1e-5)


def test_codes_are_thrown_away_only_when_asked(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", days["old"], k_core=0)
    (tmp_path / "data/codes").mkdir()
    (tmp_path / "data/codes/opq.npz").write_bytes(b"")
    with pytest.raises(OutputError, match=r"would lack the new ones: 'codes/opq'\. Pass --discard"):
        prepare_append(tmp_path / "data", days["second"], days["items"])
    prepare_append(tmp_path / "data", days["second"], days["items"], discard=True)
    assert not (tmp_path / "data/codes").exists()


def test_other_folders_are_refused(tmp_path: Path, days: dict[str, Path]) -> None:
    with pytest.raises(DataFormatError, match="is not a prepared dataset folder"):
        prepare_append(tmp_path / "none", days["second"])
    prepare_table(days["first"], tmp_path / "data", k_core=0)
    with pytest.raises(SettingsError, match=r"--items is a catalogue, but .* was made without one"):
        prepare_append(tmp_path / "data", days["second"], days["items"])


def test_a_manifest_that_does_not_say_how_is_refused(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", k_core=0)
    (tmp_path / "data/files.json").unlink()
    file = tmp_path / "data/manifest.json"
    manifest = json.loads(file.read_text())
    for arguments, said in (
        ({"ties": "hash"}, "ties is 'hash', expected one of"),
        ({"order": ...}, "order is missing"),
    ):
        changed = {key: value for key, value in {**manifest["arguments"], **arguments}.items() if value is not ...}
        file.write_text(json.dumps({**manifest, "arguments": changed}))
        with pytest.raises(DataFormatError, match=rf"the arguments that the folder was made with, {said}"):
            prepare_append(tmp_path / "data", days["second"])


def test_a_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, days: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new folder is written beside: an error just before the exchange leaves nothing."""
    from linguarec.data import folder

    prepare_table(days["first"], tmp_path / "data", k_core=0)
    content = {file: file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()}

    def fails(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(folder, "write_splits", fails)
    with pytest.raises(OutputError, match="no space left"):
        prepare_append(tmp_path / "data", days["second"])
    assert {file: file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()} == content
    assert not list(tmp_path.glob(".*partial"))


KILLED = """
import os, signal, sys
from linguarec.commands.prepare import prepare_append
from linguarec.data import folder
folder.write_splits = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
prepare_append(sys.argv[1], sys.argv[2])
"""


def test_a_kill_leaves_the_folder_as_it_was(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", k_core=0)
    before = PreparedDataset.open(tmp_path / "data").fingerprint
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "data", days["second"]], check=False)
    assert killed.returncode == -9
    assert list(tmp_path.glob(".*partial"))
    assert PreparedDataset.open(tmp_path / "data").fingerprint == before
    assert prepare_append(tmp_path / "data", days["second"]).pieces == 1
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("second", [1_600_000_000, -1_600_000_000])
def test_rows_with_fractions_of_a_second_count_once(tmp_path: Path, second: int) -> None:
    """The folder holds whole seconds, before 1970 too; the rows that wait hold microseconds."""
    fractions = [("u1", "i1", f"{second}.9"), ("u1", "i2", f"{second + 1}.5"), ("u2", "i1", f"{second}.1")]
    prepare_table(write_log(tmp_path / "a.csv", fractions), tmp_path / "data", k_core=0)
    result = prepare_append(
        tmp_path / "data", write_log(tmp_path / "b.csv", [*fractions[:2], ("u2", "i2", f"{second + 7}.9")])
    )
    assert (result.report["rows_already_in_the_folder"], result.interactions_added) == (2, 1)


def test_rows_that_wait_are_told_by_their_exact_time(tmp_path: Path) -> None:
    log = [(user, item, str(1_600_000_000 + k)) for user in ("a", "b") for k, item in enumerate(("i0", "i1"))]
    prepare_table(write_log(tmp_path / "a.csv", log), tmp_path / "data", k_core=2)
    waits = ("c", "i0", "1600000100.25")
    prepare_append(tmp_path / "data", write_log(tmp_path / "b.csv", [waits]))
    # The same row again is dropped; another within the same second lets the user in.
    result = prepare_append(
        tmp_path / "data",
        write_log(tmp_path / "c.csv", [waits, ("c", "i0", "1600000100.75"), ("a", "i1", "1700000000")]),
    )
    assert (result.report["rows_already_in_the_folder"], result.users_added, result.interactions_added) == (1, 1, 3)


def test_rows_that_waited_enter_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    """Behind the user's history, whose ranks are not known; those of one piece by rank, those of an older piece first."""
    both = [(user, item, rank) for user in ("u1", "u2") for rank, item in ((10, "i1"), (20, "i2"))]
    prepare_table(write_log(tmp_path / "a.csv", both), tmp_path / "data", k_core=2, order="rank")
    for name, piece in {
        "b": [("u1", "i4", 7), ("u1", "i3", 5)],
        "c": [("u1", "i5", 1)],
        "d": [("u2", item, k) for k, item in enumerate(("i5", "i4", "i3"))],
    }.items():
        prepare_append(tmp_path / "data", write_log(tmp_path / f"{name}.csv", piece))
    found = {user: [item for item, _ in rows] for user, rows in sequences(tmp_path / "data").items()}
    assert found == {"u1": ["i1", "i2", "i3", "i4", "i5"], "u2": ["i1", "i2", "i5", "i4", "i3"]}


def test_rows_that_waited_are_shuffled_where_ties_are(tmp_path: Path) -> None:
    """They enter in the order that they would have had without waiting."""

    def day(user: str) -> list[Row]:
        return [(user, f"j{k}", 1_600_000_000) for k in range(9)]

    log = write_log(tmp_path / "a.csv", [(user, item, 1_500_000_000) for user in "ab" for item in ("i0", "i1")])
    for name, k_core in (("waits", 2), ("at once", 0)):
        prepare_table(log, tmp_path / name, k_core=k_core, ties="random", seed=3)
        for user in "ab":
            prepare_append(tmp_path / name, write_log(tmp_path / f"day-{user}.csv", day(user)))
    assert sequences(tmp_path / "waits") == sequences(tmp_path / "at once")
    order = [item for item, _ in sequences(tmp_path / "waits")["a"]][2:]
    assert order != sorted(order)


def test_item_ids_with_point_zero_are_those_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n1,One\n2,Two\n3,Three\n")
    log = write_log(tmp_path / "a.csv", [("u", "1", 1_600_000_000), ("u", "2", 1_600_000_001)])
    prepare_table(log, tmp_path / "data", items, k_core=0)
    result = prepare_append(
        tmp_path / "data", write_log(tmp_path / "b.csv", [("u", "1.0", 1_600_000_002), ("u", "3.0", 1_600_000_003)])
    )
    assert result.report["item_ids_read_as_integers"] == 2
    assert PreparedDataset.open(tmp_path / "data").raw_item_ids == ["1", "2", "3"]
    # The catalogue of the piece, in the form of its log, is read alike.
    floats = tmp_path / "floats.csv"
    floats.write_text("item_id,title\n4.0,Four\n")
    prepare_append(tmp_path / "data", write_log(tmp_path / "c.csv", [("u", "4.0", 1_600_000_004)]), floats)
    dataset = PreparedDataset.open(tmp_path / "data")
    assert dataset.texts[dataset.item_row["4"]] == "Four."
    assert "none of its" not in caplog.text.partition("c.csv")[0]
    prepare_append(tmp_path / "data", write_log(tmp_path / "d.csv", [("u", "01", 1_600_000_005)]))
    assert "d.csv: none of its 1 items (such as '01') is in" in caplog.text
    assert "1 of the 1 would match, but one of the files lacks leading zeros" in caplog.text


def test_the_folders_own_log_is_warned_of_where_it_counts_twice(
    tmp_path: Path, days: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    prepare_table(days["first"], tmp_path / "data", k_core=0, duplicates="keep")
    prepare_append(tmp_path / "data", days["second"])
    assert "count twice" not in caplog.text
    prepare_append(tmp_path / "data", write_log(tmp_path / "again.csv", [*two_days()[0], *two_days()[1]]))
    assert "320 of the 320 interactions of the folder are in the piece" in caplog.text


def test_pieces_of_a_catalogue_alone(tmp_path: Path, days: dict[str, Path]) -> None:
    prepare_table(days["first"], tmp_path / "data", days["old"], k_core=0, catalogue="all")
    empty = write_log(tmp_path / "empty.csv", [])
    for number in (13, 14):
        result = prepare_append(tmp_path / "data", empty, catalogue(tmp_path / "more.csv", range(number)))
        assert (result.items_added, result.interactions_added) == (1, 0)
    with pytest.raises(SettingsError, match="was appended to"):
        prepare_append(tmp_path / "data", empty, catalogue(tmp_path / "more.csv", range(14)))
    with pytest.raises(DataFormatError, match="nothing to append"):
        prepare_append(tmp_path / "data", empty, catalogue(tmp_path / "more.csv", range(5)))


def test_a_folder_half_exchanged_is_found(tmp_path: Path, days: dict[str, Path]) -> None:
    """A process that is killed between the two renames leaves the old folder under another name."""
    prepare_table(days["first"], tmp_path / "data", k_core=0)
    (tmp_path / "data").rename(tmp_path / ".data.old")
    assert prepare_append(tmp_path / "data", days["second"]).pieces == 1


def test_numbers_that_become_text_are_told(
    tmp_path: Path, days: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    prepare_table(days["first"], tmp_path / "data", days["old"], k_core=0)
    row = {"user_id": "u0", "item_id": "i50", "timestamp": DAY * 19_005}
    prepare_append(tmp_path / "data", [row], [{"item_id": "i50", "title": "New", "price": "$5"}])
    assert PreparedDataset.open(tmp_path / "data").manifest.numbers == []
    assert "'price': no numbers any more but text" in caplog.text


def test_new_items_without_text_are_warned_of(
    tmp_path: Path, days: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for name, items in (("with", days["items"]), ("without", None)):
        prepare_table(days["first"], tmp_path / name, days["old"], k_core=0)
        caplog.clear()
        found = prepare_append(tmp_path / name, days["second"], items=items)
        textless = found.report.get("items_without_text", 0)
        warned = [record.getMessage() for record in caplog.records if "have no text" in record.getMessage()]
        assert bool(warned) == (items is None) == (textless > 0)
    assert warned[0].startswith(f"{textless} of the {found.items_added} new items have no text")
