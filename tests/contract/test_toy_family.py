"""The promise "a model is one folder and one line": a family that `src/` does not know goes through every command."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_family

import linguarec
from linguarec.cli import main
from linguarec.data.dataset import PreparedDataset
from linguarec.data.synthetic import TINY, generate_world
from linguarec.families import FAMILIES

MakeDataset = Any


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(FAMILIES, "toy", toy_family.TOY)


@pytest.fixture
def shops(make_dataset: MakeDataset) -> Iterator[list[PreparedDataset]]:
    """Two shops of the tiny world."""
    made = []
    for shop in generate_world(seed=0, domains=2, size=TINY):
        sequences = [shop.sequences[user].tolist() for user in range(len(shop.sequences))]
        texts, raw_ids = [item.text for item in shop.items], [item.raw_id for item in shop.items]
        made.append(make_dataset(sequences, texts, name=shop.name, raw_ids=raw_ids))
    yield made


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The result of a command, which must succeed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, words), "--json"])
    shown = capsys.readouterr()
    assert stopped.value.code == 0, shown.err
    found: dict[str, Any] = json.loads(shown.out.splitlines()[-1])
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command says, which must refuse."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, words)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


CPU = ("--training.accelerator", "cpu")


def test_finetune_evaluate_and_recommend(
    shops: list[PreparedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    result = run(capsys, "finetune", "toy", shops[0].path, "-o", folder, "--warm-up.epochs", 3, *CPU)
    assert result["model"] == "toy"
    assert result["stages"]["spelling"]["epochs"] == 3
    assert result["epochs"] == 3 + 4
    tested = run(capsys, "evaluate", folder, "--no-plots")
    assert tested["systems"]["toy"]["ndcg@10"]["mean"] == pytest.approx(result["test"]["ndcg@10"], abs=1e-6)
    assert tested["systems"]["toy"]["ndcg@10"]["mean"] > 1.2 * tested["systems"]["chance"]["ndcg@10"]["mean"]
    elsewhere = run(capsys, "evaluate", folder, shops[1].path, "--zero-shot", "--no-plots")
    assert elsewhere["items_read_by_text"] == shops[1].num_items
    new = tmp_path / "new.csv"
    known = shops[0].raw_item_ids[3]
    new.write_text(f"raw_id,text\ntwin,{shops[0].texts[3]}\n", encoding="utf-8")
    history = ",".join(shops[0].raw_item_ids[5:8])
    best = run(capsys, "recommend", folder, "--history", history, "--items", new, "-k", shops[0].num_items)
    scores = {found["raw_id"]: found["score"] for found in best["recommendations"]}
    assert scores["twin"] == pytest.approx(scores[known], abs=1e-5)  # the same text, so the same key


def test_a_run_repeats_by_its_config_and_resumes_to_the_same_weights(
    shops: list[PreparedDataset],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = tmp_path / "whole"
    words = ("finetune", "toy", shops[0].path)
    run(capsys, *words, "-o", whole, "--letters", "aeioulnrst", "--warm-up.hidden", 0.3, *CPU)
    run(capsys, *words, "-o", tmp_path / "again", "--config", whole / "run.yaml")
    assert weights(tmp_path / "again") == weights(whole)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    broken = tmp_path / "broken"
    from linguarec.training.callbacks import StepProgress

    with monkeypatch.context() as patched:
        epochs = iter([None, None, None, killed])

        def stop_in_the_second_stage(self: StepProgress, *given: object) -> None:
            if next(epochs) is killed:
                killed()

        patched.setattr(StepProgress, "on_train_epoch_end", stop_in_the_second_stage)
        with pytest.raises(SystemExit):
            main([*map(str, (*words, "-o", broken, "--config", whole / "run.yaml"))])
    assert (broken / "spelling" / "metrics.json").exists()
    assert not (broken / "metrics.json").exists()
    run(capsys, *words, "-o", broken, "--config", whole / "run.yaml", "--resume")
    assert weights(broken) == weights(whole)
    message = refused(capsys, *words, "-o", whole, "--letters", "abc", "--resume")
    assert "letters: the run has 'aeioulnrst', now 'abc'" in message


def test_pretrain_compare_and_transfer(
    shops: list[PreparedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (shop.path for shop in shops)
    pre = tmp_path / "pre"
    result = run(capsys, "pretrain", "toy", first, second, "-o", pre, *CPU)
    assert set(result["domains"]) == {shop.name for shop in shops}
    tuned = run(capsys, "finetune", "toy", first, "-o", tmp_path / "tuned", "--from", pre, *CPU)
    assert 0 < tuned["test"]["ndcg@10"] < 1
    assert json.loads((tmp_path / "tuned" / "settings.json").read_text())["from"]["left_out"] == []
    compared = run(
        capsys, "compare", first, "--models", "toy,sasrec", "--seeds", 1, "-o", tmp_path / "compared",
        "--training.max_epochs", 1, "--training.targets_per_step", 100, "--letters", "aeiou", *CPU,
    )  # fmt: skip
    closed_form = {name for name, family in FAMILIES.items() if family.closed_form and not family.source.flags}
    assert set(compared["systems"]) == {"chance", "popularity", "toy", "sasrec"} | closed_form
    settings = json.loads((Path(compared["runs"]["toy"][0]) / "settings.json").read_text())
    assert settings["letters"] == "aeiou"
    moved = run(
        capsys, "transfer", second, "--from", pre, "-o", tmp_path / "moved", "--shares", 100, "--seeds", 1,
        "--training.max_epochs", 1, *CPU,
    )  # fmt: skip
    assert set(moved["systems"]["100"]) == {"scratch", "full", "zero-shot"}


def test_its_flags_are_refused_for_others_and_its_own_are_shown(
    shops: list[PreparedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "finetune", "sasrec", shops[0].path, "-o", tmp_path / "x", "--letters", "abc")
    assert "--letters: this is not for sasrec; leave it out" in message
    message = refused(capsys, "finetune", "toy", shops[0].path, "-o", tmp_path / "x", "--codes", "abc")
    assert "--codes: this is not for toy; leave it out" in message
    with pytest.raises(SystemExit):
        main(["finetune", "toy", "--help"])
    shown = capsys.readouterr().out
    assert "--warm-up.epochs" in shown or "--warm_up.epochs" in shown
    assert "the letters that are counted" in shown


def test_it_is_saved_and_loaded_with_items_added(shops: list[PreparedDataset], tmp_path: Path) -> None:
    from linguarec.commands.finetune import finetune
    from linguarec.training.settings import TrainingSettings

    training = TrainingSettings(targets_per_step=100, max_epochs=1, accelerator="cpu")
    finetune("toy", shops[0].path, tmp_path / "run", training=training)
    recommender = linguarec.load_model(tmp_path / "run")
    recommender.add_items([{"raw_id": "new", "text": "marble tea towel"}])
    recommender.save(tmp_path / "grown")
    loaded = linguarec.load_model(tmp_path / "grown")
    history = [shops[0].raw_item_ids[:4]]
    assert loaded.recommend(history, k=60) == recommender.recommend(history, k=60)
    assert "new" in [found.raw_id for found in loaded.recommend(history, k=60)[0]]
