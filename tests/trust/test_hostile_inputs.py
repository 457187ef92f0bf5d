"""Texts and small files of others: histories, ranges, model cards, runs that look as if they fitted together."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hostile import within

from linguarec.catalogue import Catalogue
from linguarec.commands.blend import blend
from linguarec.commands.recommend import recommend
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, LinguarecError, SettingsError
from linguarec.families import FAMILIES
from linguarec.hub import save_pretrained
from linguarec.ranges import range_of_text
from linguarec.recommender import Recommender
from linguarec.runs.search_space import SearchSpace, TrainingArguments
from linguarec.seals import unseal
from linguarec.training.settings import TrainingSettings

SECONDS = 20
LONG = "x" * (10 << 20)
HISTORIES: dict[str, tuple[dict[str, Any], str]] = {  # columns, and what the error says
    "numbers": ({"history": [1, 2]}, "row 1: its `history`"),
    "fractions": ({"history": [[0.5]]}, "0.5"),
    "no values": ({"history": pa.nulls(2)}, "row 1: its `history`"),
    "a null among ids": ({"history": [["ID", None]]}, "row 1: its `history` has no id at place 2"),
    "NaN among ids": ({"history": [[float("nan"), 1.0]]}, "row 1: its `history` has no id at place 1"),
    "empty": ({"history": [["ID"], []]}, "row 2: its `history`"),
    "lists of lists": ({"history": [[["ID"]]]}, "row 1: an id of its `history`"),
    "objects": ({"history": [[{"a": "ID"}]]}, "row 1: an id of its `history`"),
    "bytes": ({"history": [[b"ID"]]}, "row 1: an id of its `history`"),
    "truths": ({"history": [[True]]}, "Not in the catalogue of 48 items: 'True'"),
    "times": ({"history": pa.array([[10**17]], pa.list_(pa.timestamp("ms")))}, "histories.parquet"),
    "another column": ({"histories": [["ID"]]}, "history"),
    "users that are lists": ({"history": [["ID"]], "user": [["ann"]]}, "row 1: its `user`"),
    "10 MB": ({"history": [[LONG]]}, "xxx"),
    "no rows": ({"history": pa.array([], pa.list_(pa.string()))}, "holds no histories"),
}


def parquet(place: Path, columns: dict[str, Any], raw_id: str) -> Path:
    """A Parquet file of histories, in which ID is the id of an item."""
    values = {
        name: column if isinstance(column, pa.Array) else with_id(column, raw_id) for name, column in columns.items()
    }
    pq.write_table(pa.table(values), place / "histories.parquet")
    return place / "histories.parquet"


def with_id(value: Any, raw_id: str) -> Any:
    if isinstance(value, list):
        return [with_id(each, raw_id) for each in value]
    return raw_id if value == "ID" else value


@pytest.mark.parametrize("what", HISTORIES)
def test_histories_of_other_types(what: str, runs: dict[str, Path], tmp_path: Path) -> None:
    columns, message = HISTORIES[what]
    raw_id = Recommender.load(runs["ease"]).catalogue.raw_id(0)
    file = parquet(tmp_path, columns, raw_id)
    with within(SECONDS), pytest.raises(LinguarecError) as at:
        recommend(runs["ease"], histories=file, output=tmp_path / "best.csv")
    assert message in str(at.value)
    assert len(str(at.value)) < 2000
    assert not (tmp_path / "best.csv").exists()


TEXTS = {
    "csv of 10 MB": ("a.csv", "history\n" + LONG + "\n", "xxx"),
    "csv with a quote that is not closed": ("a.csv", 'history\n"' + LONG + "\n", "a.csv"),
    "csv of many commas": ("a.csv", 'history\n"' + 1_000_000 * "," + '"\n', "a.csv, row 1"),
    "csv without a header": ("a.csv", "a,b\nc,d\n", "expected history"),
    "csv with a zero byte": ("a.csv", "history\na\0b\n", "a"),
    "csv of other width": ("a.csv", "history,user\na\n", "line 2"),
    "json of a number": ("a.jsonl", "3\n", "line 1: expected an object"),
    "deep json": ("a.jsonl", "[" * 100_000 + "\n", "line 1 is not JSON"),
    "json with an infinity": ("a.jsonl", '{"history": [Infinity]}\n', "Not in the catalogue of 48 items: 'inf'"),
    "json with a surrogate": ("a.jsonl", '{"history": ["\\ud800"]}\n', "Not in the catalogue"),
    "a long number": ("a.jsonl", '{"history": [' + "9" * 5000 + "]}\n", "line 1"),
    "no Parquet": ("a.parquet", "PAR1", "a.parquet"),
    "another ending": ("a.xlsx", "", "expected a file that ends in"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_histories_as_text(what: str, runs: dict[str, Path], tmp_path: Path) -> None:
    name, text, message = TEXTS[what]
    (tmp_path / name).write_text(text)
    with within(SECONDS), pytest.raises(LinguarecError) as at:
        recommend(runs["ease"], histories=tmp_path / name, output=tmp_path / "best.csv")
    assert message in str(at.value)
    assert len(str(at.value)) < 2000
    assert not (tmp_path / "best.csv").exists()


def test_a_history_with_the_same_item_and_user_again_and_again(runs: dict[str, Path], tmp_path: Path) -> None:
    raw_id = Recommender.load(runs["ease"]).catalogue.raw_id(0)
    file = parquet(tmp_path, {"history": [["ID"] * 20_000, ["ID"]], "user": ["ann", "ann"]}, raw_id)
    found = recommend(runs["ease"], histories=file, output=tmp_path / "best.parquet", k=3)
    assert found["histories"] == 2
    assert pq.read_table(tmp_path / "best.parquet")["user"].to_pylist() == ["ann"] * 6


PIECES = [
    "0",
    "1",
    "-1",
    "1e400",
    "nan",
    "inf",
    ":",
    "log",
    "|",
    "a",
    "",
    " ",
    "0.5",
    "learned",
    "none",
    "9" * 400,
    "true",
    "{}",
]


def test_ranges() -> None:
    """Any text is a range, whose ends are possible, or one error names the flag."""
    draw, ranges = random.Random(5), 0
    for _ in range(3000):
        text = "".join(draw.choices(PIECES, k=draw.randint(0, 5)))
        try:
            found = range_of_text(text)
        except ValueError:
            continue
        assert all(found.holds(end) for end in found.ends), text
        ranges += 1
    assert ranges > 30
    base = TrainingArguments(None, TrainingSettings(), {})
    flags = [
        "model.initializer_range",
        "training.learning_rate",
        "transformer.layers",
        "features",
        "",
        "model",
        "a.b.c",
        "=",
    ]
    for _ in range(300):
        text = f"{draw.choice(flags)}={''.join(draw.choices(PIECES, k=draw.randint(0, 5)))}"
        try:
            space = SearchSpace.of(FAMILIES["sasrec"], base, ranges=[text])
        except SettingsError as error:
            assert "--ranges" in str(error) or text.partition("=")[0] in str(error), text
        else:
            assert space.searched


INJECTED = [
    "a\n---\nlicense: other", "---", "x: y", "'\"", "{{ 7 }}", "<script>alert(1)</script>", "[a](http://x)", "`code`",
    "| a | b", "# heading", "```\n# out\n```", "!!python/object:os.system", "&a [*a]", "\u202egpj", "\x1b[2J",
    "ünï 漢字", "*" * 300,
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTED)
def test_cards_with_texts_of_others(text: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """Titles, licences, settings and metrics stay where they belong: in the front matter, in their line or in their block."""
    shutil.copytree(runs["ease"], tmp_path / "run")
    for name in ("settings.json", "metrics.json"):
        stored = json.loads((tmp_path / "run" / name).read_text())
        if name == "settings.json":
            stored |= {"data_name": text, "split": text, "note": text}
        else:
            stored["test"] = {text: 0.5}
        (tmp_path / "run" / name).write_text(json.dumps(stored))
    unseal(tmp_path / "run")
    Recommender.load(tmp_path / "run").save(tmp_path / "run")
    plain = not any(ord(letter) < 32 or letter == "\u202e" for letter in text)
    given: dict[str, Any] = {"licence": text, "title": text} if plain else {}
    if not plain:
        with pytest.raises(SettingsError, match="expected a line of text"):
            save_pretrained(tmp_path / "run", tmp_path / "refused", licence=text)
    save_pretrained(tmp_path / "run", tmp_path / "out", **given)
    card = (tmp_path / "out" / "README.md").read_text()
    opening, head, body = card.split("---\n", 2)
    assert opening == ""
    front = yaml.safe_load(head)
    assert front.get("license") == given.get("licence")
    assert set(front) <= {"library_name", "pipeline_tag", "license", "tags"}
    lines = body.splitlines()
    fence = next(line for line in lines if line.endswith("```yaml")).removesuffix("yaml")
    start = lines.index(f"{fence}yaml")
    end = lines.index(fence, start)
    assert yaml.safe_load("\n".join(lines[start + 1 : end]))["note"] == text
    outside = [line for line in [*lines[:start], *lines[end:]] if not line.startswith("```")]
    headings = [line for line in outside if line.startswith("#")]
    assert [line for line in headings[1:] if line.startswith("## ")] == headings[1:]
    assert len(headings) == 6
    assert not [line for line in outside if "<script" in line.replace("\\<", "")]


def test_runs_that_almost_fit(runs: dict[str, Path], shop: Path, tmp_path: Path) -> None:
    """Runs with the fingerprint of the same data, but with other items, in another order, of another split or share."""

    def changed(what: Callable[[Path], None]) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        shutil.copytree(runs["ease"], folder)
        unseal(folder)
        what(folder)
        return folder

    def table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
        def apply(folder: Path) -> None:
            found = Catalogue.load(folder / "catalogue.parquet")
            Catalogue(change(found.table), found.text_rules).save(folder / "catalogue.parquet")

        return apply

    def renamed(found: pa.Table) -> pa.Table:
        ids = found["raw_id"].to_pylist()
        return found.set_column(found.column_names.index("raw_id"), "raw_id", [[*ids[:-1], "another"]])

    def setting(name: str, value: Any) -> Callable[[Path], None]:
        def apply(folder: Path) -> None:
            stored = json.loads((folder / "settings.json").read_text())
            (folder / "settings.json").write_text(json.dumps({**stored, name: value}))

        return apply

    def without_an_item(folder: Path) -> None:
        recommender = Recommender.load(folder)
        recommender.remove_items([recommender.catalogue.raw_id(3)])
        recommender.save(folder)

    count = PreparedDataset.open(shop).num_items
    reversed_rows = pa.array(np.arange(count)[::-1])
    for what, message in (
        (table(lambda found: found.take(reversed_rows)), "does not have the items of"),
        (table(renamed), "does not have the items of"),
        (without_an_item, "does not have the items of"),
        (setting("split", "temporal"), "split: .* has leave-one-out, .* has temporal"),
        (setting("users", 0.5), "users: .* has 1.0, .* has 0.5"),
        (setting("data_fingerprint", "0" * 64), "trained on shop, .* on another state of it"),
        (setting("data_fingerprint", None), "trained on shop, .* on another state of it"),
    ):
        with pytest.raises((SettingsError, CheckpointMismatchError), match=message):
            blend([runs["unisrec"], changed(what)], tmp_path / "blend")
        assert not (tmp_path / "blend").exists()
