"""Several runs as one: weights fitted on valid, and a run like any other afterwards."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared import tiny_shop

import linguarec
from linguarec.commands.blend import blend
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.commands.pretrain import pretrain
from linguarec.commands.recommend import recommend
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.data.splits import evaluation_cases
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.evaluation import new_items
from linguarec.evaluation.new_items import choose_for_new
from linguarec.nn.encoders import TransformerConfig
from linguarec.recommender import Recommender
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
QUICK = TrainingSettings(max_epochs=3, targets_per_step=200, accelerator="cpu", precision="fp32")


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    return tiny_shop(make_dataset)


@pytest.fixture
def runs(dataset: PreparedDataset, tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("ease", "itemknn", "textknn", "sasrec")}
    for name, run in found.items():
        flags: dict[str, Any] = {"transformer": SMALL, "training": QUICK} if name == "sasrec" else {}
        finetune(name, dataset.path, run, **flags)
    return found


def test_a_blend_is_a_run_like_any_other(dataset: PreparedDataset, runs: dict[str, Path], tmp_path: Path) -> None:
    result = blend(list(runs.values()), tmp_path / "blend")
    assert [part["model"] for part in result.parts] == list(runs)
    assert min(part["weight"] for part in result.parts) >= 0 and sum(
        part["share"] for part in result.parts
    ) == pytest.approx(1)
    found = evaluate(tmp_path / "blend", plots=False)
    for field, protocol in (("systems", "kept"), ("excluded", "excluded"), ("learned", "learned")):
        means = {metric: interval["mean"] for metric, interval in found[field]["blend"].items()}
        assert means == pytest.approx(result.test[protocol], abs=1e-9)
    for part in result.parts:  # the parts are those that were blended
        own = evaluate(Path(part["run"]), plots=False)["systems"][part["model"]]
        assert part["test"]["ndcg@10"] == pytest.approx(own["ndcg@10"]["mean"], abs=1e-9)
    (tmp_path / "blend").rename(tmp_path / "moved")
    for run in runs.values():
        run.rename(run.with_name(f"{run.name}-gone"))
    shown = recommend(tmp_path / "moved", ["i3", "i4"], k=4, seen="learned")
    assert len(shown["recommendations"]) == 4


def test_scores_are_the_weighted_sums_of_those_of_the_parts(runs: dict[str, Path], tmp_path: Path) -> None:
    result = blend(list(runs.values()), tmp_path / "blend")
    together, history = Recommender.load(tmp_path / "blend"), [["i3", "i7", "i1"], ["i9"]]
    expected = np.zeros((2, len(together.catalogue)))
    for part in result.parts:
        own = Recommender.load(part["run"])
        best = own.best_entries(own.catalogue.rows(history)[0], len(own.catalogue), exclude_seen=False)[1]
        np.put_along_axis(scores := np.zeros_like(expected), best.rows, best.scores, axis=1)
        expected += part["weight"] * scores
    found = together.best_entries(together.catalogue.rows(history)[0], len(together.catalogue), exclude_seen=False)[1]
    assert together.snapshot.exact.new.rows == ()  # stock that nobody took is scored like the rest
    assert np.take_along_axis(expected, found.rows, axis=1) == pytest.approx(found.scores, abs=1e-4)
    alone = together.recommend(history[1], k=5)
    assert [one.raw_id for one in together.recommend(history, k=5)[1]] == [one.raw_id for one in alone]


def test_new_items_are_ranked_by_text_and_like_their_nearest(
    dataset: PreparedDataset, runs: dict[str, Path], tmp_path: Path
) -> None:
    blend([runs["ease"], runs["itemknn"], runs["textknn"]], tmp_path / "blend")
    model = linguarec.load_model(tmp_path / "blend")
    twin = model.catalogue.text(5)
    vector = np.asarray(dataset.features("enc")[5:6])
    assert model.add_items([{"raw_id": "new", "text": twin}], vectors=vector) == 1
    with_new = model.recommend([["i4"], ["i4", "new"]], k=100)
    scores = {one.raw_id: one.score for one in with_new[0]}
    assert set(scores) == {f"i{row}" for row in range(len(model.catalogue) - 1) if row != 4} | {"new"}
    assert min(scores.values()) < scores["new"] < max(scores.values()) or scores["new"] == max(scores.values())
    model.save(tmp_path / "longer")
    again = linguarec.load_model(tmp_path / "longer")
    assert [one.raw_id for one in again.recommend(["i4"], k=100)] == [one.raw_id for one in with_new[0]]
    model.remove_items(["new"])
    assert "new" not in {one.raw_id for one in model.recommend(["i4"], k=100)}


def shop_with_held_out_items(folder: Path) -> PreparedDataset:
    """A prepared folder with vectors of its texts, of which 15 % of the items are held out."""
    domain = generate_world(seed=1, domains=1, size=replace(TINY, users=600, items_per_taste=20))[0]
    pairs = [(user, item) for user in range(len(domain.sequences)) for item in domain.sequences[user].tolist()]
    log = {
        "user_id": [f"u{user}" for user, _ in pairs],
        "item_id": [f"i{item}" for _, item in pairs],
        "timestamp": list(range(1_700_000_000, 1_700_000_000 + len(pairs))),
    }
    items = {"item_id": [f"i{row}" for row in range(len(domain.items))], "title": [item.text for item in domain.items]}
    prepare_table(log, folder, items, k_core=0, held_out_share=0.15)
    data = PreparedDataset.open(folder)
    vectors = word_vectors(data.texts, 32).astype(np.float32)
    data.write_features("enc", vectors, FeatureInfo("enc", 32, "mean", "0" * 64, data.texts_fingerprint, "default"))
    return data


def test_few_new_items_do_not_cost_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid target occurs in no training sequence. If the others lose by its offset, it is scored like them."""
    domain = generate_world(seed=1, domains=1, size=replace(TINY, users=300))[0]
    items = len(domain.items)
    sequences = [[item for item in domain.sequences[user].tolist() if item != items - 1] for user in range(300)]
    sequences = [each for each in sequences if len(each) > 3]
    sequences[0][-2] = items - 1
    texts = [item.text for item in domain.items]
    rows = [
        (f"u{user}", f"i{item}", 1_700_000_000 + place)
        for user, own in enumerate(sequences)
        for place, item in enumerate(own)
    ]
    log = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    prepare_table(log, tmp_path / "data", {"item_id": [f"i{row}" for row in range(items)], "title": texts}, k_core=0)
    data = PreparedDataset.open(tmp_path / "data")
    vectors = word_vectors(data.texts, 32).astype(np.float32)
    data.write_features("enc", vectors, FeatureInfo("enc", 32, "mean", "0" * 64, data.texts_fingerprint, "default"))
    for name in ("ease", "textknn"):
        finetune(name, data.path, tmp_path / name)
    parts = [tmp_path / "ease", tmp_path / "textknn"]

    def offset_of(offset: float) -> None:
        def choose(*arguments: Any) -> Any:
            found = choose_for_new(*arguments)
            return None if found is None else replace(found, new=replace(found.new, offset=offset))

        monkeypatch.setattr("linguarec.evaluation.new_items.choose_for_new", choose)

    offset_of(1e6)  # the new item is on top of every list
    found = blend(parts, tmp_path / "harmful")
    assert found.new_items is not None and found.new_items["items"] == 0
    assert not linguarec.load_model(tmp_path / "harmful").snapshot.exact.new.rows
    offset_of(-1e6)  # nobody sees it, as before: nothing is lost
    assert (blend(parts, tmp_path / "harmless").new_items or {})["items"] >= 1


