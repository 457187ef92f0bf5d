"""What every model that is fitted in closed form must do, unasked."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linguarec
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.data.synthetic import DEMO, TINY, WorldSize, generate_world, word_vectors
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError
from linguarec.families import FAMILIES, closed_form
from linguarec.training.settings import TrainingSettings

NAMES = [name for name, family in FAMILIES.items() if family.closed_form]
METRICS = ("recall@10", "ndcg@10", "mrr")
each_of = pytest.mark.parametrize


def shop_of(size: WorldSize, make_dataset: Any) -> PreparedDataset:
    """The synthetic world as a prepared folder, with vectors."""
    domain = generate_world(seed=0, domains=1, size=size)[0]
    sequences = [domain.sequences[user].tolist() for user in range(len(domain.sequences))]
    texts = [item.text for item in domain.items]
    made: PreparedDataset = make_dataset(sequences, texts=texts, features={"words": word_vectors(texts, 32)})
    return made


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    return shop_of(TINY, make_dataset)


@pytest.fixture
def run_of(dataset: PreparedDataset, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        finetune(name, dataset.path, tmp_path / "run")
        return tmp_path / "run"

    return make


def content_of(run: Path) -> dict[str, bytes]:
    """The arrays and weights of a run."""
    return {file.name: file.read_bytes() for file in run.iterdir() if file.suffix in (".npy", ".safetensors")}


@each_of("name", NAMES)
def test_it_beats_its_baseline_on_the_synthetic_world(name: str, make_dataset: Any, tmp_path: Path) -> None:
    """What counts the log beats popularity; what reads texts alone knows nothing of how often items are bought.

    With the world's full size: of the tiny one's 48 items, popularity alone finds half of what can be found.
    """
    baseline = "popularity" if FAMILIES[name].by_id_alone else "chance"
    finetune(name, shop_of(DEMO, make_dataset).path, tmp_path / "run")
    found = evaluate(tmp_path / "run", plots=False)["systems"]
    assert found[name]["ndcg@10"]["mean"] > 1.25 * found[baseline]["ndcg@10"]["mean"]


@each_of("name", NAMES)
def test_a_run_is_evaluated_and_records_its_one_epoch(name: str, run_of: Callable[[str], Path]) -> None:
    run = run_of(name)
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "metrics.csv").open() as file:
        [row] = csv.DictReader(file)
    assert (row["epoch"], metrics["epochs"], metrics["best_epoch"]) == ("0", 1, 0)
    assert float(row["valid ndcg@10"]) == pytest.approx(metrics["valid"]["ndcg@10"])
    assert float(row["peak_memory_gib"]) > 0.1
    evaluated = evaluate(run, plots=False)
    assert evaluated["systems"][name]["ndcg@10"]["mean"] == pytest.approx(metrics["test"]["ndcg@10"])
    assert evaluated["excluded"][name]["ndcg@10"]["mean"] == pytest.approx(metrics["test_excluded"]["ndcg@10"])


@each_of("name", NAMES)
def test_it_recommends_the_same_alone_in_a_batch_and_saved_again(
    name: str, dataset: PreparedDataset, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    recommender = linguarec.load_model(run_of(name))
    ids = dataset.raw_item_ids
    histories = [ids[:3], ids[5:6], ids[40:20:-2], [ids[3], ids[0], ids[3]]]
    found = recommender.recommend(histories, k=5)
    assert [recommender.recommend([history], k=5)[0] for history in histories] == found
    assert all(one.raw_id not in history for best, history in zip(found, histories, strict=True) for one in best)
    recommender.save(tmp_path / "saved")
    assert linguarec.load_model(tmp_path / "saved").recommend(histories, k=5) == found
    recommender.remove_items([found[0][0].raw_id])
    assert recommender.recommend(histories, k=4)[0] == found[0][1:]


@each_of("name", NAMES)
def test_another_order_of_the_items_gives_the_same_ranks(
    name: str, make_dataset: Any, dataset: PreparedDataset, run_of: Callable[[str], Path]
) -> None:
    order = np.random.default_rng(0).permutation(dataset.num_items)
    place = np.argsort(order)
    moved = make_dataset(
        [place[dataset.sequences[user]].tolist() for user in range(len(dataset.sequences))],
        texts=[dataset.texts[row] for row in order],
        raw_ids=[dataset.raw_item_ids[row] for row in order],
        name="moved",
    )
    run = run_of(name)
    expected, found = evaluate(run, plots=False), evaluate(run, moved.path, plots=False)
    for protocol in ("systems", "excluded"):
        for metric in METRICS:
            mean = expected[protocol][name][metric]["mean"]
            assert found[protocol][name][metric]["mean"] == pytest.approx(mean)


@each_of("name", NAMES)
def test_a_seed_changes_nothing(
    name: str, dataset: PreparedDataset, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    finetune(name, dataset.path, tmp_path / "other", seed=7)
    assert content_of(tmp_path / "other") == content_of(run_of(name))


@each_of("name", NAMES)
def test_a_finished_run_is_not_fitted_again_and_a_killed_one_is(
    name: str,
    dataset: PreparedDataset,
    run_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    run, config = run_of(name), FAMILIES[name].config()
    before = (run / "model.safetensors").stat().st_mtime_ns
    again = finetune(name, dataset.path, run, config, resume=True)
    assert again["test"] == json.loads((run / "metrics.json").read_text())["test"]
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(SettingsError, match=r"model.decay: the run has 0.7.*, now 0.5"):
        finetune(name, dataset.path, run, replace(config, decay=0.5), resume=True)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(closed_form, "save_model", killed)
        finetune(name, dataset.path, tmp_path / "broken", config)
    with pytest.raises(CheckpointMismatchError):
        linguarec.load_model(tmp_path / "broken")
    finetune(name, dataset.path, tmp_path / "broken", config, resume=True)
    assert content_of(tmp_path / "broken") == content_of(run)
    finetune(name, dataset.path, run, replace(config, decay=0.5), overwrite=True)
    assert json.loads((run / "config.json").read_text())["config"]["decay"] == 0.5


@each_of("name", NAMES)
def test_settings_that_are_not_set_are_chosen_on_valid(
    name: str, make_dataset: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shop's order says nothing: of each user's items, which all are of one kind, any one may come last."""
    rng = np.random.default_rng(0)
    kinds = [rng.permutation(12)[:8] + 12 * (user % 4) for user in range(400)]
    texts = [f"kind {item // 12} {item}" for item in range(48)]
    data = make_dataset(
        [items.tolist() for items in kinds], texts=texts, features={"words": word_vectors(texts, 32)}
    ).path
    fixed = finetune(name, data, tmp_path / "fixed", defaults="fixed")
    with caplog.at_level("INFO"):
        found = finetune(name, data, tmp_path / "run")
    assert fixed.chosen is None and found.chosen is not None
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert found.chosen.items() <= config.items()
    assert found.valid["ndcg@10"] >= fixed.valid["ndcg@10"]
    assert "--defaults fixed keeps the defaults" in caplog.text and "chosen on 400 valid targets: " in caplog.text
    assert linguarec.load_model(tmp_path / "run").scorer.network.config.decay == config["decay"]
    # What is set is not chosen, equal to the default or not.
    own = FAMILIES[name].config(decay=0.3)
    assert "decay" not in (finetune(name, data, tmp_path / "own", own).chosen or {})
    assert json.loads((tmp_path / "own" / "config.json").read_text())["config"]["decay"] == 0.3


