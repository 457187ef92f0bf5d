"""A small prepared folder with vectors, codes and tokens, and runs of four models on it, made once."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bert import save_small_bert

from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.blend import blend
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.families.recformer.model import RecformerConfig
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

BOOKS, CENTROIDS, WIDTH = 4, 8, 16
SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
ONE = TrainingSettings(targets_per_step=200, max_epochs=1, accelerator="cpu")
MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {"transformer": SMALL},
    "unisrec": {"transformer": SMALL},
    "vqrec": {"transformer": SMALL},
    "recformer": {"config": RecformerConfig(window=16, max_tokens=64, max_items=8, layers=2)},
}


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small random BERT that knows the words of the world."""
    (domain,) = generate_world(seed=0, domains=1, size=TINY)
    return str(save_small_bert(tmp_path_factory.mktemp("backbone"), [item.text for item in domain.items]))


@pytest.fixture(scope="session")
def whole_shop(tmp_path_factory: pytest.TempPathFactory, backbone: str) -> Path:
    """A prepared folder; nobody changes it."""
    folder = tmp_path_factory.mktemp("whole") / "shop"
    (domain,) = generate_world(seed=0, domains=1, size=TINY)
    ids = [item.raw_id for item in domain.items]
    log = [
        {"user_id": f"u{user}", "item_id": ids[item], "timestamp": 1_600_000_000 + 60 * place}
        for user in range(len(domain.sequences))
        for place, item in enumerate(domain.sequences[user].tolist())
    ]
    items = [{"item_id": item.raw_id, "title": item.text} for item in domain.items]
    prepare_table(log, folder, items, attributes=["title"], k_core=0)
    dataset = PreparedDataset.open(folder)
    vectors = word_vectors(dataset.texts, WIDTH)
    info = FeatureInfo("words", WIDTH, "mean", "0" * 64, dataset.texts_fingerprint, "default")
    dataset.write_features("words", vectors, info)
    np.save(folder / "features" / "words.drop0.npy", vectors)
    centroids = vectors[:CENTROIDS].reshape(CENTROIDS, BOOKS, WIDTH // BOOKS).transpose(1, 0, 2).copy()
    book = CodeBook("pq", centroids, None, None, "words", "0" * 64)
    ItemCodes(book.encode(vectors), book, dataset.texts_fingerprint).save(dataset.codes_path("own"))
    tokenize(folder, backbone, name="tiny", attributes=["title"])
    return folder


@pytest.fixture(scope="session")
def whole_runs(tmp_path_factory: pytest.TempPathFactory, whole_shop: Path, backbone: str) -> dict[str, Path]:
    """A run of each model on that folder, one in closed form, and a blend; nobody changes them."""
    found = {}
    for model, arguments in MODELS.items():
        found[model] = tmp_path_factory.mktemp("runs") / model
        own = {"backbone": backbone} if model == "recformer" else {}
        finetune(model, whole_shop, found[model], training=ONE, seed=7, **arguments, **own)
    found["ease"] = tmp_path_factory.mktemp("runs") / "ease"
    finetune("ease", whole_shop, found["ease"])
    found["blend"] = tmp_path_factory.mktemp("runs") / "blend"
    blend([found["recformer"], found["ease"], found["unisrec"]], found["blend"])
    return found


@pytest.fixture(scope="module")
def shop(whole_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the prepared folder, for the tests of one file."""
    folder = tmp_path_factory.mktemp("shop") / "shop"
    shutil.copytree(whole_shop, folder)
    yield folder


@pytest.fixture(scope="module")
def runs(whole_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the runs, for the tests of one file."""
    folder = tmp_path_factory.mktemp("copies")
    for model, run in whole_runs.items():
        shutil.copytree(run, folder / model)
    return {model: folder / model for model in whole_runs}
