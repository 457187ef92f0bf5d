"""Prepare: logs of Amazon, Online Retail and RecBole, and the counts of the real data."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import RETAIL_HEADER, amazon_meta, every_pair, nothing_written

from linguarec.commands.prepare import (
    prepare_amazon,
    prepare_atomic,
    prepare_online_retail,
    prepare_table,
)
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, SettingsError

# -- Amazon ---------------------------------------------------------------------------------------------------------


def test_amazon_2018_ratings_and_metadata(tmp_path: Path) -> None:
    rows = [(item, user, 5.0, 86400 * (1 + time % 10)) for user, item, time in every_pair()]
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("".join(f"{i},{u},{r},{t}\n" for i, u, r, t in [*rows, rows[0], ("i8", "u0", 5.0, 9)]))
    meta = amazon_meta(tmp_path / "meta.json.gz", "asin", "brand", "category")
    result = prepare_amazon("2018", ratings, meta, tmp_path / "out")
    assert (result["users"], result["items"], result["interactions"]) == (5, 5, 25)
    assert result["report"]["duplicate_rows"] == 1
    assert result["report"]["rows_of_items_without_metadata"] == 1
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.texts[0] == "Thing 0. Home A & B. Acme."
    assert dataset.items(["categories"])["categories"][0].as_py() == "Home > A &amp; B"
    prepare_amazon("2018", ratings, meta, tmp_path / "released", text_rules="released", attributes=["brand", "title"])
    assert PreparedDataset.open(tmp_path / "released").texts[0] == "Acme. Thing 0. "


def test_amazon_2023_reviews_in_milliseconds(tmp_path: Path) -> None:
    reviews = tmp_path / "reviews.jsonl.gz"
    with gzip.open(reviews, "wt") as lines:
        for user, item, time in every_pair():
            record = {"user_id": user, "parent_asin": item, "asin": item, "rating": 4.0, "timestamp": 10**12 + time}
            lines.write(json.dumps({**record, "title": "t", "text": "x", "images": []}) + "\n")
    meta = amazon_meta(tmp_path / "meta.jsonl.gz", "parent_asin", "store", "categories")
    prepare_amazon("2023", reviews, meta, tmp_path / "out")
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.sequences[0].tolist() == [4, 3, 2, 1, 0]  # one second holds them all, milliseconds tell them apart
    assert dataset.timestamps is not None
    assert set(dataset.timestamps[:5].tolist()) == {10**9}
    assert dataset.texts[0] == "Thing 0. Home A & B. Acme."


def test_amazon_bad_lines(tmp_path: Path) -> None:
    meta = amazon_meta(tmp_path / "meta.json.gz", "asin", "brand", "category")
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("i0,u0,5.0,1\ni0,u1,five,2\n")
    with pytest.raises(DataFormatError, match="data row 2: the rating is 'five'"):
        prepare_amazon("2018", ratings, meta, tmp_path / "out")
    broken = tmp_path / "reviews.json"
    broken.write_text('{"reviewerID": "u", "asin": "i", "overall": 5, "unixReviewTime": 1}\n{"reviewerID": \n')
    match = r"reviews\.json, near line 2: no JSON \(.* at byte \d+\); expected one object a line. Mend the line"
    with pytest.raises(DataFormatError, match=match):
        prepare_amazon("2018", broken, meta, tmp_path / "out")
    ratings.write_text("i0,u0,5.0,1\n")
    with pytest.raises(DataFormatError, match="lacks the key 'asin'"):
        prepare_amazon(
            "2018", ratings, amazon_meta(tmp_path / "m.json.gz", "id", "brand", "category"), tmp_path / "out"
        )
    with pytest.raises(SettingsError, match="attribute 'colour' is not known"):
        prepare_amazon("2018", ratings, meta, tmp_path / "out", attributes=["title", "colour"])
    assert nothing_written(tmp_path)


# -- Online Retail and atomic files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["2010-12-01 08:26:00", "12/01/2010 08:26", "12/1/2010 8:26"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_online_retail_reads_both_dates(tmp_path: Path, moment: str, suffix: str) -> None:
    rows = [f"{i},S{s},Red  mug {s},1,{moment},1,,UK\n" for i in range(5) for s in range(5)]
    file = tmp_path / f"retail.csv{suffix}"
    content = ("\ufeff" + RETAIL_HEADER + "".join([*rows, rows[0], f"1,S9,,1,{moment},1,,UK\n"])).encode()
    file.write_bytes(gzip.compress(content) if suffix else content)
    result = prepare_online_retail(file, tmp_path / "out")
    assert (result["users"], result["items"], result["interactions"]) == (5, 5, 25)
    assert (result["report"]["duplicate_rows"], result["report"]["rows_without_description"]) == (1, 1)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.texts[0] == "Red mug 0."
    assert dataset.timestamps is not None
    assert set(dataset.timestamps.tolist()) == {1291191960}


def test_atomic_files(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    inter, item = tmp_path / "src/toy.inter", tmp_path / "src/toy.item"
    inter.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "u\tb\t2.0\nu\ta\t1e0\nv\ta\t3\n")
    item.write_text('item_id:token\ttitle:token_seq\na\tA "x\nb\tB\n')
    prepare_atomic(tmp_path / "src", tmp_path / "out")
    dataset = PreparedDataset.open(tmp_path / "out")
    assert [dataset.raw_item_ids[row] for row in dataset.sequences[0]] == ["a", "b"]
    assert dataset.texts[dataset.item_row["a"]] == "A x."


@pytest.mark.parametrize(("duplicates", "kept"), [("identical", "abab"), ("keep", "abab"), ("first", "ab")])
def test_atomic_files_without_times_keep_repeat_visits(
    tmp_path: Path, duplicates: Any, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/toy.inter").write_text("user_id:token\titem_id:token\n" + "u\ta\nu\tb\nu\ta\nu\tb\n")
    report = prepare_atomic(tmp_path / "src", tmp_path / "out", duplicates=duplicates)["report"]
    dataset = PreparedDataset.open(tmp_path / "out")
    assert "".join(dataset.raw_item_ids[row] for row in dataset.sequences[0]) == kept
    assert dataset.manifest.arguments["duplicates"] == ("first" if duplicates == "first" else "keep")
    assert report.get("repeated_rows_kept") == (None if duplicates == "first" else 2)
    assert ("toy.inter is read without times" in caplog.text) == (duplicates == "identical")


@pytest.mark.parametrize("k_core", [-3, 0])
def test_benchmark_files_check_their_settings_too(tmp_path: Path, k_core: int) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/toy.train.inter").touch()
    with pytest.raises(SettingsError, match=r"--held-out-share is 1\.5"):
        prepare_atomic(tmp_path / "src", tmp_path / "out", k_core=k_core, held_out_share=1.5)


# -- real data ------------------------------------------------------------------------------------------------------


def test_scientific_keeps_the_released_numbers(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/scientific"
    result = prepare_atomic(source, tmp_path / "out")
    assert (result["users"], result["items"], result["interactions"]) == (8442, 4385, 59427)
    dataset = PreparedDataset.open(tmp_path / "out")
    with (source / "Scientific.item2index").open() as lines:
        assert all(dataset.item_row[raw] == int(row) for raw, row in (line.split("\t") for line in lines))
    training = np.unique(dataset.sequences.values[dataset.roles() == 0])
    assert len(training) == 4373
    cold = [1397, 1407, 2567, 2635, 2752, 2966, 3088, 3528, 3575, 3961, 4156, 4250]
    assert sorted(set(range(4385)) - set(training.tolist())) == cold
    vectors = np.fromfile(source / "Scientific.feat1CLS", np.float32).reshape(4385, 768)
    np.testing.assert_array_equal(dataset.features("feat1CLS"), vectors)
    assert dataset.sequences.lengths.max() == 80


def test_benchmark_rows_that_do_not_fit_together(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "data/scientific", tmp_path / "src", copy_function=shutil.copyfile)
    file = tmp_path / "src/Scientific.test.inter"
    (tmp_path / "src").chmod(0o755)
    file.write_text(file.read_text().replace("\n3\t32 33 34 35 36\t37\n", "\n3\t32 33 34 35 99\t37\n"))
    with pytest.raises(DataFormatError, match=r"rows of user 3 \('ALJASEU1U1H8B'\) are not pieces of one sequence"):
        prepare_atomic(tmp_path / "src", tmp_path / "out")
    assert nothing_written(tmp_path)


@pytest.mark.slow
def test_online_retail_counts(shared: Path, tmp_path: Path) -> None:
    log = shared / "data/online_retail/online_retail.csv.xz"
    results = [prepare_online_retail(log, tmp_path / ties, ties=ties) for ties in ("random", "file")]  # type: ignore[arg-type]
    for result in results:
        assert (result["users"], result["items"], result["interactions"]) == (16520, 3469, 519906)
    assert results[0]["fingerprint"] != results[1]["fingerprint"]


def test_gift_cards_counts(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/amazon18_giftcards_raw"
    reviews, meta = folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz"
    result = prepare_amazon("2018", reviews, meta, tmp_path / "out", k_core=0)
    assert (result["users"], result["items"], result["interactions"]) == (458, 148, 2972)
    # The published "5-core" is not one; the fixed point is a little smaller.
    result = prepare_amazon("2018", reviews, meta, tmp_path / "core")
    assert (result["users"], result["items"], result["interactions"]) == (456, 147, 2960)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("amazon18_games", (50546, 16859, 452989)),
        ("amazon14_beauty", (22363, 12101, 198502)),
        ("amazon14_toys", (19412, 11924, 167597)),
        ("yelp", (30431, 20033, 316354)),
    ],
)
def test_table_counts(shared: Path, tmp_path: Path, name: str, counts: tuple[int, int, int]) -> None:
    folder = shared / "data" / name
    result = prepare_table(folder / "interactions.csv.gz", tmp_path / "out", folder / "items.csv.gz", order="rank")
    assert (result["users"], result["items"], result["interactions"]) == counts


def test_movielens_counts(shared: Path, tmp_path: Path) -> None:
    result = prepare_atomic(shared / "data/ml-100k", tmp_path / "out")
    assert (result["users"], result["items"], result["interactions"]) == (943, 1682, 100000)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.timestamps is not None
    assert all(np.all(np.diff(dataset.timestamps[a:b]) >= 0) for a, b in [(0, dataset.sequences.offsets[1])])
    assert dataset.texts[dataset.item_row["1"]] == "Toy Story. 1995. Animation Children's Comedy."
