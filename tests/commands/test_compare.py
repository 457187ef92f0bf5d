import json
from dataclasses import replace

import numpy as np
import pytest
from results import stored_result

from linguarec.commands.compare import compare
from linguarec.errors import SettingsError
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

NUM_ITEMS = 30
SMALL = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=8)
SHORT = TrainingSettings(max_epochs=2, targets_per_step=200, learning_rate=0.01, precision="fp32", accelerator="cpu")


@pytest.fixture
def dataset(make_dataset):
    """Every item is followed by the next one: something to learn."""
    rng = np.random.default_rng(0)
    sequences = [
        ((start + np.arange(rng.integers(4, 9))) % NUM_ITEMS).tolist() for start in rng.integers(0, 30, size=80)
    ]
    return make_dataset(
        sequences, num_items=NUM_ITEMS, features={"enc": rng.standard_normal((NUM_ITEMS, 8)).astype("f")}
    )


@pytest.mark.slow
def test_trains_compares_and_reports(dataset, tmp_path, capsys):
    output = tmp_path / "comparison"
    found = compare(dataset.path, ["sasrec", "sasrec-text"], output, seeds=2, transformer=SMALL, training=SHORT)
    assert set(found["systems"]) >= {"chance", "popularity", "ease", "sasrec", "sasrec-text"}
    assert set(found["excluded"]) == set(found["learned"]) == set(found["systems"])
    assert found["baseline"] in {"popularity", *(set(found["systems"]) - {"chance", "sasrec", "sasrec-text"})}
    assert set(found["differences"]["learned"]) == set(found["systems"]) - {"chance", found["baseline"]}
    assert len(found["systems"]["sasrec"]["ndcg@10"]["seeds"]) == 2
    assert found["systems"]["chance"]["recall@10"]["median"] == pytest.approx(10 / NUM_ITEMS)
    for model in ("sasrec", "sasrec-text"):  # what the training measured at its end is what is compared
        for run, value in zip(found["runs"][model], found["systems"][model]["ndcg@10"]["seeds"], strict=True):
            metrics = json.loads((output / run / "metrics.json").read_text())
            assert value == pytest.approx(metrics["test"]["ndcg@10"], abs=1e-9)
    lengths = [part for part in found["slices"] if part["group"] == "history length"]
    assert sum(part["cases"] for part in lengths) == sum(part["users"] for part in lengths) == 80
    assert stored_result(output / "comparison.json") == json.loads(json.dumps(found.to_dict()))
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 3
    assert "linguarec finetune sasrec-text" in page
    assert "median of 2 seeds" in capsys.readouterr().out

    weights = output / "runs" / "sasrec" / "seed0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = compare(
        dataset.path, ["sasrec", "sasrec-text"], output, seeds=2, transformer=SMALL, training=SHORT, blend=True
    )
    assert weights.stat().st_mtime_ns == before  # finished runs are not trained again
    assert {name: of for name, of in again["systems"].items() if name != "blend"} == found["systems"]
    blends = again["systems"]["blend"]["ndcg@10"]["seeds"]
    for seed, value in enumerate(blends):
        recorded = json.loads((output / "runs" / "blend" / f"seed{seed}" / "metrics.json").read_text())
        assert value == pytest.approx(recorded["test"]["kept"]["ndcg@10"], abs=1e-9)
    assert len(blends) == 2 and set(again["learned"]) == {*found["systems"], "blend"}


def test_what_a_model_lacks_is_told_before_another_is_trained(dataset, tmp_path):
    with pytest.raises(SettingsError, match="linguarec tokenize"):
        compare(dataset.path, ["sasrec", "recformer"], tmp_path / "out", seeds=1, transformer=SMALL, training=SHORT)
    assert not (tmp_path / "out").exists()
    windows = replace(SHORT, window_stride=2)
    with pytest.raises(SettingsError, match=r"--training\.window_stride: this is not for recformer"):
        compare(dataset.path, ["sasrec", "recformer"], tmp_path / "out", transformer=SMALL, training=windows)
    with pytest.raises(SettingsError, match=r"holds a manifest\.json, so it is no place for a report"):
        compare(dataset.path, ["sasrec"], dataset.path)
    with pytest.raises(SettingsError, match="--first-seed is -1"):
        compare(dataset.path, ["sasrec"], tmp_path / "out", first_seed=-1)


def test_all_bad_settings_are_named_at_once(tmp_path):
    with pytest.raises(SettingsError) as error:
        compare(
            tmp_path, ["sasrek"], tmp_path / "out", seeds=0, baseline="nothing", training=TrainingSettings(devices=2)
        )
    assert [problem.split(" is ")[0] for problem in error.value.problems[1:]] == [
        "seeds",
        "baseline",
        "training.devices",
    ]
    assert "unknown model 'sasrek'; there are: sasrec" in str(error.value)