def test_targets_of_the_history_choose_no_settings() -> None:
    histories = Ragged.from_lists([[1, 2], [3], [4, 5, 4], [6]])
    cases = EvaluationCases(histories, np.array([2, 2, 4, 5], np.int32), np.arange(4))
    assert closed_form.without_repeats(cases).targets.tolist() == [2, 5]
    repeats = cases.select(np.array([0, 2]))
    assert closed_form.without_repeats(repeats).targets.tolist() == [2, 4]


@each_of("name", [name for name in NAMES if not FAMILIES[name].ranks_new])
def test_new_items_are_refused_where_they_cannot_be_ranked(
    name: str, run_of: Callable[[str], Path], make_dataset: Any
) -> None:
    run = run_of(name)
    with pytest.raises(SettingsError, match=f"{name} knows items by ID only and cannot rank new ones"):
        linguarec.load_model(run).add_items([{"raw_id": "new", "title": "Bamboo lunch box"}])
    other = make_dataset([[0, 1, 2, 3]] * 3, raw_ids=["a", "b", "c", "d"], name="other")
    with pytest.raises(DataFormatError, match=f"{name} knows items by ID only"):
        evaluate(run, other.path)


@each_of("name", [name for name in NAMES if FAMILIES[name].ranks_new])
def test_a_new_item_is_ranked_as_one_of_the_same_text(
    name: str, dataset: PreparedDataset, run_of: Callable[[str], Path]
) -> None:
    recommender, [features] = linguarec.load_model(run_of(name)), dataset.feature_names
    vector = np.asarray(dataset.features(features)[7:8])
    recommender.add_items([{"raw_id": "new", "text": dataset.texts[7]}], vectors=vector)
    [best] = recommender.recommend([[dataset.raw_item_ids[7]]], k=1)
    assert best[0].raw_id == "new"  # the same text as the only item of the history
    [twin] = recommender.recommend([["new"]], k=1)
    assert twin[0].raw_id == dataset.raw_item_ids[7]


@each_of("name", [name for name in NAMES if FAMILIES[name].keys_as_new is not None])
def test_keys_as_new_are_those_of_a_log_without_the_item(
    name: str, dataset: PreparedDataset, make_dataset: Any, tmp_path: Path
) -> None:
    item, sequences = 7, [dataset.sequences[user].tolist() for user in range(len(dataset.sequences))]
    without = make_dataset(
        [
            [*(one for one in items[:-2] if one != item), *items[-2:]] for items in sequences
        ],  # the last two train nothing
        texts=dataset.texts,
        features={"words": word_vectors(dataset.texts, 32)},
        name="without",
    )
    assert sum(items[:-2].count(item) for items in sequences) > 3
    for data, run in ((dataset, "run-with"), (without, "run-without")):
        finetune(name, data.path, tmp_path / run, defaults="fixed")
    model, other = (linguarec.load_model(tmp_path / run) for run in ("run-with", "run-without"))
    now, rows, keys_as_new = model.snapshot, np.array([item, 3]), FAMILIES[name].keys_as_new
    assert keys_as_new is not None
    found = keys_as_new(model.scorer, now.exact, rows, now.source.new_of(dataset, rows))
    expected = other.snapshot.exact.keys_of(torch.from_numpy(rows))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


@each_of("name", [name for name in NAMES if not FAMILIES[name].carries])
def test_nothing_carries_over_to_another_shop(
    name: str, dataset: PreparedDataset, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="nothing that it learned carries over"):
        finetune(name, dataset.path, tmp_path / "from", from_=run_of(name))


def test_valid_figures_say_that_they_are_without_the_history(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside figures of test with it, they would look like a collapse on test."""
    found = finetune("itemknn", dataset.path, tmp_path / "run")
    assert found.valid_protocol == "excluded" and "valid, history excluded" in capsys.readouterr().out
    kept = finetune("itemknn", dataset.path, tmp_path / "kept", training=TrainingSettings(stop_by="kept"))
    assert kept.valid_protocol is None and "valid, history" not in capsys.readouterr().out
