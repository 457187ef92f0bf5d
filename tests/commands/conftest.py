"""Two shops of the tiny world, and models that were trained on the first of them."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.finetune import finetune
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.families.opening import open_model
from linguarec.families.weights import save_model
from linguarec.files import write_json
from linguarec.given import given
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
QUICK = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=2, accelerator="cpu")
BOOKS, CENTROIDS, WIDTH = 4, 8, 16


def book_of(vectors: np.ndarray, first: int = 0) -> CodeBook:
    """A book whose centroids are sub-vectors of the items from row `first` on."""
    rows = vectors[first : first + CENTROIDS]
    centroids = rows.reshape(CENTROIDS, BOOKS, WIDTH // BOOKS).transpose(1, 0, 2).copy()
    return CodeBook("pq", centroids, None, None, "words", "0" * 64)


@pytest.fixture
def shops(make_dataset: Any) -> list[PreparedDataset]:
    """Two domains of the tiny world, with vectors of one encoder and a codebook each."""
    made = []
    for number, domain in enumerate(generate_world(seed=0, domains=2, size=TINY)):
        texts = [item.text for item in domain.items]
        vectors = word_vectors(texts, WIDTH)
        sequences = [domain.sequences[user].tolist() for user in range(len(domain.sequences))]
        raw_ids = [item.raw_id for item in domain.items]
        shop = make_dataset(sequences, texts, features={"words": vectors}, name=domain.name, raw_ids=raw_ids)
        book = book_of(vectors, first=number)
        ItemCodes(book.encode(vectors), book, shop.texts_fingerprint).save(shop.codes_path("own"))
        made.append(shop)
    return made


@pytest.fixture
def pretrained(shops: list[PreparedDataset], tmp_path: Path) -> Callable[..., Path]:
    """A model folder without a catalogue, as a pre-training leaves it: a model trained on the first shop."""

    def make(model: str, **arguments: Any) -> Path:
        run, folder = tmp_path / f"{model}-run", tmp_path / f"{model}-start"
        finetune(model, shops[0].path, run, **{"transformer": SMALL, "training": QUICK, "seed": 7, **arguments})
        network, description = open_model(run)
        shape = replace(description.shape, num_items=0)
        save_model(network, replace(description, shape=shape), folder)
        shutil.copy(run / "encoder.json", folder)
        write_json(folder / "settings.json", {"seed": 7})
        if model == "vqrec":
            CodeBook.load(run / "codes.npz").save(folder / "code_book.npz")
        return folder

    return make


PATCHED = """
import os, signal, sys, torch
from linguarec.cli import main
from linguarec.training.module import Stage

{patch}
main()
"""
KILLED = """
trained = Stage.training_step

def train_or_die(self, batch, batch_index):
    if {where}:
        os.kill(os.getpid(), signal.SIGKILL)
    return trained(self, batch, batch_index)

Stage.training_step = train_or_die
"""


def flags(groups: dict[str, Any]) -> list[str]:
    """Groups of settings as flags; of the training, whose defaults may be a model's own, defaults too."""
    asked = {group: vars(settings) if group == "training" else given(settings) for group, settings in groups.items()}
    values = {f"{group}.{name}": value for group, settings in asked.items() for name, value in settings.items()}
    return [f"--{name}={value}" for name, value in values.items() if value is not None and not isinstance(value, list)]


@pytest.fixture
def in_two_processes(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a command in two processes that Lightning or torchrun starts; what it prints with --json.

    `in_two_processes("finetune", "sasrec", data, "-o", run, training=settings, by_torchrun=False)`: each group of settings
    becomes flags. `patch`: code that both processes run first. `killed_where`: as in `until_killed`; there is no result then.
    """

    def run(
        *words: object, by_torchrun: bool = False, patch: str = "", killed_where: str = "", **groups: Any
    ) -> dict[str, Any]:
        strategy = "fsdp" if groups["training"].strategy == "fsdp" else "ddp"
        groups["training"] = replace(groups["training"], devices=2, strategy=strategy)
        command = [sys.executable]
        if by_torchrun:
            command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        if patch or killed_where:
            script = tmp_path / "patched.py"
            script.write_text(PATCHED.format(patch=patch or KILLED.format(where=killed_where)))
            command.append(str(script))
        else:
            command += ["-m", "linguarec.cli"]
        command += [*map(str, words), *flags(groups), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if killed_where:
            assert done.returncode != 0, done.stdout
            return {}
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    return run


@pytest.fixture
def until_killed() -> Callable[..., None]:
    """Run a command that dies by SIGKILL before a step of its training.

    `until_killed("finetune", "sasrec", data, "-o", run, where="batch.step == 3", training=settings)`: `where` is an expression
    of the stage, `self`, and the batch of the step, `batch`.
    """

    def run(*words: object, where: str, **groups: Any) -> None:
        code = PATCHED.format(patch=KILLED.format(where=where))
        command = [sys.executable, "-c", code, *map(str, words), *flags(groups)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr

    return run


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small random BERT, of large weights so that texts differ.

    Its tokenizer knows the words of the world, long ones in two pieces.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    texts = [item.text for domain in generate_world(seed=0, domains=2, size=TINY) for item in domain.items]
    normalise, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in split.pre_tokenize_str(normalise.normalize_str(text))} | {"title"}
    pieces = {piece for word in words for piece in ([word] if len(word) < 8 else [word[:5], f"##{word[5:]}"])}
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(pieces)]
    tokenizer = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalise, split
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{kind}_token": name for kind, name in special.items()}
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("backbone")
    BertForMaskedLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tokenized(shops: list[PreparedDataset], tiny_backbone: str) -> list[PreparedDataset]:
    """Both shops with their tokens."""
    for shop in shops:
        tokenize(shop.path, tiny_backbone, name="tiny")
    return shops