def test_held_out_items_are_ranked_as_well_as_by_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shop_with_held_out_items(tmp_path / "data")
    vectors = np.asarray(data.features("enc"))
    names = ("ease", "itemknn", "textknn", "ease-text")
    for name in names:
        finetune(name, data.path, tmp_path / name, split="held-out-items")
    result = blend([tmp_path / name for name in names], tmp_path / "blend")
    assert result.new_items is not None
    cases = evaluation_cases(data.sequences, data.roles("held-out-items"), "test")
    held_out = set(cases.targets.tolist())
    assert len(cases) > 100 and result.new_items["items"] >= len(held_out)
    assert result.new_items["new_targets_ndcg@10"] >= result.new_items["best_reader_ndcg@10"]
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        f"new items, tried out on {result.new_items['cases']:,} valid targets whose items were treated as new" in shown
    )
    best = max(part["test_protocols"]["excluded"]["ndcg@10"] for part in result.parts)
    assert result.test["excluded"]["ndcg@10"] >= best > 0
    assert result.test_differences["excluded"]["ndcg@10"]["difference"] >= 0
    new = [int(row) for row in linguarec.load_model(tmp_path / "blend").snapshot.exact.new.rows]
    assert held_out <= set(new) and len(new) == result.new_items["items"]
    # A new item has its own weights, and what they add up to is explained.
    model = linguarec.load_model(tmp_path / "blend")
    known = [data.raw_item_ids[row] for row in range(len(data.raw_item_ids)) if row not in new][:2]
    names_of_new = {data.raw_item_ids[row] for row in new}
    recommended = model.recommend([known], k=30, explain=True)[0]
    assert names_of_new & {one.raw_id for one in recommended}
    for one in recommended:
        assert one.parts is not None and sum(one.parts.values()) == pytest.approx(one.score, abs=1e-5)
        assert (one.parts.get("new item", 0.0) != 0) == (one.raw_id in names_of_new)
    model.add_items([{"raw_id": "twin", "text": data.texts[new[0]]}], vectors=vectors[new[:1]])
    scores = {one.raw_id: one.score for one in model.recommend(known, k=100)}
    assert scores["twin"] == pytest.approx(scores[data.raw_item_ids[new[0]]], abs=1e-4)
    model.save(tmp_path / "longer")
    again = {one.raw_id: one.score for one in linguarec.load_model(tmp_path / "longer").recommend(known, k=100)}
    assert again == pytest.approx(scores, abs=1e-5)


