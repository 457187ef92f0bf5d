"""Run folders that version 0.1.0 wrote are opened, tested and trained on, with the results of then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linguarec
from linguarec import cli

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
NAMES = sorted(file.parent.name for file in RUNS.glob("*/expected.json"))
TUNED = [name for name in NAMES if not name.startswith("pretrained-")]

Run = Callable[[str], dict[str, Any]]


def expected_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUNS / name / "expected.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a copy of the folders; the JSON of its last line."""
    shutil.copytree(RUNS, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")

    def call(line: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*line.split(), "--json"])
        captured = capsys.readouterr()
        assert stopped.value.code == 0, captured.err
        result: dict[str, Any] = json.loads(captured.out.splitlines()[-1])
        return result

    return call


def assert_same(recommender: Any, expected: dict[str, Any]) -> None:
    """The same items with the same scores; where scores are equal but for rounding, in any order."""
    found = recommender.recommend(expected["histories"], k=5)
    for row, wanted in zip(found, expected["best"], strict=True):
        scores = [score for _, score in wanted]
        assert [item.score for item in row] == pytest.approx(scores, abs=1e-3)
        assert {item.raw_id: item.score for item in row} == pytest.approx(dict(wanted), abs=1e-3)


def test_there_is_a_run_of_each_family():
    tuned = ["recformer", "sasrec", "sasrec-text", "unisrec", "unisrec-transductive", "vqrec"]
    assert sorted([*tuned, "pretrained-recformer", "pretrained-unisrec", "pretrained-vqrec"]) == NAMES


@pytest.mark.parametrize("name", TUNED)
def test_it_recommends_what_it_did(name: str):
    assert_same(linguarec.load_model(RUNS / name), expected_of(name)["recommend"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sasrec"])
def test_it_reads_new_items_as_it_did(name: str):
    expected = expected_of(name)["recommend_after_adding"]
    recommender, data = linguarec.load_model(RUNS / name), linguarec.load_dataset(RUNS / expected["data"])
    columns = ["raw_id", "title", "brand", "category"] if "recformer" in name else ["raw_id", "text"]
    rows = data.items().select(columns).to_pylist()[: expected["items"]]
    vectors = None if "recformer" in name else np.array(data.features("words")[: expected["items"]])
    recommender.add_items(rows, vectors=vectors)
    assert_same(recommender, expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_measures_what_it_did(name: str, run: Run):
    expected = expected_of(name)["evaluate"]
    summary = run(f"evaluate {name} {' '.join(expected['arguments'])}")
    assert summary["targets"] == expected["targets"]
    means = {metric: found["mean"] for metric, found in summary["systems"][summary["model"]].items()}
    assert means == pytest.approx(expected["means"], abs=5e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sasrec"])
def test_training_starts_from_its_weights(name: str, run: Run):
    """The learning rate is so small that the run is tested as it was taken over; new ID embeddings come from the seed."""
    expected = expected_of(name)
    trained = run(f"{' '.join(expected['from']['arguments'])} -o new")
    assert trained["test"] == pytest.approx(expected["from"]["test"], abs=5e-4)
    if name.startswith("pretrained-"):  # nothing is new in it, so it ranks as it does zero-shot
        assert trained["test"]["ndcg@10"] == pytest.approx(expected["evaluate"]["means"]["ndcg@10"], abs=5e-4)
