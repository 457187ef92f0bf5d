"""Tokenizers of other families than WordPiece, from `tokenize` to pre-training, and those that cannot be used."""

import json
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linguarec
from linguarec.batching.tokens import item_tokens
from linguarec.cli import main
from linguarec.commands.pretrain import pretrain
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.data.synthetic import TINY, generate_world
from linguarec.errors import SettingsError
from linguarec.families.recformer.masking import WordMasking
from linguarec.families.recformer.model import RecformerConfig
from linguarec.text.attributes import KEY, VALUE, AttributeTokenizer, value_text
from linguarec.text.token_store import open_tokens
from linguarec.training.settings import TrainingSettings

ONE_EPOCH = TrainingSettings(learning_rate=1e-3, targets_per_step=60, max_epochs=1, accelerator="cpu")
SPECIAL = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
NAMES = list(dict.fromkeys(SPECIAL.values()))
TITLES = ["Steel ruler-set, 30 cm (long)", "Don't panic", "(boxed) tea towel", "ruler", "Crème brûlée"]
MARKS = re.escape(string.punctuation)


def corpus() -> list[str]:
    """Texts of the world; each sign by itself, so that no token joins one to a letter."""
    texts = [item.text for domain in generate_world(seed=0, domains=2, size=TINY) for item in domain.items]
    letters = " ".join(sorted(set("".join(TITLES))))
    return [*texts, "title text " * 5, letters]


def byte_level() -> Any:
    """As RoBERTa's: the space before a word is its first byte; the first word of a text has none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=NAMES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def sentence_piece() -> Any:
    """As XLM-RoBERTa's: a word begins with a sign for the space, the first one too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=NAMES, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def backbone_folder(folder: Path, tokenizer: Any, without: tuple[str, ...] = ()) -> str:
    """The tokenizer, but for some special tokens, with a small random RoBERTa."""
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    special = {f"{kind}_token": name for kind, name in SPECIAL.items() if kind not in without}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_words_of_the_masking_are_those_of_the_text(make: Any, make_dataset: Any, tmp_path: Path) -> None:
    backbone = backbone_folder(tmp_path / "backbone", make())
    data = make_dataset([[0, 1, 2, 3, 4]], texts=TITLES)
    words = ["tokenize", str(data.path), "--backbone", backbone, "--attributes", "title,text"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--attribute-tokens", "64"])
    assert stopped.value.code == 0
    stored = open_tokens(data.tokens_path("backbone"), data.fingerprint)
    tokenizer = AttributeTokenizer.of(stored.form)
    assert (stored.form.start, stored.form.mask) == (0, NAMES.index("<mask>"))
    assert stored.counts.cut_values == 0
    assert stored.form.mask is not None
    masking = WordMasking(tokenizer.continues_a_word(), stored.form.mask, seed=0, share=0.5)
    batch = item_tokens(stored.tokens, np.arange(len(TITLES)), 256)
    begins, types, offsets = masking.begins(batch), batch.types.numpy(), batch.offsets.tolist()
    read = tokenizer._tokenizer
    for row, title in enumerate(TITLES):
        at = np.arange(offsets[row] + 1, offsets[row + 1])
        changes = at[types[at] != types[at - 1]]
        assert types[changes].tolist() == [KEY, VALUE, KEY, VALUE]
        for part, written in zip(np.split(at, changes[1:] - at[0]), ["title", title, "text", title], strict=True):
            assert begins[part[0]]
            ids = np.split(batch.ids.numpy()[part], begins[part].nonzero()[0][1:])
            words = [word for word in (read.decode(word.tolist()).strip() for word in ids) if word]
            cleaned = value_text(written, "title", "default")
            assert words == re.findall(rf"[{MARKS}][^\s{MARKS}]*|[^\s{MARKS}]+", str(cleaned))
    assert (np.diff(begins.nonzero()[0]) > 1).sum() >= 10  # many words have several tokens

    word = np.cumsum(begins)
    for step in range(20):
        _, labels = masking.mask(batch, step, np.arange(len(TITLES)), 0)
        chosen = labels.numpy() >= 0
        of_word = np.bincount(word, weights=chosen) / np.bincount(word).clip(1)
        assert set(of_word[1:]) == {0.0, 1.0}


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_pretraining_reads_its_tokens(make: Any, shops: list[PreparedDataset], tmp_path: Path) -> None:
    backbone, run = backbone_folder(tmp_path / "backbone", make()), tmp_path / "run"
    for shop in shops:
        assert tokenize(shop.path, backbone)["items_without_tokens"] == 0
    config = RecformerConfig(window=16, max_tokens=128, max_items=8)
    result = pretrain(
        "recformer", [shops[0].path], run, config, training=ONE_EPOCH, valid=shops[1].path, backbone=backbone
    )
    assert result["epochs"] == 1
    assert 0 < result["valid"]["ndcg@10"] < 1
    recommender = linguarec.load_model(run)
    recommender.add_items([{"raw_id": f"{row}", "title": title} for row, title in enumerate(shops[1].texts)])
    stored = open_tokens(shops[1].tokens_path("backbone"), shops[1].fingerprint).tokens
    assert recommender.snapshot.inputs.source.tokens.ids.tolist() == stored.ids.tolist()
    assert len(recommender.recommend([["3", "5"]], k=4)[0]) == 4


def test_pretraining_needs_a_mask(shops: list[PreparedDataset], tmp_path: Path) -> None:
    backbone, run = backbone_folder(tmp_path / "backbone", byte_level(), without=("mask",)), tmp_path / "run"
    tokenize(shops[0].path, backbone)
    with pytest.raises(SettingsError, match=f"the tokenizer of {backbone} has no mask token; masked words need one"):
        pretrain("recformer", [shops[0].path], run, training=ONE_EPOCH, backbone=backbone)
    assert not run.exists()


def test_tokenizers_that_cannot_be_used_are_refused(shops: list[PreparedDataset], tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    backbone = backbone_folder(tmp_path / "endless", byte_level(), without=("cls", "bos"))
    with pytest.raises(SettingsError, match=rf"The tokenizer of {backbone} has no \[CLS\] or <s> token, which opens"):
        tokenize(shops[0].path, backbone)
    slow = tmp_path / "slow"
    ByT5Tokenizer().save_pretrained(slow)
    (slow / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(SettingsError, match=rf"{slow} has no fast tokenizer \(tokenizer.json\); convert it with"):
        tokenize(shops[0].path, str(slow))
    assert shops[0].token_names == []
