"""The catalogue of a run: snapshots, ids, texts on demand."""

import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linguarec import stored_items
from linguarec.catalogue import Catalogue
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError, UnknownItemError
from linguarec.stored_items import StoredItems

NUM_ITEMS = 100


def items(count=NUM_ITEMS):
    return pa.table(
        {
            "raw_id": [f"i{row}" for row in range(count)],
            "title": [None if row % 10 == 3 else f"Title {row}" for row in range(count)],
            "text": [f"Title {row}. " + "word " * 30 for row in range(count)],
        }
    )


def catalogue(count=NUM_ITEMS):
    return Catalogue.of(items(count), ["title"], "default")


@pytest.fixture(params=["memory", "file"])
def opened(request, tmp_path, monkeypatch):
    """The same catalogue in memory, and read from a file of several groups of rows."""
    if request.param == "memory":
        return catalogue()
    monkeypatch.setattr("linguarec.catalogue.ROWS_A_GROUP", 7)
    catalogue().save(tmp_path / "catalogue.parquet")
    assert pq.ParquetFile(tmp_path / "catalogue.parquet").num_row_groups == 15
    return Catalogue.load(tmp_path / "catalogue.parquet")


def added(before, *raw_ids):
    return before.with_added(before.new_entries([{"raw_id": raw_id, "title": f"New {raw_id}"} for raw_id in raw_ids]))


def test_entries_are_read_from_memory_and_from_a_file(opened):
    assert len(opened) == NUM_ITEMS and opened.attributes == ["title"] and opened.text_rules == "default"
    assert opened.raw_ids == [f"i{row}" for row in range(NUM_ITEMS)] and opened.raw_ids[-2:] == ["i98", "i99"]
    assert [opened.raw_id(row) for row in (0, 6, 7, 99)] == ["i0", "i6", "i7", "i99"]
    assert [opened.title(row) for row in (0, 13, 98)] == ["Title 0", ("Title 13. " + "word " * 30)[:80], "Title 98"]
    assert opened.text(50) == "Title 50. " + "word " * 30
    assert opened.find(["i50", "nothing", "i0", "i99"]).tolist() == [50, -1, 0, 99]
    assert opened.position["i42"] == 42 and "i42" in opened.position and "i142" not in opened.position
    assert opened.table.equals(catalogue().table)
    with pytest.raises(IndexError):
        opened.title(NUM_ITEMS)


def test_added_and_removed_items(opened):
    more = added(opened, "n1", "n2").with_removed(["i3", "n1"])
    assert (len(more), more.find(["n1", "n2", "i3"]).tolist()) == (102, [100, 101, 3])
    assert np.flatnonzero(more.removed).tolist() == [3, 100]
    assert (more.title(101), more.text(101), more.raw_ids[101]) == ("New n2", "New n2.", "n2")
    assert more.table["removed"].to_pylist() == more.removed.tolist()
    assert more.table["row"].to_pylist() == [*range(NUM_ITEMS), -1, -1]
    assert (len(opened), opened.removed.any(), opened.find(["n1"]).tolist()) == (NUM_ITEMS, False, [-1])
    assert repr(more) == "Catalogue(102 items, 2 of them removed)"


def test_columns_of_many_entries(opened):
    more = added(opened, "n1", "n2")
    rows = np.array([101, 13, 0, 100, 13, 98])
    assert more.values("raw_id", rows) == ["n2", "i13", "i0", "n1", "i13", "i98"]
    assert more.titles(rows) == [more.title(row) for row in rows.tolist()]
    assert more.values("text", rows) == [more.text(row) for row in rows.tolist()]
    many = np.tile(rows, 8)
    assert more.values("raw_id", many) == more.values("raw_id", rows) * 8
    assert opened.titles(np.arange(NUM_ITEMS)) == [opened.title(row) for row in range(NUM_ITEMS)]
    assert more.titles(rows[:0]) == []
    for outside in (-1, 102):
        with pytest.raises(IndexError, match="there are 102"):
            more.values("text", np.array([3, outside]))


def test_an_id_that_was_removed_and_added_again_has_two_entries_of_which_the_later_counts(opened, tmp_path):
    again = added(added(opened.with_removed(["i3"]), "n", "i3").with_removed(["i3"]), "i3")
    assert again.find(["i3"]).tolist() == [102] and again.rows([["i3"]])[0].values.tolist() == [102]
    assert np.flatnonzero(again.removed).tolist() == [3, 101]
    again.save(tmp_path / "again.parquet")
    stored = Catalogue.load(tmp_path / "again.parquet")
    assert stored.find(["i3", "n"]).tolist() == [102, 100]
    assert stored.table.equals(again.table) and stored.removed.tolist() == again.removed.tolist()
    assert added(stored.with_removed(["i3"]), "i3").find(["i3"]).tolist() == [103]
    with pytest.raises(DataFormatError, match="'i3' is already in the catalogue"):
        added(again, "i3")


def test_two_that_go_on_from_the_same_catalogue_do_not_disturb_each_other(opened):
    first = added(opened, "a")
    left, right = added(first, "b"), added(first, "c", "b")
    assert [len(each) for each in (first, left, right)] == [101, 102, 103]
    assert [each.find(["a", "b", "c"]).tolist() for each in (first, left, right)] == [
        [100, -1, -1],
        [100, 101, -1],
        [100, 102, 101],
    ]
    assert (left.title(101), right.title(101)) == ("New b", "New c")


def test_more_new_items_than_there_are(opened):
    names = [f"n{number}" for number in range(NUM_ITEMS + 5)]
    more = added(opened.with_removed(["i1"]), *names)
    assert more.raw_ids == [*opened.raw_ids, *names] and np.flatnonzero(more.removed).tolist() == [1]
    assert more.find(["n104", "i1"]).tolist() == [204, 1]


