"""The commands that README gives for one's own data, one after the other, as a person would type them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linguarec import cli, load_model
from linguarec.data.synthetic import TINY, generate_world

pytestmark = pytest.mark.slow

Linguarec = Callable[[str], dict[str, Any]]


@pytest.fixture
def linguarec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Linguarec:
    """Run a command line with --json in a folder that holds `log.csv` and `items.csv`; gives the JSON of its last line."""
    [domain] = generate_world(domains=1, size=TINY)
    domain.write(tmp_path / "logs")
    (tmp_path / "logs" / "interactions.csv").rename(tmp_path / "log.csv")
    (tmp_path / "logs" / "items.csv").rename(tmp_path / "items.csv")
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*line.split(), "--json"])
        captured = capsys.readouterr()
        assert stopped.value.code == 0, captured.err
        result: dict[str, Any] = json.loads(captured.out.splitlines()[-1])
        return result

    return run


def test_from_a_log_to_recommendations(linguarec: Linguarec, tmp_path: Path):
    prepared = linguarec(
        "prepare table --interactions log.csv --items items.csv -o data/shop --k-core 0 --catalogue all"
    )
    assert (prepared["users"], prepared["items"]) == (300, 48)

    assert linguarec("encode data/shop")["width"] == 384
    linguarec("quantize data/shop --features all-MiniLM-L6-v2 --subvectors 16 --centroids 8")

    small = "--transformer.hidden_size 16 --transformer.inner_size 16 --transformer.dropout 0.1"
    fast = "--training.max_epochs 8 --training.targets_per_step 100 --training.learning_rate 0.005"
    for model in ("sasrec", "unisrec", "vqrec"):
        trained = linguarec(f"finetune {model} data/shop -o runs/{model} {small} {fast}")
        assert trained["epochs"] == 8
        evaluated = linguarec(f"evaluate runs/{model}")
        systems = evaluated["systems"]
        assert systems[model]["ndcg@10"]["mean"] == pytest.approx(trained["test"]["ndcg@10"], abs=1e-6)
        scores = {name: system["ndcg@10"]["mean"] for name, system in systems.items()}
        # Codes are too coarse for so few items.
        assert scores[model] > (1.2 * scores["chance"] if model == "vqrec" else 1.3 * scores["popularity"])

    # Targets that no training sequence holds: never trained as mere negatives, so their text can bring them up.
    new = next(part for part in linguarec("evaluate runs/unisrec")["slices"] if part["name"].startswith("new"))
    assert new["systems"]["unisrec"]["recall@10"]["mean"] > new["systems"]["chance"]["recall@10"]["mean"]
    assert new["systems"]["popularity"]["recall@10"]["mean"] == 0

    # Users keep their taste or move on to the one that follows it, so most of what is recommended is of these two.
    [shop] = generate_world(domains=1, size=TINY)
    tastes = {item.raw_id: item.taste for item in shop.items}
    taste = tastes["K0002"]
    likely = set(np.flatnonzero(shop.transition[taste] > 0.2).tolist())
    assert len(likely) == 2
    found = linguarec("recommend runs/unisrec --history K0001,K0002 -k 10")["recommendations"]
    ids, scores = [item["raw_id"] for item in found], [item["score"] for item in found]
    assert len(set(ids) - {"K0001", "K0002"}) == 10
    assert scores == sorted(scores, reverse=True)
    assert sum(tastes[raw_id] in likely for raw_id in ids) >= 8
    recommender = load_model(tmp_path / "runs" / "unisrec")
    assert [item.raw_id for item in recommender.recommend([["K0001", "K0002"]], k=10)[0]] == ids

    # A new item with the texts of a known one has its score; one of the taste that is unlikely here has a low rank.
    twin = next(item for item in shop.items if item.raw_id == ids[0])
    others = [item for item in shop.items if item.raw_id not in ("K0001", "K0002")]
    unlikely = next(item for item in others if shop.transition[taste, item.taste] < 0.1)
    rows = [
        ("new-1", twin.title, twin.brand, twin.category),
        ("new-2", unlikely.title, unlikely.brand, unlikely.category),
    ]
    lines = ["raw_id,title,brand,category", *(",".join(row) for row in rows)]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    found = linguarec("recommend runs/unisrec --history K0001,K0002 --items new.csv -k 48")
    assert found["added"] == 2
    scores = {item["raw_id"]: item["score"] for item in found["recommendations"]}
    assert len(scores) == 48 + 2 - 2
    # Two items encoded apart from the others: in bfloat16 that changes the last bits of their vectors.
    assert scores["new-1"] == pytest.approx(scores[twin.raw_id], rel=2e-3)
    assert scores["new-2"] == pytest.approx(scores[unlikely.raw_id], rel=2e-3)
    ranks = {raw_id: rank for rank, raw_id in enumerate(scores, start=1)}
    assert ranks["new-1"] <= 2
    assert ranks["new-2"] > 20


def test_bad_input_is_told_and_exits_with_2(linguarec: Linguarec, capsys: pytest.CaptureFixture[str]):
    linguarec("prepare table --interactions log.csv --items items.csv -o data/shop --k-core 0 --catalogue all")
    for line, message in {
        "finetune unisrec data/shop -o runs/u": "make them with `linguarec encode data/shop`",
        "finetune sasrec data/none -o runs/s": "data/none is not a prepared dataset folder",
        "prepare table --interactions none.csv -o data/x": "none.csv",
        "prepare table --interactions log.csv -o data/shop": "data/shop exists already",
        "finetune sasrec data/shop -o runs/s --training.learning_rate -1 --training.patience 0": "training.patience is 0",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            cli.main(line.split())
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
