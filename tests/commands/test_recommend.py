import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from prepared import untrained

from linguarec.commands.recommend import recommend
from linguarec.data.item_files import read_items
from linguarec.errors import DataFormatError, SettingsError, UnknownItemError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.recommender import Recommender
from linguarec.sources.embeddings import EmbeddingSource


@pytest.fixture
def run(make_dataset, tmp_path):
    torch.manual_seed(0)
    vectors = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    dataset = make_dataset([[0, 1, 2]], num_items=20, features={"enc": vectors})
    encoder = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=6)
    description = ModelDescription(FAMILIES["unisrec"], FAMILIES["unisrec"].config(), encoder, CatalogueShape(20, 8))
    untrained(description, dataset, EmbeddingSource.stored(dataset, "enc")).save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def fake_encoder(monkeypatch):
    """New texts get the vector of a fixed draw: no language model is loaded."""

    class Encoder:
        def encode(self, texts):
            return np.full((len(texts), 8), 0.5, dtype=np.float32)

    monkeypatch.setattr(EmbeddingSource, "_text_encoder", Encoder())


def test_shows_and_returns_the_recommendations(run, capsys):
    found = recommend(run, ["i3", "i4"], k=4)
    expected = Recommender.load(run).recommend([["i3", "i4"]], k=4)[0]
    assert [best["raw_id"] for best in found["recommendations"]] == [best.raw_id for best in expected]
    assert (found["history"], found["unknown"], found["added"]) == (["i3", "i4"], [], 0)
    shown = capsys.readouterr().out
    assert "item 3" in shown
    assert expected[0].title in shown
    json.dumps(found)


def test_whitelist_and_seen_items(run, tmp_path):
    (tmp_path / "ids.txt").write_text("i3\n\ni7\n", encoding="utf-8")
    found = recommend(run, ["i3"], within=tmp_path / "ids.txt")
    assert [best["raw_id"] for best in found["recommendations"]] == ["i7"]
    found = recommend(run, ["i3"], within=tmp_path / "ids.txt", seen="include")
    assert {best["raw_id"] for best in found["recommendations"]} == {"i3", "i7"}
    (tmp_path / "ids.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match="holds no ids"):
        recommend(run, ["i3"], within=tmp_path / "ids.txt")


def test_unknown_ids(run):
    with pytest.raises(UnknownItemError, match="'i33'"):
        recommend(run, ["i3", "i33"])
    found = recommend(run, ["i3", "i33"], skip_unknown=True)
    assert (found["history"], found["unknown"]) == (["i3"], ["i33"])


def test_a_folder_that_grew_is_refused_by_what_mends_it(run, tmp_path, make_dataset):
    grown = make_dataset([[0, 1, 2], [20, 3]], name="grown", num_items=21).path
    with pytest.raises(
        DataFormatError, match=r"hold 1 items that .*run does not know, such as 'i20'\. `linguarec update"
    ):
        recommend(run, for_=grown, output=tmp_path / "best.csv")
    assert not (tmp_path / "best.csv").exists()
    found = recommend(run, for_=grown, output=tmp_path / "best.csv", skip_unknown=True)
    assert (found["histories"], found["unknown_ids"]) == (2, 1)


def test_new_items_from_a_file_are_read_and_recommended(run, tmp_path, fake_encoder):
    (tmp_path / "new.csv").write_text("raw_id,title\nn1,A ruler\nn2,A saw\n", encoding="utf-8")
    found = recommend(run, ["i3", "n1"], k=100, items=tmp_path / "new.csv")
    assert found["added"] == 2
    assert {best["raw_id"]: best["text"] for best in found["recommendations"]}["n2"] == "A saw."
    assert len(Recommender.load(run).catalogue) == 20  # the run itself is not changed


def test_the_three_kinds_of_files_give_the_same_items(tmp_path):
    rows = [{"raw_id": "007", "title": "A “ruler”"}, {"raw_id": "8", "title": None}]
    (tmp_path / "new.csv").write_text("\ufeffraw_id,title\n007,A “ruler”\n8,\n", encoding="utf-8")
    (tmp_path / "new.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    for name in ("new.csv", "new.jsonl", "new.parquet"):
        assert read_items(tmp_path / name) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("new.csv", b"raw_id,title\na,b,c\n", "line 2: expected 2 columns"),
        ("new.csv", b"raw_id,title\na,b\nc\n", "line 3: expected 2 columns"),
        ("new.csv", "raw_id,title\na,Größe\n".encode("latin-1"), "is not UTF-8"),
        ("new.jsonl", b'{"raw_id": "a"}\n{"raw_id"\n', "line 2 is not JSON"),
        ("new.jsonl", b'["a"]\n', "line 1: expected an object, found list"),
        ("new.parquet", b"raw_id,title\n", "is not a Parquet file"),
        (
            "new.csv",
            b'raw_id,title\na,"b\nc,d\n',
            "new.csv, after line 1: unexpected end of data; expected CSV with quotes",
        ),
        (
            "new.csv",
            b"raw_id,title,raw_id\na,b,c\n",
            "new.csv: the columns are 'raw_id', 'title', 'raw_id'; expected raw_id",
        ),
        ("new.csv", b"raw_id;title\na;b\n", "new.csv: the columns are 'raw_id;title'; .* separated by commas"),
        ("new.csv", b"raw_id,title\n", "new.csv holds no items; expected one a row, with their raw_id"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError, match=message):
        read_items(tmp_path / name)


def test_a_long_text_is_read(tmp_path):
    (tmp_path / "new.csv").write_text(f"raw_id,title\na,{'x' * 200_000}\n", encoding="utf-8")
    assert len(read_items(tmp_path / "new.csv")[0]["title"]) == 200_000


def test_a_bad_item_is_named_with_its_file(run, tmp_path, fake_encoder):
    (tmp_path / "new.csv").write_text("raw_id,title\na,b\n,c\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"new\.csv: New item 2: its `raw_id` is empty"):
        recommend(run, ["i3"], items=tmp_path / "new.csv")


def test_brackets_are_shown_as_they_are(run, tmp_path, fake_encoder, capsys):
    """The screen's library takes [red] for a colour and [/b] for an error."""
    (tmp_path / "new.csv").write_text("raw_id,title\n[red]7,[bold]Box [/b] [2 pcs]\na:on:7,x\n", encoding="utf-8")
    recommend(run, ["[red]7", "a:on:7", "i3", "[/x]"], k=3, items=tmp_path / "new.csv", skip_unknown=True)
    shown = capsys.readouterr().out
    assert "[red]7" in shown
    assert "a:on:7" in shown
    assert "[bold]Box [/b] [2 pcs]" in shown
    assert "left out, not in the catalogue: [/x]" in shown


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"ends in \.csv, \.parquet, \.jsonl"):
        read_items(tmp_path / "new.xlsx")
