"""How the items of a run become what a model of tokens reads: the form of their sentences, and the model that read them.

Fine-tuning ends with item vectors fixed while the reader of the histories goes on learning. So a new item is read by
the weights that read the others, which stand beside those of the model.
"""

import logging
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from linguarec.batching.tokens import cut_items
from linguarec.data.dataset import fingerprint_of_texts
from linguarec.errors import CheckpointMismatchError, DataFormatError
from linguarec.evaluation.evaluate import encode_tokens
from linguarec.files import write_json, writing_folder
from linguarec.hub.pretrained import SENTENCES_FILE, ModelDescription, load_weights, save_weights
from linguarec.models.recformer import Recformer
from linguarec.ranking.ranks import full_precision
from linguarec.text.attributes import AttributeTokenizer, ItemTokens, SentenceForm
from linguarec.text.token_store import TOKENIZER_FILE, copy_tokenizer, open_tokens, read_form, save_tokens

TOKENS_FOLDER, ITEM_WEIGHTS_FILE = "tokens", "item_model.safetensors"
log = logging.getLogger(__name__)


class SentenceReader:
    """Reads items: attributes -> tokens of the `form` -> keys by the `model`.

    `tokenizer`: its file; without one that of the form's backbone is taken, which must then be at hand.
    """

    def __init__(self, form: SentenceForm, model: nn.Module, tokenizer: Path | None = None) -> None:
        self.form = form
        self.tokenizer = tokenizer
        self.model = model.eval()

    def __repr__(self) -> str:
        return f"SentenceReader({', '.join(self.form.attributes)} by the tokenizer of {self.form.backbone})"

    @cached_property
    def _tokenizer(self) -> AttributeTokenizer:
        return AttributeTokenizer.of(self.form, self.tokenizer)

    def keys(self, tokens: ItemTokens, device: torch.device) -> Tensor:
        """Keys [N, D] of items, float32."""
        with full_precision(device):
            return encode_tokens(self.model, tokens, device)

    def tokens(self, items: pa.Table) -> ItemTokens:
        """Tokens of items that have the form's attributes as columns; what is cut is logged.

        Raises:
            DataFormatError: an item has none of them; nothing would be known of it.
        """
        missing = [name for name in self.form.attributes if name not in items.column_names]
        if missing:
            raise DataFormatError(
                f"The model reads the attributes {', '.join(self.form.attributes)}; the items lack {', '.join(missing)}."
            )
        tokens, counts = self._tokenizer.tokenize({name: items[name].to_pylist() for name in self.form.attributes})
        empty = (tokens.lengths == 0).nonzero()[0]
        if len(empty):
            raise DataFormatError(
                f"New item {items['raw_id'][int(empty[0])].as_py()!r} has no text in any of the attributes that the model "
                f"reads: {', '.join(self.form.attributes)}."
            )
        if counts.cut_values:
            budget = self.form.attribute_tokens
            log.warning("cut %d values of the new items at %d tokens, name included", counts.cut_values, budget)
        max_tokens = cast(Recformer, self.model).config.max_tokens
        (too_long,) = cut_items(tokens.lengths, max_tokens).values()
        if too_long:
            log.warning("cut %d of the new items at %d tokens, all that the model reads", too_long, max_tokens)
        return tokens

    def save(self, folder: Path, tokens: ItemTokens, raw_ids: list[str]) -> None:
        """Write form, weights and the tokens of the run's items into `folder`."""
        write_json(folder / SENTENCES_FILE, asdict(self.form))
        copy_tokenizer(self.tokenizer, folder)
        save_weights(self.model, folder / ITEM_WEIGHTS_FILE)
        with writing_folder(folder / TOKENS_FOLDER, overwrite=True) as target:
            save_tokens(target, tokens, self.form, fingerprint_of_texts(raw_ids))

    @classmethod
    def load(cls, folder: Path, model: nn.Module, description: ModelDescription) -> "SentenceReader":
        """The reader of a run or model folder; `model` itself reads items where no other weights are there.

        Raises:
            CheckpointMismatchError: the folder does not tell how items become tokens.
        """
        file = folder / SENTENCES_FILE
        if not file.exists():
            raise CheckpointMismatchError(
                f"{folder} has no {SENTENCES_FILE}, which tells how items become tokens. Fine-tune it with "
                f"`linguarec finetune {description.name} DATA --from {folder}`, which takes those of the data."
            )
        form = read_form(file)
        if (folder / ITEM_WEIGHTS_FILE).exists():
            model = description.build()
            load_weights(model, folder / ITEM_WEIGHTS_FILE)
        return cls(form, model, folder / TOKENIZER_FILE)

    @staticmethod
    def stored_tokens(folder: Path, raw_ids: list[str]) -> ItemTokens:
        """The tokens that `save` wrote, memory-mapped."""
        return open_tokens(folder / TOKENS_FOLDER, fingerprint_of_texts(raw_ids)).tokens


def no_tokens(form: SentenceForm) -> ItemTokens:
    """The tokens of no items."""
    return ItemTokens(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(1, np.int64), form.start)
