"""Why items are recommended: shares of the history's items, parts of a blend, the repeat term, and what the command shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linguarec
from linguarec.cli import main
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.commands.recommend import recommend
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.errors import SettingsError
from linguarec.families.blending import Ingredient, blended
from linguarec.nn.encoders import TransformerConfig
from linguarec.recommendations import Recommendation
from linguarec.recommender import Recommender
from linguarec.snapshot import Snapshot
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=3)
QUICK = TrainingSettings(max_epochs=1, targets_per_step=500, accelerator="cpu", precision="fp32")
SUMS, NETWORK = ["ease", "ease-text", "itemknn", "textknn"], "unisrec"
HISTORIES = [["i3", "i7", "i1", "i7"], ["i9"], ["i5", "i5"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind of model on the tiny world, and blends of them."""
    folder = tmp_path_factory.mktemp("explain")
    domain = generate_world(seed=0, domains=1, size=TINY)[0]
    pairs = [(user, item) for user in range(len(domain.sequences)) for item in domain.sequences[user].tolist()]
    log = {
        "user_id": [f"u{user}" for user, _ in pairs],
        "item_id": [f"i{item}" for _, item in pairs],
        "timestamp": list(range(1_700_000_000, 1_700_000_000 + len(pairs))),
    }
    items = {
        "item_id": [f"i{row}" for row in range(len(domain.items))],
        "title": [item.text for item in domain.items],
        "price": [float(row) for row in range(len(domain.items))],
    }
    data = folder / "data"
    prepare_table(log, data, items, k_core=0)
    dataset = PreparedDataset.open(data)
    vectors = word_vectors(dataset.texts, 16).astype(np.float32)
    dataset.write_features(
        "enc", vectors, FeatureInfo("enc", 16, "mean", "0" * 64, dataset.texts_fingerprint, "default")
    )
    found = {}
    for name in [*SUMS, NETWORK]:
        flags: dict[str, Any] = {"transformer": SMALL, "training": QUICK} if name == NETWORK else {"defaults": "fixed"}
        finetune(name, data, folder / name, **flags)
        found[name] = folder / name
    summed([found[name] for name in ("ease", "textknn", "unisrec")], [3.0, 0.5, 0.2], folder / "blend")
    summed([found["itemknn"], found["itemknn"]], [1.0, 2.0], folder / "twice")
    return {**found, "blend": folder / "blend", "twice": folder / "twice"}


def summed(runs: list[Path], weights: list[float], folder: Path) -> None:
    """A blend of weights that nobody fitted."""
    parts = [linguarec.load_model(run) for run in runs]
    of_parts = [
        Ingredient(part.scorer, part.description, part.snapshot.source, part.snapshot.inputs, part.snapshot.ranker)
        for part in parts
    ]
    sum_of = blended(of_parts, weights, folder)
    snapshot = Snapshot(parts[0].catalogue, sum_of.inputs, sum_of.ranker, sum_of.source)
    Recommender(sum_of.scorer, sum_of.description, snapshot, parts[0].repeats).save(folder)


def share_of(found: Recommendation, raw_id: str) -> float:
    assert found.reasons is not None
    return next(reason.share for reason in found.reasons if reason.raw_id == raw_id)


def scores(recommender: Recommender, history: list[str]) -> dict[str, float]:
    found = recommender.recommend(history, k=10_000, exclude_seen=False)
    return {best.raw_id: best.score for best in found}


@pytest.mark.parametrize("name", SUMS)
def test_shares_of_a_sum_sum_to_the_score(name: str, runs: dict[str, Path]) -> None:
    recommender = linguarec.load_model(runs[name])
    plain = recommender.recommend(HISTORIES, k=5)
    for history, found, without in zip(
        HISTORIES, recommender.recommend(HISTORIES, k=5, explain=True), plain, strict=True
    ):
        assert [best.raw_id for best in found] == [best.raw_id for best in without]
        for best in found:
            assert best.reasons is not None
            assert {reason.raw_id for reason in best.reasons} == set(history)
            shares = [reason.share for reason in best.reasons]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) == pytest.approx(best.score, abs=1e-6)
            assert best.parts == {name: pytest.approx(best.score, abs=1e-6)}
    assert all(best.reasons is None and best.parts is None for row in plain for best in row)


@pytest.mark.parametrize(
    ("name", "weight"), [("ease", 1.0), ("ease-text", 1.0), ("itemknn", 1.0), ("textknn", 1 + 0.7**2)]
)
def test_the_share_of_an_item_is_its_score_alone_by_its_places(name: str, weight: float, runs: dict[str, Path]) -> None:
    """i7 is the last item and the one two steps before; sums by ID count the last occurrence, text-kNN both."""
    recommender = linguarec.load_model(runs[name])
    alone = {raw_id: scores(recommender, [raw_id]) for raw_id in ("i7", "i1", "i3")}
    for best in recommender.recommend(HISTORIES[0], k=5, explain=True):
        assert share_of(best, "i7") == pytest.approx(weight * alone["i7"][best.raw_id], abs=1e-6)
        assert share_of(best, "i1") == pytest.approx(0.7 * alone["i1"][best.raw_id], abs=1e-6)
        assert share_of(best, "i3") == pytest.approx(0.7**3 * alone["i3"][best.raw_id], abs=1e-6)


