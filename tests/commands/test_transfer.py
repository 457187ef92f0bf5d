"""The transfer report: what is trained how, what is compared, what is said of it."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from linguarec.codes.codebook import CodeBook
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.transfer import Way, transfer, verdict
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError, StaleFeaturesError
from linguarec.training.settings import TrainingSettings

QUICK = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=2, accelerator="cpu")


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", ["unisrec", "vqrec", "zesrec"])
def test_every_way_and_share_is_trained_as_it_says(
    model: str, shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, output = pretrained(model), tmp_path / "report"
    found = transfer(shops[1].path, start, output, shares=[20, 100], seeds=2, training=QUICK)
    assert read(output / "transfer.json")["systems"] == json.loads(json.dumps(found["systems"]))
    assert read(output / "transfer.json")["mode"] == {"unisrec": "inductive", "vqrec": "reuse"}.get(
        model
    )  # the defaults
    for way, frozen in (("scratch", None), ("frozen", "encoder"), ("full", "none")):
        for share in (20, 100):
            run = output / "runs" / way / str(share) / "seed1"
            settings = read(run / "settings.json")
            assert (settings["from"] or {}).get("frozen") == frozen
            assert settings["users"] == share / 100
            assert settings["encoder"]["hidden_size"] == 16  # scratch has the sizes of the pre-trained model
            values = found["systems"][share][way]["ndcg@10"]["seeds"]
            assert values[1] == pytest.approx(read(run / "metrics.json")["test"]["ndcg@10"])
    untrained = evaluate(start, shops[1].path, zero_shot=True, plots=False)["systems"][model]["ndcg@10"]["mean"]
    assert found["systems"][20]["zero-shot"]["ndcg@10"]["median"] == pytest.approx(untrained)
    difference = found["differences"][100]["full"]["ndcg@10"]
    means = [found["systems"][100][way]["ndcg@10"]["mean"] for way in ("full", "scratch")]
    assert difference["difference"] == pytest.approx(means[0] - means[1])
    assert found["verdicts"][100]["full"] == verdict(difference)
    assert "20 %, frozen" in (output / "report.html").read_text()
    assert (output / "plots" / "shares.png").stat().st_size > 1000


def test_what_does_not_fit_is_refused_before_the_trainings_from_scratch(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, target = pretrained("unisrec"), shops[1]
    info = replace(target.feature_info("words"), encoder="other", weights_sha256="1" * 64)
    target.write_features("other", target.features("words"), info)
    for ways in (["scratch", "full"], ["scratch", "zero-shot"]):
        with pytest.raises(StaleFeaturesError, match=r"and .* has vectors other \(encoder other \(weights 1{12}\)"):
            transfer(target.path, start, tmp_path / "report", ways, features="other", training=QUICK)
    assert not (tmp_path / "report").exists()


def test_scratch_reads_codes_of_its_own(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, target, output = pretrained("vqrec"), shops[1], tmp_path / "report"
    borrowed = f"book-{CodeBook.load(start / 'code_book.npz').fingerprint[:12]}"
    ways: list[Way] = ["scratch", "full", "zero-shot"]
    found = transfer(target.path, start, output, ways, [100], seeds=1, training=QUICK)
    assert read(output / "transfer.json")["inputs"] == found["inputs"]
    assert found["inputs"] == {
        "scratch": {"features": None, "codes": "own"},
        "full": {"features": None, "codes": borrowed},
        "zero-shot": {"features": None, "codes": borrowed},
    }
    # Without codes of its own, those that were borrowed for the tuned ways are no stand-in unless they are named.
    target.codes_path("own").unlink()
    none = (
        rf"none of its own \(but {borrowed}, of .*, for --codes\); make them with `linguarec quantize {target.path} --f"
    )
    with pytest.raises(SettingsError, match=none):
        transfer(target.path, start, tmp_path / "other", ways, [100], seeds=1, training=QUICK)
    with pytest.raises(SettingsError, match=none):
        finetune("vqrec", target.path, tmp_path / "other", training=QUICK)
    with pytest.raises(SettingsError, match=none):
        pretrain("vqrec", [target.path], tmp_path / "other", training=QUICK)
    assert not (tmp_path / "other").exists()
    finetune("vqrec", target.path, tmp_path / "other", codes=borrowed, training=replace(QUICK, max_epochs=1))
    assert read(tmp_path / "other" / "settings.json")["codes"] == borrowed


def test_zero_shot_alone_tells_the_vectors_that_it_coded(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, target = pretrained("vqrec"), shops[1]
    found = transfer(target.path, start, tmp_path / "report", ["zero-shot"], [100], seeds=1, training=QUICK)
    assert found["inputs"] == {"zero-shot": {"features": "words", "codes": None}}
    assert target.code_names == ["own"]


def test_codes_are_asked_for_before_any_are_borrowed(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, target = pretrained("vqrec"), shops[1]
    target.codes_path("own").unlink()
    with pytest.raises(SettingsError, match=r"this model reads item codes and .* has none; make them with"):
        transfer(target.path, start, tmp_path / "report", training=QUICK)
    assert target.code_names == []


def test_a_model_of_ids_is_refused_before_scratch_is_trained(shops: list[PreparedDataset], tmp_path: Path) -> None:
    start = tmp_path / "sasrec"
    finetune("sasrec", shops[0].path, start, training=replace(QUICK, max_epochs=1))
    with pytest.raises(SettingsError, match="sasrec knows items by ID only: nothing that it learned carries over"):
        transfer(shops[1].path, start, tmp_path / "report", ["scratch", "full"], training=QUICK)
    assert not (tmp_path / "report").exists()


def test_it_can_be_repeated_with_more(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, output = pretrained("unisrec"), tmp_path / "report"
    first = transfer(shops[1].path, start, output, ways=["scratch"], shares=[100], seeds=1, training=QUICK)
    written = (output / "runs" / "scratch" / "100" / "seed0" / "model.safetensors").stat().st_mtime_ns
    assert first["differences"] == {100: {}}
    more = transfer(shops[1].path, start, output, ways=["scratch", "full"], shares=[100], seeds=1, training=QUICK)
    assert (output / "runs" / "scratch" / "100" / "seed0" / "model.safetensors").stat().st_mtime_ns == written
    assert more["systems"][100]["scratch"] == first["systems"][100]["scratch"]
    assert set(more["verdicts"][100]) == {"full"}


def test_a_share_of_the_users_trains_and_all_are_tested(shops: list[PreparedDataset], tmp_path: Path) -> None:
    targets = {}
    for users in (0.1, 0.5, 1.0):
        run = tmp_path / str(users)
        finetune("sasrec", shops[0].path, run, training=QUICK, users=users)
        with (run / "metrics.csv").open() as file:
            row = next(csv.DictReader(file))
        targets[users] = float(row["targets_per_second"]) * float(row["seconds"])
        assert evaluate(run, plots=False)["users"] == 300
    assert targets[0.1] == pytest.approx(0.1 * targets[1.0], rel=0.25)
    assert targets[0.5] == pytest.approx(0.5 * targets[1.0], rel=0.1)
    with pytest.raises(SettingsError, match="users is 0; it is a fraction of the users"):
        finetune("sasrec", shops[0].path, tmp_path / "none", users=0)


def test_verdicts() -> None:
    assert verdict({"low": 0.001, "high": 0.003}) == "helps"
    assert verdict({"low": -0.003, "high": -0.001}) == "hurts"
    assert verdict({"low": -0.001, "high": 0.003}) == "no difference"


def test_shares_and_processes_that_cannot_be_are_refused(shops: list[PreparedDataset], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"shares holds 0; each is a percentage"):
        transfer(shops[1].path, tmp_path, tmp_path / "report", shares=[0, 100])
    with pytest.raises(SettingsError, match=r"training.devices is 2; transfer trains in one process"):
        transfer(shops[1].path, tmp_path, tmp_path / "report", training=replace(QUICK, devices=2))
