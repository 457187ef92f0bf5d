"""The commands that README gives for one's own data, one after the other, as a person would type them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linguarec import cli
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
        assert trained["epochs"] <= 8
        evaluated = linguarec(f"evaluate runs/{model}")
        systems = evaluated["systems"]
        assert systems[model]["ndcg@10"]["mean"] == pytest.approx(trained["test"]["ndcg@10"], abs=1e-6)
        assert systems[model]["ndcg@10"]["mean"] > systems["chance"]["ndcg@10"]["mean"]

    # Targets that no training sequence holds: never trained as mere negatives, so their text can bring them up.
    new = next(part for part in linguarec("evaluate runs/unisrec")["slices"] if part["name"].startswith("new"))
    assert new["systems"]["unisrec"]["recall@10"]["mean"] > 0.1
    assert new["systems"]["popularity"]["recall@10"]["mean"] == 0

    history = "K0001,K0002"
    found = linguarec(f"recommend runs/unisrec --history {history} -k 5")["recommendations"]
    assert len({item["raw_id"] for item in found} - {"K0001", "K0002"}) == 5
    (tmp_path / "new.csv").write_text(
        "raw_id,title,brand,category\nnew-1,Velvet cake stand,Belvoir,Kitchen > Tableware\n"
    )
    found = linguarec(f"recommend runs/unisrec --history {history} --items new.csv -k 47")
    assert found["added"] == 1
    assert "new-1" in {item["raw_id"] for item in found["recommendations"]}


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