def test_the_share_of_an_item_in_a_network_is_what_is_lost_without_it(runs: dict[str, Path]) -> None:
    recommender = linguarec.load_model(runs[NETWORK])
    history = ["i2", "i3", "i7", "i1"]  # of which the network reads three
    whole, without = scores(recommender, history), scores(recommender, ["i3", "i1"])
    found = recommender.recommend([history, ["i9"]], k=4, explain=True)
    for best in found[0]:
        assert best.reasons is not None
        assert {reason.raw_id for reason in best.reasons} == {"i3", "i7", "i1"}
        assert share_of(best, "i7") == pytest.approx(whole[best.raw_id] - without[best.raw_id], abs=1e-5)
    for best in found[1]:
        assert share_of(best, "i9") == pytest.approx(best.score, abs=1e-5)


def test_a_blend_has_the_parts_and_the_shares_of_its_models(runs: dict[str, Path]) -> None:
    together = linguarec.load_model(runs["blend"])
    weights = together.model.weights.tolist()
    names = ["ease", "textknn", NETWORK]
    own = {name: linguarec.load_model(runs[name]) for name in names}
    history = ["i3", "i7", "i1"]
    for best in together.recommend(history, k=5, explain=True):
        assert best.parts is not None and list(best.parts) == names
        assert sum(best.parts.values()) == pytest.approx(best.score, abs=1e-5)
        expected = 0.0
        for name, weight in zip(names, weights, strict=True):
            assert best.parts[name] == pytest.approx(weight * scores(own[name], history)[best.raw_id], abs=1e-5)
            [alone] = own[name].recommend([history], k=1, within=[best.raw_id], explain=True)[0]
            expected += weight * share_of(alone, "i7")
        assert share_of(best, "i7") == pytest.approx(expected, abs=1e-5)


def test_a_model_that_is_twice_in_a_blend_has_two_names(runs: dict[str, Path]) -> None:
    [best] = linguarec.load_model(runs["twice"]).recommend(["i3"], k=1, explain=True)
    assert best.parts is not None and list(best.parts) == ["itemknn 1", "itemknn 2"]


@pytest.mark.parametrize("name", ["ease", "blend"])
def test_the_repeat_term_is_a_part(name: str, runs: dict[str, Path]) -> None:
    recommender = linguarec.load_model(runs[name])
    assert recommender.repeats is not None
    for best in recommender.recommend(["i3", "i7"], k=1_000, exclude_seen="learned", explain=True):
        assert best.parts is not None
        added = {"i7": recommender.repeats.values[0], "i3": recommender.repeats.values[1]}.get(best.raw_id, 0.0)
        assert best.parts["repeats"] == pytest.approx(added)
        assert sum(best.parts.values()) == pytest.approx(best.score, rel=1e-5, abs=1e-5)


def test_fewer_items_than_asked_for_and_none(runs: dict[str, Path]) -> None:
    recommender = linguarec.load_model(runs["ease"])
    found = recommender.recommend([["i3"], ["i4"]], k=5, filters="price < 2", explain=True)
    assert [[best.raw_id for best in row] for row in found] == [
        [best.raw_id for best in row] for row in recommender.recommend([["i3"], ["i4"]], k=5, filters="price < 2")
    ]
    assert all(best.reasons for row in found for best in row)
    assert recommender.recommend(["i3"], filters="price < 0", explain=True) == []


def test_new_items_are_explained(runs: dict[str, Path]) -> None:
    recommender = linguarec.load_model(runs["blend"])
    vectors = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    recommender.add_items([{"raw_id": "new", "title": "Something new", "price": 1}], vectors)
    for best in recommender.recommend(["i3", "new"], k=10_000, within=["i5", "i6"], explain=True):
        assert best.reasons is not None and {reason.raw_id for reason in best.reasons} == {"i3", "new"}
        assert best.parts is not None and sum(best.parts.values()) == pytest.approx(best.score, abs=1e-5)
    [best] = recommender.recommend(["i3"], k=1, within=["new"], explain=True)
    assert best.parts is not None and sum(best.parts.values()) == pytest.approx(best.score, abs=1e-5)


def test_as_a_table(runs: dict[str, Path]) -> None:
    recommender = linguarec.load_model(runs["ease"])
    table = recommender.recommend(HISTORIES, k=2, as_table=True, explain=True)
    rows = [best for row in recommender.recommend(HISTORIES, k=2, explain=True) for best in row]
    assert table.column_names == ["history", "rank", "raw_id", "score", "title", "reasons", "parts"]
    assert [[tuple(reason.values()) for reason in row] for row in table["reasons"].to_pylist()] == [
        [(reason.raw_id, reason.share) for reason in best.reasons or ()] for best in rows
    ]
    assert table["parts"].to_pylist() == [list((best.parts or {}).items()) for best in rows]


def test_the_command_shows_and_prints_them(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["recommend", str(runs["blend"]), "--history", "i3,i7", "-k", "2", "--explain", "--json"])
    assert stop.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = linguarec.load_model(runs["blend"]).recommend(["i3", "i7"], k=2, explain=True)
    for row, best in zip(result["recommendations"], expected, strict=True):
        assert row["reasons"] == [{"raw_id": each.raw_id, "share": each.share} for each in best.reasons or ()]
        assert row["parts"] == best.parts
    plain = recommend(runs["blend"], ["i3"], k=1)
    assert set(plain["recommendations"][0]) == {"raw_id", "score", "title", "text"}
    shown = capsys.readouterr().out
    assert "because of" not in shown
    recommend(runs["ease"], ["i3"], k=1, explain=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "because of" in shown and "ease" in shown
    with pytest.raises(SettingsError, match="--explain is for --history"):
        recommend(runs["ease"], for_=Path("x"), output=Path("y.csv"), explain=True)
