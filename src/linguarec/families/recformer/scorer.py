"""The scorer of a trained Recformer: one set of weights encodes items as sentences, another encodes histories.

In the last stage of fine-tuning the item vectors are fixed while the weights for histories are still trained. So new items are
encoded with the weights that encoded the other items, which are saved beside those of the network.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.histories import TOKENS_PER_BATCH
from linguarec.batching.tokens import cut_histories, cut_items, token_batches
from linguarec.data.ragged import Ragged
from linguarec.families.family import ModelDescription
from linguarec.families.recformer.model import Recformer
from linguarec.families.weights import load_weights, save_weights
from linguarec.ranking.scorer import DenseKeys, Scorer, evaluating
from linguarec.sources.inputs import TokenInputs
from linguarec.sources.source import ItemSource
from linguarec.sources.tokens import TokenSource
from linguarec.text.attributes import ItemTokens

ITEM_WEIGHTS_FILE = "item_model.safetensors"
IntArray = npt.NDArray[np.int64]


class SentenceScorer(DenseKeys):
    """Makes keys of items with `item_network` and queries of histories with `network`; both may be the same."""

    def __init__(self, network: nn.Module, item_network: nn.Module | None = None) -> None:
        self.network = network
        self.item_network = network if item_network is None else item_network

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return cast(Recformer, self.network).config.max_items

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    def encode(self, source: ItemSource, new: bool = False) -> tuple[TokenInputs, Tensor]:
        """The tokens themselves, and keys [N, D] of all items, zero for an item without tokens."""
        assert isinstance(source, TokenSource)
        return TokenInputs(source), encode_tokens(self.item_network, source.tokens, self.device)

    def queries(
        self,
        inputs: TokenInputs,
        histories: Ragged,
        users: IntArray | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """The query of each history; see `Scorer`."""
        rank, processes = shard
        model = cast(Recformer, self.network)
        batches = token_batches(
            inputs.source.tokens, histories, model.config.max_items, model.config.max_tokens, tokens_per_batch
        )
        for index, whole in itertools.islice(batches, rank, None, processes):
            yield index, model.queries(whole.to(self.device))

    def cut_items(self, inputs: TokenInputs) -> dict[str, int]:
        """Counts of items with more tokens than are read."""
        return cut_items(inputs.source.tokens.lengths, cast(Recformer, self.network).config.max_tokens)

    def cut_histories(self, inputs: TokenInputs, histories: Ragged) -> dict[str, int]:
        """Counts of histories with more items or tokens than are read, and of those without text."""
        config = cast(Recformer, self.network).config
        return cut_histories(inputs.source.tokens.lengths, histories, config.max_items, config.max_tokens)

    def to(self, device: torch.device | str) -> "SentenceScorer":
        """Move the networks to the device; returns this scorer."""
        self.network.to(device)
        self.item_network.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write the weights that encode items, if they differ from those that encode histories."""
        if self.item_network is not self.network:
            save_weights(self.item_network, folder / ITEM_WEIGHTS_FILE)
        else:  # removes those of a model that was saved there before
            (folder / ITEM_WEIGHTS_FILE).unlink(missing_ok=True)

    def load_inputs(self, folder: Path, source: ItemSource) -> TokenInputs:
        """The tokens of the run's items."""
        assert isinstance(source, TokenSource)
        return TokenInputs(source)


def open_scorer(network: nn.Module, description: ModelDescription, source: ItemSource, folder: Path | None) -> Scorer:
    """The scorer of a network, with the weights in `folder` that encode its items, if there are any."""
    if folder is None or not (folder / ITEM_WEIGHTS_FILE).exists():
        return SentenceScorer(network)
    item_network = description.build()
    load_weights(item_network, folder / ITEM_WEIGHTS_FILE)
    return SentenceScorer(network, item_network.eval())


def encode_tokens(model: nn.Module, tokens: ItemTokens, device: torch.device | str) -> Tensor:
    """Keys [N, Dk] of all items of a catalogue of tokens, in batches of similar length within a token budget.

    The model runs in evaluation mode (its mode is restored afterwards) under the current autocast.
    """
    reader = cast(Recformer, model)
    alone = Ragged(np.arange(len(tokens)), np.arange(len(tokens) + 1))
    keys = torch.empty(len(tokens), reader.config.hidden_size, device=device)
    with evaluating(model), torch.inference_mode():
        for index, batch in token_batches(tokens, alone, 1, reader.config.max_tokens):
            found = reader.item_keys(ItemBatch(batch.items, batch.domain, tokens=batch.tokens).to(device))
            keys[torch.from_numpy(index).to(device)] = found
    return keys