def test_parts_that_learned_the_texts_of_items_treated_as_new_do_not_judge_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shop_with_held_out_items(tmp_path / "data")
    for name in ("ease", "textknn", "sasrec-text"):
        flags: dict[str, Any] = {"transformer": SMALL, "training": QUICK} if name == "sasrec-text" else {}
        finetune(name, data.path, tmp_path / name, split="held-out-items", **flags)
    judges = []

    def seen(parts: Any, weights: Any, as_new: Any, *others: Any) -> Any:
        judges.append([part is not None for part in as_new(np.arange(2))])
        return choose_for_new(parts, weights, as_new, *others)

    monkeypatch.setattr(new_items, "choose_for_new", seen)
    beside = blend([tmp_path / name for name in ("ease", "sasrec-text", "textknn")], tmp_path / "beside").new_items
    alone = blend([tmp_path / name for name in ("ease", "sasrec-text")], tmp_path / "alone").new_items
    assert judges == [[False, False, True], [False, True]]
    assert beside is not None and beside["best_reader"] == "textknn"
    assert np.flatnonzero(beside["weights"]).tolist() == [2]
    assert alone is not None and alone["best_reader"] == "sasrec-text"
    assert np.flatnonzero(alone["weights"]).tolist() == [1]


def test_a_blend_of_ids_alone_refuses_new_items(runs: dict[str, Path], tmp_path: Path) -> None:
    blend([runs["ease"], runs["itemknn"]], tmp_path / "blend")
    with pytest.raises(SettingsError, match="no part of this blend can read new items"):
        linguarec.load_model(tmp_path / "blend").add_items([{"raw_id": "new", "text": "A thing"}])


