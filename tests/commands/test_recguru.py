"""RecGURU through the commands: aligned with another shop first, then trained on its own."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import linguarec
from linguarec.cli import main
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.families.recguru.alignment import AlignmentSettings
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
QUICK = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=3, accelerator="cpu")
FIRST = AlignmentSettings(epochs=3, reconstruction_epochs=1, learning_rate=5e-3)
Shops = list[PreparedDataset]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def curve(file: Path) -> list[tuple[str, ...]]:
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    return [(row["epoch"], row["step"], row["loss"], row.get("valid ndcg@10", "")) for row in rows]


def train(shops: Shops, run: Path, sources: list[PreparedDataset], **arguments: Any) -> Any:
    """A run on the second shop."""
    folders = [str(shop.path) for shop in sources]
    given = {"sources": folders, "alignment": FIRST, "transformer": SMALL, "training": QUICK, **arguments}
    return finetune("recguru", shops[1].path, run, **given)


def test_two_stages_leave_a_run(shops: Shops, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(shops, run, shops[:1])
    assert (result["stages"]["alignment"]["valid"], result["stages"]["alignment"]["epochs"]) == ({}, 3)
    assert result["epochs"] == 3 + 3
    saved = json.loads((run / "settings.json").read_text())
    assert saved["alignment"] == {"epochs": 3, "reconstruction_epochs": 1, "adversary": 0.1, "learning_rate": 5e-3}
    assert saved["sources"] == [f"../{shops[0].path.name}"]  # as the run folder sees it
    assert saved["source_fingerprints"] == [shops[0].fingerprint]
    losses = [float(loss) for _, _, loss, _ in curve(run / "alignment" / "metrics.csv")]
    assert losses[-1] < losses[0]
    aligned, final = weights(run / "alignment"), weights(run)
    assert aligned.keys() == final.keys()
    assert not same(aligned, final)
    tested = evaluate(run, plots=False)["systems"]
    assert tested["recguru"]["ndcg@10"]["mean"] == pytest.approx(result["test"]["ndcg@10"], abs=1e-6)
    with pytest.raises(SettingsError, match="recguru knows items by ID only and cannot rank new ones"):
        linguarec.load_model(run).add_items([{"raw_id": "new", "title": "", "text": "new"}])


def test_the_second_stage_starts_from_the_first(shops: Shops, tmp_path: Path) -> None:
    """Without a step of its own it would be the first; other shops, no other shops and no stage give other weights."""
    still = replace(QUICK, max_epochs=1, learning_rate=1e-9)
    found = []
    for name, sources, epochs in (("other", shops[:1], 3), ("alone", [], 3), ("none", [], 0)):
        run = tmp_path / name
        result = train(shops, run, sources, alignment=replace(FIRST, epochs=epochs), training=still)
        assert ("stages" in result) == bool(epochs)
        if epochs:
            torch.testing.assert_close(weights(run), weights(run / "alignment"), atol=1e-6, rtol=0)
        found.append(weights(run))
    assert not same(found[0], found[1])
    assert not same(found[1], found[2])


def test_a_run_repeats_from_its_settings(shops: Shops, tmp_path: Path) -> None:
    """run.yaml holds the folders of the other shops, relative to itself."""
    first, again = tmp_path / "first", tmp_path / "again"
    train(shops, first, shops[:1])
    words = ["finetune", "recguru", str(shops[1].path), "-o", str(again), "--config", str(first / "run.yaml")]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert same(weights(first), weights(again))
    flags = [f"--sources={shops[0].path}", "--alignment.epochs=2"]
    with pytest.raises(SystemExit) as stopped:
        main([*words[:3], "-o", str(tmp_path / "flags"), *flags, "--training.max_epochs=1"])
    assert stopped.value.code == 0


@pytest.mark.parametrize(("stage", "step"), [(1, 8), (2, 4)])
def test_killed_in_either_stage_it_goes_on_to_the_same_weights(
    stage: int, step: int, shops: Shops, tmp_path: Path, until_killed: Callable[..., None]
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(shops, unbroken, shops[:1])
    words = ("finetune", "recguru", shops[1].path, "-o", broken, "--sources", shops[0].path)
    where = f"(type(self.model).__name__ == 'AlignedShops') == ({stage} == 1) and batch.step == {step}"
    until_killed(*words, where=where, training=QUICK, alignment=FIRST, transformer=SMALL)
    assert (broken / "alignment" / "metrics.json").exists() == (stage == 2)
    train(shops, broken, shops[:1], resume=True)
    assert same(weights(unbroken), weights(broken))
    for part in (".", "alignment"):
        assert curve(unbroken / part / "metrics.csv") == curve(broken / part / "metrics.csv")


@pytest.mark.slow
def test_two_processes_align_as_one(
    shops: Shops, tmp_path: Path, in_two_processes: Callable[..., dict[str, Any]]
) -> None:
    still, exact = replace(SMALL, dropout=0.0), replace(QUICK, precision="fp32", max_epochs=1)
    groups = {"transformer": still, "training": exact, "alignment": replace(FIRST, epochs=2)}
    config = linguarec.families.FAMILIES["recguru"].config(decoder_dropout=0.0)
    alone, together = tmp_path / "alone", tmp_path / "together"
    train(shops, alone, shops[:1], config=config, **groups)
    given = ["recguru", shops[1].path, "-o", together, "--sources", shops[0].path, "--model.decoder_dropout", "0"]
    in_two_processes("finetune", *given, **groups)
    torch.testing.assert_close(weights(together / "alignment"), weights(alone / "alignment"), atol=2e-5, rtol=1e-4)


def test_sources_that_do_not_fit(shops: Shops, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(SettingsError, match=r"--sources: .* is the shop itself, or is named twice"):
        train(shops, run, shops)
    with pytest.raises(SettingsError, match=r"--sources: .* is the shop itself, or is named twice"):
        train(shops, run, [shops[0], shops[0]])
    with pytest.raises(SettingsError, match=r"--sources with --alignment\.epochs 0"):
        train(shops, run, shops[:1], alignment=AlignmentSettings(epochs=0))
    with pytest.raises(SettingsError) as caught:
        train(shops, run, [], alignment=AlignmentSettings(-1, -2, -0.5, 0.0))
    assert len(caught.value.problems) == 4
    assert not run.exists()


def test_a_run_is_resumed_with_its_own_shops_only(shops: Shops, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(shops, run, shops[:1])
    with pytest.raises(SettingsError, match=rf"sources: the run has {shops[0].path}, now none"):
        train(shops, run, [], resume=True)
