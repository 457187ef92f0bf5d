"""A small random BERT with a tokenizer of whole words, saved as transformers saves it: an encoder or backbone that is quick."""

from collections.abc import Iterable
from pathlib import Path

import torch


def save_small_bert(folder: Path, texts: Iterable[str], width: int = 16, positions: int = 80) -> Path:
    """The BERT knows the words of `texts` and "title"; it has two layers."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in text.lower().split()} | {"title"})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{kind}_token": n for kind, n in special.items()})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names), hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=width,
        max_position_embeddings=positions,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
