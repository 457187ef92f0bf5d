"""The command that a stranger runs first, on its smallest world: from raw logs to recommendations and a report."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linguarec
from linguarec.data.synthetic import TASTES, TINY, Shop, generate_world

pytestmark = pytest.mark.slow

Result = tuple[dict[str, Any], Path, str]
MODELS = ("sasrec", "unisrec", "vqrec")
CHANCE = float((1 / np.log2(np.arange(2, 12))).sum() / 48)  # ndcg@10 of a random order of the 48 items of a shop
LUXURY = list(TASTES).index("luxury")  # of the demo's new item: "Velvet cake stand" by Belvoir


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("demo") / "out"
    words = [sys.executable, "-m", "linguarec.cli", "demo", "--size", "tiny", "-o", str(folder), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder, done.stdout


def popular_first(domain: Shop) -> dict[str, float]:
    """recall@10 and ndcg@10 of each user's last item, ranked by how often all but the last two items of users occur."""
    sequences = [domain.sequences[user] for user in range(len(domain.sequences))]
    counts = np.bincount(np.concatenate([sequence[:-2] for sequence in sequences]), minlength=len(domain.items))
    recall, ndcg = [], []
    for sequence in sequences:
        above, same = (counts > counts[sequence[-1]]).sum(), (counts == counts[sequence[-1]]).sum()
        ranks = np.arange(above + 1, above + same + 1)  # the target has each of these ranks as likely as the others
        recall.append((ranks <= 10).mean())
        ndcg.append(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())
    return {"recall@10": float(np.mean(recall)), "ndcg@10": float(np.mean(ndcg))}


def test_results_are_those_of_the_runs_and_of_the_world(result: Result):
    found, folder, _ = result
    assert set(found["results"]) == {"popularity", *MODELS}
    for name in MODELS:
        metrics = json.loads((folder / "runs" / name / "metrics.json").read_text(encoding="utf-8"))
        scores = {metric: metrics["test"][metric] for metric in ("recall@10", "ndcg@10")}
        assert found["results"][name] == pytest.approx(scores, abs=1e-6)
    shops = {shop.name: shop for shop in generate_world(seed=0, domains=3, size=TINY)}
    assert found["results"]["popularity"] == pytest.approx(popular_first(shops["kitchen"]))
    assert found["best_possible"] == {name: pytest.approx(shop.best_possible(10)) for name, shop in shops.items()}
    assert set(found["zero_shot"]) == {"garden", "office"}
    for name, scores in found["zero_shot"].items():
        assert set(scores) == {"popularity", "unisrec", "vqrec"}
        assert scores["popularity"] == pytest.approx(popular_first(shops[name]))


def test_what_can_be_learned_is_learned(result: Result):
    """Bounds that four seeds of the world keep well; codes are too coarse in so small a world."""
    found, _, _ = result
    scores = {name: of["ndcg@10"] for name, of in found["results"].items()}
    for name in ("sasrec", "unisrec"):
        assert 1.4 * scores["popularity"] < scores[name] < found["best_possible"]["kitchen"]["ndcg@10"] + 0.03
    assert scores["vqrec"] > 1.3 * CHANCE
    for shop in ("garden", "office"):
        assert found["zero_shot"][shop]["unisrec"]["ndcg@10"] > 1.5 * CHANCE


def test_a_new_item_is_ranked_by_its_text(result: Result):
    """It is of the taste that follows the history's, of four tastes: by chance it would have rank 23."""
    found, folder, _ = result
    newcomer = found["new_item"]
    assert newcomer["candidates"] == 48 + 1 - 3
    [kitchen] = generate_world(seed=0, domains=1, size=TINY)
    tastes = {item.raw_id: item.taste for item in kitchen.items}
    assert {tastes[raw_id] for raw_id in newcomer["history"]} == {int(kitchen.transition[:, LUXURY].argmax())}
    assert set(newcomer["rank"]) == {"unisrec", "vqrec"}
    assert newcomer["rank"]["unisrec"] <= 18
    for name, rank in newcomer["rank"].items():
        recommender = linguarec.load_model(folder / "runs" / name)
        recommender.add_items([newcomer["item"]])
        best = recommender.recommend([newcomer["history"]], k=newcomer["candidates"])[0]
        assert [item.raw_id for item in best].index("new-item") + 1 == rank


def test_the_report_needs_nothing_beside_it(result: Result):
    found, folder, _ = result
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png;base64,") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', report)
    assert "best possible" in report
    assert all(command.replace(str(folder), ".") in report for command in found["next"])
    assert str(folder) not in report


def test_the_screen_ends_with_the_table_and_what_to_try_next(result: Result):
    found, _, screen = result
    order = [screen.index(title) for title in ("1 of 7", "7 of 7", "best possible", "What to try next")]
    assert order == sorted(order)
    assert all(command in screen for command in found["next"])


def test_the_folders_can_be_used_on(result: Result):
    found, folder, _ = result
    kitchen, garden, office = (
        linguarec.load_dataset(folder / "data" / name) for name in ("kitchen", "garden", "office")
    )
    assert (kitchen.num_items, garden.num_items, office.num_items) == (48, 48, 48)
    assert kitchen.features("all-MiniLM-L6-v2").shape == (48, 384)
    file = folder / "runs" / "unisrec" / "evaluation" / "test-garden-leave-one-out-zero-shot.json"
    summary = json.loads(file.read_text(encoding="utf-8"))
    assert (summary["items_read_by_text"], summary["targets"]) == (48, 300)
    assert summary["systems"]["unisrec"]["ndcg@10"]["mean"] == found["zero_shot"]["garden"]["unisrec"]["ndcg@10"]


def test_a_second_demo_does_not_overwrite_the_first(result: Result):
    _, folder, _ = result
    words = [sys.executable, "-m", "linguarec.cli", "demo", "--size", "tiny", "-o", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "exists already; choose another folder by -o, or replace it by --overwrite" in done.stderr
