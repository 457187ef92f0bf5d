"""evaluate --zero-shot: a model ranks data that it was never tuned on, all items read by their text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import catalogue_batch

from linguarec.batching.batches import ItemBatch
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.errors import CheckpointMismatchError, SettingsError, StaleFeaturesError
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.families.opening import open_model
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
LONGER = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=12, accelerator="cpu")
Shops = list[PreparedDataset]


def mean(found: dict[str, Any], system: str, metric: str = "ndcg@10") -> float:
    value: float = found["systems"][system][metric]["mean"]
    return value


def test_unisrec_reads_the_vectors_of_its_encoder(shops: Shops, pretrained: Callable[..., Path]) -> None:
    start, shop = pretrained("unisrec", training=LONGER), shops[1]
    found = evaluate(start, shop.path, zero_shot=True, plots=False)
    network, _ = open_model(start)
    cases = evaluation_cases(shop.sequences, shop.roles(), "test")
    expected = evaluate_model(network, catalogue_batch(shop, "words", None), cases).mean("ndcg@10")
    assert mean(found, "unisrec") == pytest.approx(expected, abs=1e-6)
    assert (found["items_read_by_text"], found["zero_shot"], found["trained_on_this_data"]) == (48, True, False)
    file = start / "evaluation" / f"test-{shop.name}-leave-one-out-zero-shot.json"
    assert json.loads(file.read_text())["systems"] == found["systems"]


@pytest.mark.parametrize("stored", [False, True])
def test_vqrec_codes_with_its_own_book(stored: bool, shops: Shops, pretrained: Callable[..., Path]) -> None:
    start, shop = pretrained("vqrec"), shops[1]
    book = CodeBook.load(start / "code_book.npz")
    codes = book.encode(shop.features("words"))
    if stored:
        codes[:, 0] = 0  # so that one sees which codes were taken
        ItemCodes(codes, book, shop.texts_fingerprint).save(shop.codes_path("shared"))
    found = evaluate(start, shop.path, zero_shot=True, plots=False)
    network, _ = open_model(start)
    zeros = torch.zeros(shop.num_items, dtype=torch.int64)
    items = ItemBatch(zeros - 1, zeros, None, torch.from_numpy(codes.astype(np.int64)))
    cases = evaluation_cases(shop.sequences, shop.roles(), "test")
    assert mean(found, "vqrec") == pytest.approx(evaluate_model(network, items, cases).mean("ndcg@10"), abs=1e-6)
    assert shop.code_names == (["own", "shared"] if stored else ["own"])  # evaluating writes no codes


def test_a_fine_tuned_run_reads_its_own_data_by_text_too(shops: Shops, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune("unisrec", shops[0].path, run, transformer=SMALL, training=LONGER)
    known, read = evaluate(run, plots=False), evaluate(run, zero_shot=True, plots=False)
    assert (known["items_read_by_text"], read["items_read_by_text"]) == (0, 48)
    assert mean(read, "unisrec", "mrr") == pytest.approx(mean(known, "unisrec", "mrr"), abs=1e-6)
    assert {file.stem for file in (run / "evaluation").glob("*.json")} == {"test", "test-zero-shot"}


def test_models_that_read_ids_are_refused(shops: Shops, tmp_path: Path) -> None:
    for model in ("sasrec", "unisrec-transductive"):
        run = tmp_path / model
        finetune(
            model, shops[0].path, run, transformer=SMALL, training=TrainingSettings(max_epochs=1, accelerator="cpu")
        )
        with pytest.raises(SettingsError, match=rf"{model}, which knows items by (ID|text and ID).*{shops[1].path}"):
            evaluate(run, shops[1].path, zero_shot=True)


def test_what_is_missing_is_named(shops: Shops, pretrained: Callable[..., Path]) -> None:
    start, data = pretrained("vqrec"), shops[1].path
    with pytest.raises(SettingsError, match=rf"{start} was trained on no folder of its own; name one"):
        evaluate(start, zero_shot=True)
    with pytest.raises(SettingsError, match=rf"{start} has no catalogue, so it knows no item; pass --zero-shot"):
        evaluate(start, data)
    with pytest.raises(SettingsError, match=r"--features b: .* has no item vectors of that name; it has: words"):
        evaluate(start, data, zero_shot=True, features="b")
    with pytest.raises(SettingsError, match="--features names what --zero-shot reads of the data"):
        evaluate(pretrained("unisrec").with_name("unisrec-run"), features="words")
    shops[1].feature_path("words").with_suffix(".json").unlink()
    (start / "encoder.json").unlink()
    with pytest.raises(
        StaleFeaturesError, match=rf"{start} was trained on vectors of words .* and {data} has no vectors"
    ):
        evaluate(start, data, zero_shot=True)
    (start / "code_book.npz").unlink()
    with pytest.raises(CheckpointMismatchError, match=rf"{start} has no codebook \(code_book.npz\)"):
        evaluate(start, data, zero_shot=True)
