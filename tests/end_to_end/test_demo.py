"""The command that a stranger runs first, on its smallest world: from raw logs to recommendations and a report."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import linguarec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    words = [sys.executable, "-m", "linguarec.cli", "demo", "--size", "tiny", "-o", str(folder), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder, done.stdout


def test_results_are_between_chance_and_the_best_possible(result: tuple[dict[str, Any], Path, str]):
    found, _, _ = result
    best = found["best_possible"]["kitchen"]
    assert set(found["results"]) == {"popularity", "sasrec", "unisrec", "vqrec"}
    for scores in found["results"].values():
        assert 10 / 48 * 0.8 < scores["recall@10"] < best["recall@10"] + 0.1
    assert found["results"]["unisrec"]["ndcg@10"] > found["results"]["popularity"]["ndcg@10"]
    assert set(found["zero_shot"]) == {"garden", "office"}
    assert set(found["new_item"]["rank"]) == {"unisrec", "vqrec"}
    assert all(1 <= rank <= 46 for rank in found["new_item"]["rank"].values())


def test_the_report_needs_nothing_beside_it(result: tuple[dict[str, Any], Path, str]):
    found, folder, _ = result
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png;base64,") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', report)
    assert "best possible" in report
    assert all(command in report for command in found["next"])


def test_the_screen_ends_with_the_table_and_what_to_try_next(result: tuple[dict[str, Any], Path, str]):
    found, _, screen = result
    order = [screen.index(title) for title in ("1 of 7", "7 of 7", "best possible", "What to try next")]
    assert order == sorted(order)
    assert all(command in screen for command in found["next"])


def test_the_folders_can_be_used_on(result: tuple[dict[str, Any], Path, str]):
    found, folder, _ = result
    recommender = linguarec.load_model(folder / "runs" / "unisrec")
    recommender.add_items([found["new_item"]["item"]])
    best = recommender.recommend([found["new_item"]["history"]], k=46)[0]
    assert [item.raw_id for item in best].index("new-item") + 1 == found["new_item"]["rank"]["unisrec"]
    dataset = linguarec.load_dataset(folder / "data" / "kitchen")
    assert dataset.num_items == 48


def test_a_second_demo_does_not_overwrite_the_first(result: tuple[dict[str, Any], Path, str]):
    _, folder, _ = result
    words = [sys.executable, "-m", "linguarec.cli", "demo", "--size", "tiny", "-o", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "exists already; choose another folder by -o, or replace it by --overwrite" in done.stderr