def test_a_file_that_is_replaced_does_not_change_an_opened_catalogue(tmp_path):
    file = tmp_path / "catalogue.parquet"
    catalogue().save(file)
    before = Catalogue.load(file)
    catalogue(5).save(file)
    assert before.text(99).startswith("Title 99.") and len(Catalogue.load(file)) == 5


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "catalogue.parquet"
    with pytest.raises(CheckpointMismatchError, match=r"catalogue\.parquet is missing\. Copy the folder again"):
        Catalogue.load(file)
    file.touch()
    with pytest.raises(CheckpointMismatchError, match=r"catalogue\.parquet is empty"):
        Catalogue.load(file)
    catalogue().save(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CheckpointMismatchError, match=r"catalogue\.parquet is cut short, or not a Parquet file"):
        Catalogue.load(file)
    pq.write_table(items(), file)
    with pytest.raises(CheckpointMismatchError, match=r"has no column 'row', 'removed'"):
        Catalogue.load(file)


def test_ids_may_be_numbers():
    numbered = Catalogue.of(pa.table({"raw_id": ["10", "20", "30"], "text": ["a", "b", "c"]}), [], "default")
    found, unknown = numbered.rows([[10, np.int32(30)], np.array(["20", "10"]), np.array([20]), ("30", np.str_("20"))])
    assert [found[row].tolist() for row in range(4)] == [[0, 2], [1, 0], [1], [2, 1]] and unknown == []
    assert found.values.dtype == np.int32


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (["i1"], "history 1 is the string 'i1'; expected a list of item ids"),
        ([3], "history 1 is '3', a int; expected a list of item ids"),
        ([["i1"], None], "history 2 is 'None', a NoneType"),
        ([{"i1": 1}], "history 1 is .*, a dict"),
        ([["i1", 1.5]], "history 1 holds '1.5', a float; item ids are text, or whole numbers"),
        ([["i1", True]], "history 1 holds 'True', a bool"),
        ([["i1", None]], "history 1 holds 'None', a NoneType"),
        ([["i1"], [["i2"]]], "history 2 holds .*, a list"),
        ([["i1"], []], "history 2 is empty"),
    ],
)
def test_what_is_no_history_is_refused(histories, message):
    with pytest.raises(SettingsError, match=message):
        catalogue().rows(histories)


def test_unknown_ids_are_named_or_skipped():
    whole = catalogue()
    with pytest.raises(UnknownItemError, match=r"catalogue of 100 items: 'i77x' \(near: i77.*\), 'zzz'\. Correct"):
        whole.rows([["i1", "i77x"], ["zzz"]])
    found, unknown = whole.rows([["x", "i1", "x", "i2"], ["i3", "y"]], skip_unknown=True)
    assert [found[0].tolist(), found[1].tolist(), unknown] == [[1, 2], [3], ["x", "y"]]
    with pytest.raises(UnknownItemError, match="History 2 has no known item: none of its 2"):
        whole.rows([["i1"], ["x", "y"]], skip_unknown=True)


def test_ids_that_were_read_as_numbers_with_a_fraction():
    numbered = Catalogue.of(pa.table({"raw_id": ["10", "20"], "text": ["a", "b"]}), [], "default")
    with pytest.raises(UnknownItemError, match=r"'20' is in it: the ids were read as floating-point numbers"):
        numbered.rows([["20.0"]])
    fractions = Catalogue.of(pa.table({"raw_id": ["10.0", "20.0"], "text": ["a", "b"]}), [], "default")
    with pytest.raises(UnknownItemError, match=r"'10\.0' is in it: the ids were read as floating-point numbers"):
        fractions.rows([[10]])


def test_ids_with_the_same_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(stored_items, "hash", lambda raw_id: len(raw_id), raising=False)
    stored = StoredItems(pa.table({"raw_id": ["a", "b", "aa", "a", "c"]}))
    assert stored.find(["a", "b", "c", "d", "aa", "bb", "aaa"]).tolist() == [3, 1, 4, -1, 2, -1, -1]


def test_near_ids_of_a_large_catalogue_begin_alike(monkeypatch):
    monkeypatch.setattr("linguarec.catalogue._COMPARABLE_IDS", 10)
    with pytest.raises(UnknownItemError, match=r"'i99x' \(near: i99, i99y\)"):
        added(catalogue(), "i99y").rows([["i99x"]])


def test_eight_threads_look_up_while_one_adds_and_removes_1000_items(tmp_path, monkeypatch):
    monkeypatch.setattr("linguarec.catalogue.ROWS_A_GROUP", 7)
    catalogue().save(tmp_path / "catalogue.parquet")
    current = [Catalogue.load(tmp_path / "catalogue.parquet")]
    stop, failures, answers = threading.Event(), [], [0] * 8

    def read(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            while not stop.is_set() or answers[number] < 5:
                now = current[0]
                count = len(now)
                entries = rng.integers(0, count, 5).tolist()
                raw_ids = [now.raw_id(entry) for entry in entries]
                assert now.find([*raw_ids, f"n{count - NUM_ITEMS}"]).tolist() == [*entries, -1]
                assert [now.text(entry).split(".")[0] for entry in entries] == [
                    f"Title {entry}" if entry < NUM_ITEMS else f"New n{entry - NUM_ITEMS}" for entry in entries
                ]
                assert len(now.removed) == count and now.removed.sum() in (count - NUM_ITEMS, count - NUM_ITEMS - 1)
                answers[number] += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, the test must say so
            failures.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(1_000):
        current[0] = added(current[0], f"n{number}")
        current[0] = current[0].with_removed([current[0].raw_id(number)])
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == [] and min(answers) >= 5 and current[0].removed.sum() == 1_000
