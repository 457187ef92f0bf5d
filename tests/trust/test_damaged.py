"""Damaged folders: whatever happened to a file, opening the folder works or ends in an error that names it.

`LINGUAREC_TRUST=10` tries ten times as many damages as the quick test.
"""

import logging
import os
import random
import shutil
import signal
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damages import Damage, damaged, damages_of
from safetensors.torch import load_file

from linguarec.commands.describe import describe
from linguarec.commands.evaluate import evaluate
from linguarec.commands.tune import tune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import LinguarecError
from linguarec.families.recformer.backbone import recformer_from_backbone
from linguarec.model_card import model_card
from linguarec.onnx_files import write_onnx
from linguarec.recommender import Recommender
from linguarec.runs.settings import read_settings
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.tokens import TokenSource
from linguarec.text.encoders import TextEncoder

SIZE = int(os.environ.get("LINGUAREC_TRUST", "1"))
SECONDS = 20  # that opening may take
log = logging.getLogger(__name__)
Opener = Callable[[Path], object]


def drawn(folder: Path, count: int) -> list[Damage]:
    """Some damages of a folder, the same in every run: of each file about as many."""
    of_file: dict[str, list[Damage]] = {}
    for damage in damages_of(folder):
        of_file.setdefault(damage.file, []).append(damage)
    each = -(-count * SIZE // len(of_file))
    picked = []
    for number, some in enumerate(of_file.values()):
        picked += random.Random(number).sample(some, min(each, len(some)))
    return picked


def outcome(opener: Opener, folder: Path, damage: Damage) -> str | None:
    """What went wrong beside an error that names the folder; None = nothing. With --log-cli-level=ERROR it is shown at once."""
    wrong = _outcome(opener, folder, damage)
    if wrong is not None:
        log.error("%s", wrong)
    return wrong


def _outcome(opener: Opener, folder: Path, damage: Damage) -> str | None:

    def late(number: int, frame: types.FrameType | None) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    try:
        with damaged(folder, damage):
            signal.alarm(SECONDS)
            opener(folder)
    except LinguarecError as error:
        return None if str(folder) in str(error) else f"{damage}: the error names no file: {error}"
    except Exception as error:  # noqa: BLE001  # any other is what this test looks for
        last = traceback.extract_tb(error.__traceback__)
        own = next((f for f in reversed(last) if "/linguarec/" in f.filename), last[-1])
        where = f"{Path(own.filename).name}:{own.lineno}"
        return f"{damage}: {type(error).__name__} at {where}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


def open_shop(folder: Path) -> None:
    dataset = PreparedDataset.open(folder)
    describe(folder)
    for name in dataset.feature_names:
        EmbeddingSource.stored(dataset, name)
        dataset.load_features(name)
        dataset.word_drop_draws(name)
    for name in dataset.code_names:
        CodeSource.stored(dataset, name)
    for name in dataset.token_names:
        TokenSource.stored(dataset, name)
    _ = dataset.raw_user_ids, dataset.item_row, dataset.texts


def open_run(folder: Path) -> None:
    recommender = Recommender.load(folder)
    first = recommender.catalogue.raw_id(0) if len(recommender.catalogue) else "none"
    recommender.recommend([[first]] * 40, k=20)
    try:
        recommender.similar_items([first])
    except LinguarecError as error:  # of a model that scores by weights between items
        if "knows no vectors of items" not in str(error):
            raise
    if recommender.description.family.source.flags.get("tokens"):
        recommender.add_items([{"raw_id": "new", "title": recommender.catalogue.text(0) or "title"}])
    read_settings(folder)


def test_a_damaged_prepared_folder(shop: Path) -> None:
    found = [outcome(open_shop, shop, damage) for damage in drawn(shop, 120)]
    assert len(found) >= 100
    assert [wrong for wrong in found if wrong] == []
    open_shop(shop)


@pytest.mark.parametrize("model", ["sasrec", "unisrec", "vqrec", "recformer", "ease", "blend"])
def test_a_damaged_run(model: str, runs: dict[str, Path]) -> None:
    found = [outcome(open_run, runs[model], damage) for damage in drawn(runs[model], 60)]
    assert [wrong for wrong in found if wrong] == []
    open_run(runs[model])


def test_evaluating_with_damaged_folders(shop: Path, runs: dict[str, Path]) -> None:
    run = runs["unisrec"]

    def of_shop(folder: Path) -> None:
        evaluate(run, folder, plots=False)

    def of_run(folder: Path) -> None:
        evaluate(folder, shop, plots=False)

    found = [outcome(of_shop, shop, damage) for damage in drawn(shop, 8)[::2]]
    found += [outcome(of_run, run, damage) for damage in drawn(run, 8)[::2] if not damage.file.startswith("evaluation")]
    assert [wrong for wrong in found if wrong] == []


def test_exporting_a_damaged_run(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the export but the exporter of PyTorch, which takes seconds and reads no files."""
    monkeypatch.setattr("linguarec.onnx_files._write_network", lambda model, file: file.write_bytes(b""))
    monkeypatch.setattr("linguarec.onnx_files._compared", lambda model, file: 0.0)

    def exported(folder: Path) -> None:
        write_onnx(Recommender.load(folder), tmp_path)

    for model in ("unisrec", "blend"):
        found = [outcome(exported, runs[model], damage) for damage in drawn(runs[model], 12)]
        assert [wrong for wrong in found if wrong] == []
        exported(runs[model])


def test_the_card_of_a_damaged_run(runs: dict[str, Path], shop: Path) -> None:
    evaluate(runs["ease"], shop, plots=False)
    for model in ("ease", "blend"):
        found = [
            outcome(lambda folder: model_card(folder, "0" * 64), runs[model], damage)
            for damage in drawn(runs[model], 24)
        ]
        assert [wrong for wrong in found if wrong] == []


def test_a_damaged_study(shop: Path, tmp_path: Path) -> None:
    """The folder of `tune`: the study goes on, or the file is named."""

    def go_on(folder: Path) -> None:
        tune("itemknn", shop, folder, trials=1)

    go_on(tmp_path / "study")
    files = ("study.json", "study.sqlite", "best.yaml", "tuning.json", "best/")
    every = [damage for damage in drawn(tmp_path / "study", 24) if damage.file.startswith(files)]
    found = [outcome(go_on, tmp_path / "study", damage) for damage in every]
    assert len(found) >= 10
    assert [wrong for wrong in found if wrong] == []
    go_on(tmp_path / "study")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_damaged_encoder(pickled: bool, backbone: str, tmp_path: Path) -> None:
    """A language model of transformers, with its weights as safetensors or as a file of `torch.save`."""
    folder = tmp_path / "encoder"
    shutil.copytree(backbone, folder)
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    def open_encoder(folder: Path) -> None:
        TextEncoder.load(str(folder), pooling="mean", device="cpu").encode(["a title"])
        recformer_from_backbone(str(folder), window=16, max_tokens=64, max_items=8)

    open_encoder(folder)
    every = [damage for damage in drawn(folder, 30) if not damage.file.startswith("generation")]
    found = [outcome(open_encoder, folder, damage) for damage in every]
    assert [wrong for wrong in found if wrong] == []
