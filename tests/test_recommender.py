import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from prepared import catalogue_batch, untrained

import linguarec
from linguarec.batching.batches import ItemBatch
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.errors import (
    CheckpointMismatchError,
    DataFormatError,
    SettingsError,
    StaleFeaturesError,
    UnknownItemError,
)
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.cosines import Cosines
from linguarec.recommender import Recommender
from linguarec.seals import SEAL_FILE
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.ids import IdSource

NUM_ITEMS, WIDTH = 40, 12
TEXTS = [f"Thing number {row}." for row in range(NUM_ITEMS)]
VECTOR_MODELS = [name for name, family in FAMILIES.items() if family.encoders]  # others: commands/test_recformer.py
TEXT_MODELS = [name for name in VECTOR_MODELS if FAMILIES[name].ranks_new]
HISTORIES = [["i3", "i7", "i1"], ["i20"], [f"i{row}" for row in range(12)]]


def vectors_of(texts):
    """A stand-in for a text encoder: a vector that depends on the text alone."""
    return np.stack([np.random.default_rng(list(text.encode())).standard_normal(WIDTH) for text in texts]).astype(
        np.float32
    )


class FakeEncoder:
    def encode(self, texts):
        return vectors_of(texts)


@pytest.fixture(autouse=True)
def fake_encoder(monkeypatch, request):
    """New texts are read by the stand-in, except in the test of the language model itself."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(EmbeddingSource, "_text_encoder", FakeEncoder())


def book():
    rng = np.random.default_rng(0)
    return CodeBook("pq", rng.standard_normal((4, 8, WIDTH // 4)).astype(np.float32), None, None, "enc")


def make(name, dataset, embedded=NUM_ITEMS):
    """A recommender of a small untrained model, the same weights for every catalogue."""
    torch.manual_seed(0)
    encoder = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=6, initializer_range=0.4)
    shape = CatalogueShape(embedded, WIDTH, 4, 8)
    family = FAMILIES[name]
    return untrained(ModelDescription(family, family.config(), encoder, shape), dataset, source_of(family, dataset))


def source_of(family, dataset):
    if family.source is CodeSource:
        ItemCodes(book().encode(dataset.features("enc")), book()).save(dataset.codes_path("pq"))
        return CodeSource.stored(dataset, "pq")
    if family.source is EmbeddingSource:
        return EmbeddingSource.stored(dataset, "enc")
    return IdSource(dataset.path, dataset.num_items)


def keys_of(recommender):
    return torch.from_numpy(recommender.item_vectors())


def encoder_of(recommender):
    source = recommender.snapshot.source
    return source.encoder if isinstance(source, CodeSource) else source.info


def inputs_of(recommender):
    return recommender.snapshot.inputs.rows(torch.arange(len(recommender.catalogue)))


@pytest.fixture
def dataset(make_dataset):
    return make_dataset([[0, 1, 2]], texts=TEXTS, features={"enc": vectors_of(TEXTS)})


@pytest.fixture
def recommender(dataset):
    return make("sasrec-text", dataset)


def ids(recommendations):
    return [[found.raw_id for found in row] for row in recommendations]


def oracle(recommender, history, k, exclude_seen=True, allowed=None):
    """Score every item for one history, sort, take k."""
    from linguarec.batching.batches import SequenceBatch

    rows = torch.tensor([recommender.catalogue.position[raw_id] for raw_id in history][-6:])
    none = torch.full_like(rows, -1)
    batch = SequenceBatch(rows, torch.tensor([0, len(rows)]), torch.arange(len(rows)), none, none[:1], none[:1])
    with torch.no_grad():
        scores = keys_of(recommender) @ recommender.model.queries(batch, inputs_of(recommender))[-1]
    candidates = [
        (-float(scores[entry]), entry)
        for entry, raw_id in enumerate(recommender.catalogue.raw_ids)
        if not (exclude_seen and raw_id in history) and (allowed is None or raw_id in allowed)
    ]
    return [recommender.catalogue.raw_ids[entry] for _, entry in sorted(candidates)[:k]]


@pytest.mark.parametrize("name", VECTOR_MODELS)
def test_recommends_the_best_scored_items(name, dataset):
    recommender = make(name, dataset)
    assert ids(recommender.recommend(HISTORIES, k=7)) == [oracle(recommender, history, 7) for history in HISTORIES]


@pytest.mark.parametrize("name", VECTOR_MODELS)
def test_a_share_is_what_is_lost_without_the_item(name, dataset):
    recommender = make(name, dataset)
    history = ["i9", "i3", "i7", "i1", "i7", "i4", "i5"]  # of which six are read

    def scores(*ids):
        return {best.raw_id: best.score for best in recommender.recommend(list(ids), k=NUM_ITEMS, exclude_seen=False)}

    whole = scores(*history)
    without = {"i7": scores("i3", "i1", "i4", "i5"), "i5": scores("i3", "i7", "i1", "i7", "i4")}
    for best in recommender.recommend(history, k=3, explain=True):
        shares = {reason.raw_id: reason.share for reason in best.reasons}
        assert set(shares) == {"i3", "i7", "i1", "i4", "i5"}
        for raw_id, left in without.items():
            assert shares[raw_id] == pytest.approx(whole[best.raw_id] - left[best.raw_id], abs=1e-4)
        assert best.parts == {name: pytest.approx(best.score, abs=1e-4)}


def test_seen_items_only_on_request(recommender):
    history = HISTORIES[2]
    assert not set(ids(recommender.recommend([history], k=28))[0]) & set(history)
    everything = ids(recommender.recommend([history], k=NUM_ITEMS, exclude_seen=False))[0]
    assert everything == oracle(recommender, history, NUM_ITEMS, exclude_seen=False)


def test_fewer_items_than_asked_for(recommender):
    assert len(recommender.recommend([HISTORIES[2]], k=1_000)[0]) == NUM_ITEMS - 12
    assert recommender.recommend([["i1"]], within=["i1"]) == [[]]


def test_within_a_whitelist(recommender):
    allowed = ["i5", "i3", "i30", "i31"]
    found = recommender.recommend(HISTORIES[:2], k=3, within=allowed)
    assert ids(found) == [oracle(recommender, history, 3, allowed=allowed) for history in HISTORIES[:2]]


def test_a_recommendation_says_what_it_is(recommender):
    best = recommender.recommend([["i1"]], k=1)[0][0]
    row = int(best.raw_id[1:])
    assert (best.title, best.text) == (TEXTS[row], TEXTS[row])
    assert recommender.recommend([["i1"]], k=5)[0][0].score == best.score


# -- unknown ids and bad requests


def test_unknown_ids_are_named_with_what_is_near(recommender):
    with pytest.raises(
        UnknownItemError, match=r"catalogue of 40 items: 'i77' \(near: i7.*\), 'zzzz'\. Correct the ids"
    ):
        recommender.recommend([["i1", "i77"], ["zzzz"]])
    strangers = [f"zz{number}" for number in range(9)]
    with pytest.raises(UnknownItemError, match=r"and 4 more\. None of the ids is known: is this the model of another"):
        recommender.recommend([strangers])
    with pytest.raises(UnknownItemError, match=r"and 4 more\. Correct the ids"):
        recommender.recommend([strangers, ["i1"]])
    with pytest.raises(UnknownItemError, match=r"'i0' is in it: the ids were read as .* Correct the ids"):
        recommender.recommend([[f"i{number}.0" for number in range(9)]])


def test_unknown_ids_are_skipped_on_request_and_counted(recommender, caplog):
    found = recommender.recommend([["nope", "i3", "i7", "nope", "i1"]], skip_unknown=True)
    assert ids(found) == ids(recommender.recommend(HISTORIES[:1]))
    assert "left out 1 unknown item ids, for instance 'nope'" in caplog.text
    with pytest.raises(UnknownItemError, match="History 2 has no known item"):
        recommender.recommend([["i1"], ["nope"]], skip_unknown=True)


def test_requests_without_an_answer_are_refused(recommender):
    with pytest.raises(SettingsError, match="history 2 is empty"):
        recommender.recommend([["i1"], []])
    for k in (0, 2.5):
        with pytest.raises(SettingsError, match=f"k is {k}; it must be a whole number"):
            recommender.recommend([["i1"]], k=k)
    with pytest.raises(SettingsError, match="within is empty"):
        recommender.recommend([["i1"]], within=[])
    with pytest.raises(SettingsError, match="histories is the string 'i1'; expected a history"):
        recommender.recommend("i1")
    with pytest.raises(SettingsError, match="raw_ids is the string 'i3'; expected a list of item ids"):
        recommender.remove_items("i3")
    with pytest.raises(SettingsError, match="within is the string 'i3'; expected a list"):
        recommender.recommend([["i1"]], within="i3")
    assert recommender.recommend([]) == []


def test_histories_may_come_one_by_one(recommender):
    histories = [["i1"], ["i2", "i3"]]
    expected = ids(recommender.recommend(histories, k=3))
    assert recommender.catalogue.new_entries(item for item in [{"raw_id": "n", "title": "q"}]).num_rows == 1
    assert ids(recommender.recommend((iter(history) for history in histories), k=3)) == expected
    assert ids(recommender.recommend(np.array([["i1"]]), k=3)) == expected[:1]


# -- new items


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_items_added_later_equal_items_there_from_the_start(name, make_dataset):
    """The last five items are unknown to the first recommender, and rows without an ID embedding to the second."""
    few = make_dataset([[0, 1]], texts=TEXTS[:35], features={"enc": vectors_of(TEXTS[:35])}, name="few")
    added = make(name, few)
    assert added.add_items([{"raw_id": f"i{row}", "title": TEXTS[row]} for row in range(35, 40)]) == 5

    every = make_dataset([[0, 1]], texts=TEXTS, features={"enc": vectors_of(TEXTS)}, name="all")
    at_once = make(name, few)
    rows = torch.where(torch.arange(40) < 35, torch.arange(40), -1)
    features = "enc" if FAMILIES[name].source is EmbeddingSource else None
    items = replace(catalogue_batch(every, features, None), rows=rows)
    if FAMILIES[name].source is CodeSource:
        items = replace(items, codes=torch.from_numpy(book().encode(vectors_of(TEXTS)).astype(np.int64)))
    with torch.no_grad():
        inputs, keys = at_once.model.item_inputs(items), at_once.model.item_keys(items)
    assert torch.allclose(inputs_of(added), inputs, atol=1e-5)
    assert torch.allclose(keys_of(added), keys, atol=1e-5)

    history = [["i2", "i36", "i39"]]
    assert ids(added.recommend(history, k=40)) == [oracle(added, history[0], 40)]
    assert any(found.raw_id in ("i35", "i37", "i38") for found in added.recommend(history, k=40)[0])
    if FAMILIES[name].source is CodeSource:
        assert np.array_equal(added.snapshot.source.codes[35:], book().encode(vectors_of(TEXTS[35:])))


@pytest.mark.slow
def test_a_new_item_is_read_by_the_language_model_of_the_run(make_dataset, tmp_path):
    """The same text, once encoded with the catalogue and once as a new item, gives the same vectors."""
    from linguarec.commands.encode import encode

    texts = [f"{colour} {thing}." for colour in ("Red", "Blue") for thing in ("ruler", "cordless drill", "saw")]
    dataset = make_dataset([[0, 1, 2]], texts=texts, name="encoded")
    encode(dataset.path, precision="fp32", device="cpu")
    torch.manual_seed(0)
    encoder = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=6)
    family = FAMILIES["unisrec"]
    description = ModelDescription(family, family.config(), encoder, CatalogueShape(6, 384))
    (features,) = dataset.feature_names
    untrained(description, dataset, EmbeddingSource.stored(dataset, features)).save(tmp_path / "run")
    recommender = linguarec.load_model(tmp_path / "run")
    recommender.add_items([{"raw_id": f"new{row}", "title": text.rstrip(".")} for row, text in enumerate(texts)])
    inputs, keys = inputs_of(recommender), keys_of(recommender)
    assert torch.allclose(inputs[6:], inputs[:6], atol=1e-5)
    assert torch.allclose(keys[6:], keys[:6], atol=1e-5)


def test_new_texts_are_cleaned_like_the_catalogue(recommender):
    recommender.add_items(pa.table({"raw_id": ["a", "b"], "title": ['13" Ruler &amp; bits...', "Saw"]}))
    assert recommender.catalogue.text(40) == "13 Ruler & bits."
    [vector] = torch.from_numpy(vectors_of(["Saw."]))
    assert torch.allclose(
        inputs_of(recommender)[41],
        recommender.model.item_inputs(ItemBatch(torch.tensor([-1]), torch.tensor([0]), vector[None]))[0],
    )
    recommender.add_items([{"raw_id": "c", "text": "Saw"}])
    keys = keys_of(recommender)
    assert torch.allclose(keys[42], keys[41], atol=1e-5)


def test_vectors_may_be_given(recommender):
    recommender.add_items([{"raw_id": "new", "title": "x"}], vectors=vectors_of([TEXTS[4]]))
    keys = keys_of(recommender)
    assert torch.allclose(keys[40], keys[4], atol=1e-6)
    with pytest.raises(DataFormatError, match="1 new items and 2 vectors"):
        recommender.add_items([{"raw_id": "other", "title": "x"}], vectors=vectors_of(TEXTS[:2]))
    with pytest.raises(DataFormatError, match="1 of the 1 new items hold NaN or an infinity, first that of row 0"):
        recommender.add_items([{"raw_id": "other", "title": "x"}], vectors=vectors_of(TEXTS[:1]) * np.nan)
    assert len(recommender.catalogue) == 41


def test_removed_items_are_read_but_not_recommended(recommender):
    before = ids(recommender.recommend(HISTORIES[:1], k=3))[0]
    recommender.remove_items([before[0], "i3"])
    assert ids(recommender.recommend(HISTORIES[:1], k=2))[0] == before[1:3]
    recommender.remove_items([])
    with pytest.raises(UnknownItemError, match="'gone'"):
        recommender.remove_items(["gone"])


def test_a_removed_item_can_be_added_with_another_text(recommender):
    recommender.remove_items(["i3"])
    recommender.add_items([{"raw_id": "i3", "title": "Something else"}])
    assert recommender.catalogue.position["i3"] == 40
    everything = recommender.recommend([["i1"]], k=100)[0]
    assert [found.text for found in everything if found.raw_id == "i3"] == ["Something else."]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"title": "x"}], "New item 1 has no `raw_id`; it has: title"),
        ([{"raw_id": "n", "title": "x"}, {"raw_id": "n", "title": "y"}], "New item 2: the raw_id 'n' occurs twice"),
        ([{"raw_id": "i3", "title": "x"}], "'i3' is already in the catalogue"),
        ([{"raw_id": "n", "colour": "red"}], "has the column 'colour'; this catalogue knows: raw_id, title, text"),
        ([{"raw_id": "n", "title": None}], "cannot be read: it has none of title, text"),
        ([{"raw_id": "n", "title": float("nan")}], "cannot be read: it has none of title, text"),
        ([{"raw_id": "n", "title": b"x"}], r"its 'title' is a bytes .*expected text, a number, a list or a dictionary"),
        ([{"raw_id": "n", "title": ["a", {"x": b"x"}]}], r"its 'title' is a bytes"),
        ([{"raw_id": ["n"], "title": "x"}], r"its 'raw_id' is a list .*expected text or a number"),
        ([{"raw_id": " ", "title": "x"}], "New item 1: its `raw_id` is empty"),
        ([{"raw_id": float("nan"), "title": "x"}], "New item 1: its `raw_id` is empty"),
        (
            [{"raw_id": "n", "title": "<b> </b>"}],
            r"New item 1 \('n'\) cannot be read: its text is empty after cleaning",
        ),
        ({"raw_id": "n", "title": "x"}, "One row is a list of one mapping"),
        (["n"], "a list of mappings"),
    ],
)
def test_bad_new_items_are_refused_and_change_nothing(recommender, items, message):
    with pytest.raises(DataFormatError, match=message):
        recommender.add_items(items)
    assert len(recommender.catalogue) == len(keys_of(recommender)) == NUM_ITEMS


def test_values_that_are_none_are_left_out(recommender):
    recommender.add_items([{"raw_id": "n", "title": ["Drill", None, 2.5, float("nan")]}])
    assert recommender.catalogue.text(NUM_ITEMS) == "Drill 2.5."


def test_dictionaries_of_new_items_are_written_as_pairs(recommender):
    recommender.add_items([{"raw_id": "n", "title": {"Name": "Drill", "Sizes": ["S", "M"], "Color": None}}])
    assert recommender.catalogue.text(NUM_ITEMS) == "Name: Drill Sizes: S, M."


def test_a_model_of_ids_cannot_read_new_items(dataset):
    with pytest.raises(SettingsError, match="sasrec knows items by ID only"):
        make("sasrec", dataset).add_items([{"raw_id": "n", "title": "x"}])


def test_imported_vectors_cannot_be_made_for_new_texts(recommender):
    recommender.snapshot.source.info = replace(recommender.snapshot.source.info, weights_sha256=None)
    with pytest.raises(SettingsError, match=r"text vectors \(enc\) were imported"):
        recommender.add_items([{"raw_id": "n", "title": "x"}])


def test_vectors_of_another_encoder_are_refused_by_the_code_book(dataset):
    with pytest.raises(StaleFeaturesError, match="width 12"):
        make("vqrec", dataset).add_items([{"raw_id": "n", "title": "x"}], vectors=np.zeros((1, 5), np.float32))


# -- the folder


@pytest.mark.parametrize("name", VECTOR_MODELS)
def test_a_saved_run_can_be_moved_and_gives_the_same_answers(name, dataset, tmp_path):
    recommender = make(name, dataset)
    if name in TEXT_MODELS:
        recommender.add_items([{"raw_id": "new", "title": "Newcomer"}])
    recommender.remove_items(["i9"])
    recommender.save(tmp_path / "run")
    shutil.rmtree(dataset.path)
    (tmp_path / "run").rename(tmp_path / "elsewhere")

    loaded = linguarec.load_model(tmp_path / "elsewhere")
    assert torch.equal(keys_of(loaded), keys_of(recommender))
    assert loaded.recommend(HISTORIES, k=30) == recommender.recommend(HISTORIES, k=30)
    assert repr(loaded) == repr(recommender)
    if name in TEXT_MODELS:
        assert encoder_of(loaded) == replace(encoder_of(recommender), texts_fingerprint=None)
        for either in (loaded, recommender):
            either.add_items([{"raw_id": "newer", "title": "Latecomer"}])
        assert torch.equal(keys_of(loaded), keys_of(recommender))


def test_an_unfinished_run_is_refused(recommender, tmp_path):
    recommender.save(tmp_path)
    (tmp_path / "keys.npy").unlink()
    (tmp_path / SEAL_FILE).unlink()
    with pytest.raises(CheckpointMismatchError, match=r"keys\.npy is missing"):
        Recommender.load(tmp_path)


def test_parts_of_different_runs_are_refused(recommender, tmp_path):
    recommender.save(tmp_path)
    np.save(tmp_path / "keys.npy", np.zeros((3, 16), np.float32))
    (tmp_path / SEAL_FILE).unlink()
    with pytest.raises(CheckpointMismatchError, match="40 items, there are 40 inputs and 3 keys"):
        Recommender.load(tmp_path)


def test_the_folder_names_the_encoder(recommender, tmp_path):
    recommender.save(tmp_path)
    assert json.loads((tmp_path / "encoder.json").read_text())["encoder"] == "enc"


def test_who_asked_for_similar_items_asks_again_without_the_old_items_being_measured(dataset, monkeypatch):
    recommender = make("unisrec", dataset)
    recommender.similar_items(["i3"], 5)
    monkeypatch.setattr(Cosines, "of", lambda dense: pytest.fail("all items were measured again"))
    recommender.add_items([{"raw_id": "new", "title": TEXTS[3].rstrip(".")}])
    recommender.remove_items(["i5"])
    now = recommender.snapshot
    found = recommender.similar_items(["i3"], 5)[0]
    assert "i5" not in [each.raw_id for each in found]
    monkeypatch.undo()
    fresh = Cosines.of(now.dense)
    assert torch.equal(now.by_cosine.ranker.keys, fresh.ranker.keys)
    assert now.by_cosine.ranker.removed.tolist() == [5]
