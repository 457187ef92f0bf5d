"""JSON as lines, as one array and as Python dictionaries: the same content, and messages that quote little of it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_files import metadata, nothing_written, reviews_2018, write_json_lines

from linguarec.commands.prepare import prepare_amazon
from linguarec.data.dataset import PreparedDataset
from linguarec.data.readers.json_files import first_objects, open_json
from linguarec.errors import DataFormatError, LinguarecError

Records = list[dict[str, Any]]


def lines(records: Records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def python_lines(records: Records) -> str:
    """As the files of Amazon 2014 are written."""
    return "".join(repr(record) + "\n" for record in records)


FORMS: dict[str, Callable[[Records], str]] = {
    "array": json.dumps,
    "array with a byte order mark": lambda records: "\ufeff " + json.dumps(records),
    "indented array": lambda records: json.dumps(records, indent=2),
    "indented array, not ASCII": lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    "Python": python_lines,
    "Python, empty lines between": lambda records: python_lines(records).replace("\n", "\n\n"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reviews_and_metadata_in_every_form(form: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    reviews = reviews_2018()
    items = metadata(brand='Krüger\'s "Best"', category=["Büro", "A > B"], price=None)
    items.append({"asin": "i9", "title": None})
    fingerprints = []
    for name, write in (("lines", lines), ("form", FORMS[form])):
        files = [tmp_path / f"{name}_{what}" for what in ("reviews", "meta")]
        for file, records in zip(files, (reviews, items), strict=True):
            file.write_bytes(pack(write(records).encode()))
        result = prepare_amazon("2018", *files, tmp_path / f"out_{name}")
        assert (result["users"], result["items"], result["interactions"]) == (5, 5, 25)
        fingerprints.append(result["fingerprint"])
    assert fingerprints[0] == fingerprints[1]
    dataset = PreparedDataset.open(tmp_path / "out_form")
    assert dataset.texts[2] == "Thing 2. Büro A B. Krüger's Best."
    assert dataset.sequences[0].tolist() == [4, 3, 2, 1, 0]


def test_amazon_2014(tmp_path: Path) -> None:
    """Python dictionaries, categories as lists of lists, ratings that name the user first."""
    meta = tmp_path / "meta_Things.json.gz"
    records = metadata(categories=[["Home", "Kitchen"], ["Gifts"]], related={"also_bought": ["i1"]}, price=3.5)
    meta.write_bytes(gzip.compress(python_lines(records).encode()))
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("".join(f"{r['reviewerID']},{r['asin']},5.0,{r['unixReviewTime']}\n" for r in reviews_2018()))
    result = prepare_amazon(
        "2014", ratings, meta, tmp_path / "out", attributes=["title", "categories", "price", "related"]
    )
    assert (result["users"], result["items"]) == (5, 5)
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.raw_user_ids[0] == "u0"
    assert dataset.items(["categories"])["categories"][0].as_py() == "Home > Kitchen > Gifts"
    assert dataset.texts[0] == "Thing 0. Home Kitchen Gifts. 3.5. also_bought: i1."


def test_nothing_in_a_dictionary_is_evaluated(tmp_path: Path) -> None:
    meta = tmp_path / "meta.json"
    meta.write_text("{'asin': 'i0', 'title': 'a'}\n" + "{'asin': __import__('os').getcwd()}\n")
    reviews = write_json_lines(tmp_path / "reviews.json", reviews_2018())
    match = r"meta\.json, line 2 is no Python dictionary .* \(it holds more than literals\): .*__import__"
    with pytest.raises(DataFormatError, match=match):
        prepare_amazon("2018", reviews, meta, tmp_path / "out")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("{'asin': " + "[" * 5000, "too many nested|too deep|was never closed"),
        ("{'asin': '" + "x" * (1 << 20) + "'}", "longer than 1,048,576 characters"),
        ("{'asin': {1, 2}}", "set is not JSON serializable"),
        ("['asin']", "a list"),
        ("{'asin': 1e999}", "Out of range float"),
        ("{'asin': '\\ud800'}", "surrogates not allowed"),
        ("{'asin': 'x'", "was never closed"),
    ],
)
def test_a_line_that_is_no_dictionary(second: str, reason: str, tmp_path: Path) -> None:
    meta = tmp_path / "meta.json"
    meta.write_text("{'asin': 'i0'}\n" + second + "\n")
    with pytest.raises(DataFormatError, match=rf"meta\.json, line 2 is no Python dictionary .*({reason})") as caught:
        open_json(meta, tmp_path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"a": 1}, {"a": 2]', "near object 2: no JSON"),
        ('[{"a": 1}, {"a": 2}', "near object 3: no JSON"),
        ('[{"a": 1, "b": ', "object 1 of the array is not JSON"),
        ('[["x"]]', r"object 1 of the array is a list: \['x'\]; expected an object"),
        ('["' + "x" * 5000 + '"]', "object 1 of the array is a str"),
        ("[]", "the first object lacks the key 'reviewerID'"),
        ('[{"who": 1, "what": 2}]', "the first object lacks the key 'reviewerID'; it has 'who', 'what'"),
        ('{"a": 1, "b', "line 1 is not JSON"),
        ("{\n" + ' "a": 1\n}', "line 1 is not JSON"),
        (json.dumps({f"key{k}": "x" for k in range(5000)}), "line 1 lacks the key 'reviewerID'; it has 'key0', 'key1'"),
        (json.dumps([{"x" * 90_000: "y" * 90_000}]), "the first object lacks the key 'reviewerID'; it has 'xxx"),
    ],
)
def test_json_that_is_malformed_or_of_something_else(content: str, found: str, tmp_path: Path) -> None:
    reviews = tmp_path / "reviews.json"
    reviews.write_text(content.replace('"a": ', '"reviewerID": "u", "asin": "i", "unixReviewTime": 1, "overall": '))
    meta = write_json_lines(tmp_path / "meta.json", metadata())
    with pytest.raises(LinguarecError, match=found) as caught:
        prepare_amazon("2018", reviews, meta, tmp_path / "out", attributes=["title"])
    assert "reviews.json" in str(caught.value)
    assert len(str(caught.value)) < 900
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("form", ["lines", "array"])
def test_the_first_objects_are_read_in_pieces(form: str, tmp_path: Path) -> None:
    """Objects longer than a piece, characters cut apart by its end, brackets within strings."""
    records = [{"k": k, "text": "ü]}" * (40_000 + k), "list": [1, {"a": []}]} for k in range(5)]
    text = lines(records) if form == "lines" else json.dumps(records, ensure_ascii=False)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    source = open_json(tmp_path / "a.json", tmp_path)
    assert source.is_array == (form == "array")
    assert list(first_objects(source)) == records
    assert list(first_objects(source, 2)) == records[:2]


def test_metadata_without_an_item_are_counted(tmp_path: Path) -> None:
    reviews = write_json_lines(tmp_path / "reviews.json", reviews_2018())
    meta = write_json_lines(tmp_path / "meta.json", [*metadata(), {"asin": None, "title": "x"}])
    report = prepare_amazon("2018", reviews, meta, tmp_path / "out", attributes=["title"])["report"]
    assert report["catalogue_rows_without_item"] == 1