def test_a_part_that_is_better_alone_has_all_the_weight(
    dataset: PreparedDataset, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linguarec.evaluation import choosing

    real = choosing.fit_scores

    def misled(data: Any, parts: int) -> Any:
        return replace(real(data, parts), weights=(0.0,) * (parts - 1) + (1.0,))

    monkeypatch.setattr(choosing, "fit_scores", misled)
    finetune(
        "sasrec",
        dataset.path,
        tmp_path / "bad",
        transformer=SMALL,
        training=TrainingSettings(max_epochs=1, learning_rate=1e-9),
    )
    result = blend([runs["itemknn"], tmp_path / "bad"], tmp_path / "blend")
    assert result.chosen == "part 1 alone" and result.parts[1]["weight"] == 0
    assert result.test["kept"] == pytest.approx(result.parts[0]["test"], abs=1e-9)
    assert result.valid_difference is not None and result.valid_difference["part"] == str(runs["itemknn"])
    assert result.valid_difference["ndcg@10"]["difference"] == 0
    assert result.test_differences["kept"]["part"] == str(runs["itemknn"])
    for protocol in ("kept", "excluded", "learned"):
        assert result.test_differences[protocol]["ndcg@10"]["difference"] == pytest.approx(0, abs=1e-12)
    assert result.new_items is None  # no part reads texts


def test_runs_that_do_not_fit_are_refused(
    dataset: PreparedDataset, runs: dict[str, Path], tmp_path: Path, make_dataset: Any
) -> None:
    other = make_dataset([[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0]], name="other", num_items=4)
    finetune("itemknn", other.path, tmp_path / "elsewhere")
    with pytest.raises(
        SettingsError, match=r"ease was trained on .*, .*elsewhere on .*; the parts of a blend are runs of one folder"
    ):
        blend([runs["ease"], tmp_path / "elsewhere"], tmp_path / "blend")
    pretrain("zesrec", [dataset.path], tmp_path / "pretrained", transformer=SMALL, training=QUICK)
    with pytest.raises(SettingsError, match="pretrained was not fine-tuned on a folder of its own") as refused:
        blend([runs["ease"], tmp_path / "pretrained"], tmp_path / "blend")
    assert "was trained on" not in str(refused.value) and "linguarec finetune zesrec DATA" in str(refused.value)
    with pytest.raises(SettingsError, match="two runs or more"):
        blend([runs["ease"]], tmp_path / "blend")
    with pytest.raises(SettingsError, match="named twice"):
        blend([runs["ease"], runs["ease"]], tmp_path / "blend")
    with pytest.raises(SettingsError, match="made of trained runs: linguarec blend"):
        finetune("blend", dataset.path, tmp_path / "blend")
    assert not (tmp_path / "blend").exists()
    blend([runs["ease"], runs["itemknn"]], tmp_path / "blend")
    with pytest.raises(SettingsError, match="is a blend; name its parts instead"):
        blend([runs["ease"], tmp_path / "blend"], tmp_path / "again")


def test_damaged_parts_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    blend([runs["ease"], runs["itemknn"]], tmp_path / "blend")
    (tmp_path / "blend" / "parts" / "1" / "neighbours.rows.npy").write_bytes(b"nothing")
    with pytest.raises(CheckpointMismatchError, match=r"neighbours\.rows\.npy is not the file that was written"):
        linguarec.load_model(tmp_path / "blend")
    (tmp_path / "blend" / "files.json").unlink()
    with pytest.raises(CheckpointMismatchError, match=r"neighbours\.rows\.npy"):
        linguarec.load_model(tmp_path / "blend")
    config = tmp_path / "blend" / "config.json"
    stored = json.loads(config.read_text())
    stored["config"]["parts"] = 3
    config.write_text(json.dumps(stored))
    with pytest.raises(CheckpointMismatchError):
        linguarec.load_model(tmp_path / "blend")


def test_what_is_shown_names_parts_protocols_and_what_was_decided(
    dataset: PreparedDataset, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = blend([runs["ease"], runs["itemknn"]], tmp_path / "blend")
    shown = capsys.readouterr().out
    header = next(line for line in shown.splitlines() if "weight" in line)
    assert header.split() == ["test", "weight", "share", "kept", "excluded", "learned"]
    for part in result.parts:
        row = next(line for line in shown.splitlines() if line.strip().startswith(f"{part['model']} "))
        assert all(f"{found['ndcg@10']:.4f}" in row for found in part["test_protocols"].values())
    used = [part["model"] for part in result.parts if part["weight"] > 0]
    if len(used) == 1:
        assert f"{used[0]} alone, as no sum is clearly better" in " ".join(shown.split())
    else:
        assert f"({', '.join(used)})" in " ".join(shown.split())


def test_runs_of_two_shops_are_refused_by_the_names_of_the_shops(
    make_dataset: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    other = make_dataset([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]], num_items=10, name="another")
    finetune("itemknn", other.path, tmp_path / "other")
    with pytest.raises(SettingsError, match="on another; the parts of a blend are runs of one folder"):
        blend([runs["ease"], tmp_path / "other"], tmp_path / "blend")
    with pytest.raises(SettingsError, match=f"a run is named twice: {runs['ease']}"):
        blend([runs["ease"], runs["ease"]], tmp_path / "blend")
