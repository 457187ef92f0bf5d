"""Recformer: text is all you need (Li et al., KDD'23, arXiv 2305.13731).

    item        its attributes as a sentence of keys and values        "title eSUN filament brand eSUN categories 3D"
    input       <s> item_n item_(n-1) ... item_1                       most recent first, cut at `max_tokens`
                e = LayerNorm(word + token position + token type + item position)                               (eq. 2-4)
    encoder     Longformer: sliding-window attention, <s> attends to all and all attend to <s>                  (eq. 5)
    score       cos(h_<s>(history), h_<s>(item)) / temperature         an item is encoded as a history of one   (eq. 6)
    pre-train   contrast of a history with its next item among those of the step + mlm_weight * masked-language modelling
    fine-tune   softmax over the catalogue or a sample of it, item vectors encoded beforehand

An empty history is `<s>` alone: the same query for every unknown user. An item without text would be the same input
and always match it, so its key is zero.

Differences from the released code: no padding (sequences are ragged), no transformers library. The last layer is computed only
where its output is read: for the `<s>` of histories and items, and for masked tokens. The LM head runs only on masked tokens.
Cosines are one matrix product. Targets of a step that are the same item are not negatives of each other. All four
views of a pre-training step (histories and items, unmasked and masked) go through the encoder in one pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from linguarec.batching.batches import ItemBatch, SequenceBatch, TokenBatch, TokenPairs
from linguarec.checks import above_zero, at_least, divided_by_heads, probabilities, refuse, size, small
from linguarec.families.recformer.window_attention import WindowAttention, WindowLayout
from linguarec.nn.dropout import Dropout
from linguarec.nn.gathering import Gathering
from linguarec.nn.losses import Pairs, catalogue_cross_entropy, contrastive_cross_entropy
from linguarec.nn.next_item import next_item_loss
from linguarec.ranges import tuned

TOKEN_TYPES = 4  # <s>, key, value, padding; the last is a row of the released table that is never read here


@dataclass(frozen=True)
class RecformerConfig:
    """Sizes and settings, defaults as published (those of Longformer base).

    Args:
        vocabulary: number of word embeddings, at least the tokenizer's.
        hidden_size: width D.
        layers: number of layers.
        heads: attention heads; must divide hidden_size.
        inner_size: width of the feed-forward layer.
        window: tokens that a token attends to, half of them on each side; even.
        max_tokens: longest input.
        max_items: longest history; older items are left out.
        positions: rows of the table of token positions.
        first_position: row of the first token; 2 in tables of the RoBERTa family, 0 in BERT's.
        dropout: of the embeddings and of each sub-layer's output.
        attention_dropout: of the attention weights.
        layer_norm_eps: epsilon of all LayerNorms.
        temperature: divisor of the cosines.
        mlm_weight: weight of the masked-language loss in pre-training; 0 = no masked words, which takes half the time.
        sampled_negatives: fine-tuning: the softmax is over the targets of the step and this many random items, redrawn in each
            step, which represent all others; faster from several 100,000 items on. 0 = over all items.
        language_head: whether the model has the LM head for pre-training.
        recompute: training: recompute the layers in the backward pass instead of keeping their activations; a third more
            time, memory of one layer instead of all.
        initializer_range: standard deviation of the initial weights.
    """

    vocabulary: int = size(50265)
    hidden_size: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    inner_size: int = size(3072)
    window: int = 64
    max_tokens: int = 1024
    max_items: int = size(50)
    positions: int = size(4098)
    first_position: int = size(2)
    dropout: float = tuned(0.1, low=0.0, high=0.5)
    attention_dropout: float = 0.1
    layer_norm_eps: float = size(1e-5)
    temperature: float = tuned(0.05, low=0.02, high=0.3, log=True)
    mlm_weight: float = 0.1
    sampled_negatives: int = 0
    language_head: bool = size(False)
    recompute: bool = False
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        problems = at_least(
            self,
            vocabulary=1,
            hidden_size=1,
            layers=1,
            heads=1,
            inner_size=1,
            max_tokens=2,
            positions=1,
            max_items=1,
            first_position=0,
            mlm_weight=0,
            sampled_negatives=0,
        )
        problems += small(self, "layer_norm_eps", "initializer_range")
        problems += divided_by_heads(self) + above_zero(self, "temperature")
        problems += probabilities(self, "dropout", "attention_dropout")
        if self.window < 2 or self.window % 2:
            problems.append(f"window is {self.window}; it must be even and at least 2, half of it for each side")
        if self.max_tokens > self.positions - self.first_position:
            problems.append(
                f"max_tokens is {self.max_tokens}, but the table of token positions has room for "
                f"{self.positions - self.first_position} tokens (positions - first_position)"
            )
        refuse(problems)


class RecformerLayer(nn.Module):
    """Window attention and feed-forward, each followed by dropout, residual sum and LayerNorm (post-LN)."""

    def __init__(self, config: RecformerConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention = WindowAttention(width, config.heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.inner = nn.Linear(width, config.inner_size)
        self.outer = nn.Linear(config.inner_size, width)
        self.outer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """Tokens [T, D] in the order of the layout -> [T, D]."""
        return self._finish(tokens, self.attention(tokens, layout))

    def at(self, rows: Tensor, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """The output of `forward` at the tokens `rows` [R], [R, D]."""
        attended = self.attention(tokens, layout)
        return self._finish(tokens.index_select(0, rows), attended.index_select(0, rows))

    def pool(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """The output of `forward` at the first token of each sequence, [B, D]."""
        return self._finish(tokens.index_select(0, layout.first), self.attention.pool(tokens, layout))

    def _finish(self, tokens: Tensor, attended: Tensor) -> Tensor:
        normed = self.attention_norm(tokens + self.dropout(attended))
        states: Tensor = self.outer_norm(normed + self.dropout(self.outer(F.gelu(self.inner(normed)))))
        return states


class LanguageHead(nn.Module):
    """States of masked tokens [M, D] -> logits of the words [M, V]."""

    def __init__(self, config: RecformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.words = nn.Linear(config.hidden_size, config.vocabulary)

    def forward(self, states: Tensor) -> Tensor:
        """States [M, D] -> logits [M, V]."""
        logits: Tensor = self.words(self._read(states))
        return logits

    def loss(self, states: Tensor, words: Tensor) -> Tensor:
        """Mean cross-entropy of the `words` [M], 0 if there are none; the logits are never all in memory."""
        read = self._read(states).float()
        # The bias becomes one more dimension.
        queries = torch.cat([read, read.new_ones(len(read), 1)], dim=1)
        keys = torch.cat([self.words.weight, self.words.bias[:, None]], dim=1)
        return catalogue_cross_entropy(queries, keys, words)

    def _read(self, states: Tensor) -> Tensor:
        normed: Tensor = self.norm(F.gelu(self.dense(states)))
        return normed


class Recformer(nn.Module):
    """Histories and items as token sequences, compared by cosine."""

    def __init__(self, config: RecformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.word = nn.Embedding(config.vocabulary, width)
        self.position = nn.Embedding(config.positions, width)
        self.token_type = nn.Embedding(TOKEN_TYPES, width)
        self.item_position = nn.Embedding(config.max_items + 1, width)
        self.input_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(RecformerLayer(config) for _ in range(config.layers))
        self.language_head = LanguageHead(config) if config.language_head else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def encode(self, tokens: TokenBatch) -> Tensor:
        """State of `<s>` [B, D] of each sequence.

        Raises:
            ValueError: a sequence is empty, or longer than the table of positions.
        """
        layout = self._layout(tokens)
        states = self._lower_layers(self._embed(tokens, layout), layout)
        return self._top.pool(states, layout).index_select(0, layout.place)

    def states(self, tokens: TokenBatch) -> Tensor:
        """State [T, D] of each token."""
        layout = self._layout(tokens)
        states = self._lower_layers(self._embed(tokens, layout), layout)
        return layout.ragged.from_blocks(self._top(states, layout))

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, D]: normalised item vectors over the temperature, without use of catalogue rows; 0 for items without
        text."""
        if items.tokens is None:
            raise ValueError("Recformer reads item tokens, and the batch has none")
        known = items.tokens.lengths > 1  # more than <s>
        vectors = F.normalize(self.encode(items.tokens).float(), dim=-1)
        return vectors * known.unsqueeze(-1) / self.config.temperature

    def queries(self, batch: SequenceBatch, inputs: None = None) -> Tensor:
        """Normalised vector [B, D] of each history. There are no item inputs: histories are tokens."""
        if batch.tokens is None:
            raise ValueError("Recformer reads histories as tokens, and the batch has none")
        return F.normalize(self.encode(batch.tokens).float(), dim=-1)

    def finetune_loss(self, batch: SequenceBatch, keys: Tensor) -> Tensor:
        """Mean loss of the next item over the catalogue or a sample of it; see `next_item_loss`.

        Args:
            batch: histories as tokens, with `targets` [B] into the keys.
            keys: [N, D] from `item_keys`, encoded beforehand (re-encoded in each epoch of the first stage).
        """
        return next_item_loss(self.queries(batch), keys, batch)

    def finetuned_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that get a gradient from `finetune_loss`, and from `pretrain_loss` without masked words.

        All except the LM head and the local attention of the last layer, because only `<s>` is read from it.
        """
        unused = [self._top.attention.query_key_value, self.language_head]
        left_out = {id(parameter) for module in unused if module is not None for parameter in module.parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in left_out)

    def pretrain_loss(self, pairs: TokenPairs) -> Tensor:
        """This process's share of: item-item contrast + mlm_weight * (masked words of the histories + of the items)."""
        contrast, masked_words = self.pretrain_losses(pairs)
        return contrast if masked_words is None else contrast + self.config.mlm_weight * masked_words

    def pretrain_losses(self, pairs: TokenPairs) -> tuple[Tensor, Tensor | None]:
        """The two unweighted terms of `pretrain_loss`; the second is None without masked views."""
        whole = TokenBatch.join([pairs.histories, pairs.targets])
        if pairs.masked is None:
            return self._contrast(self.encode(whole), pairs), None
        if self.language_head is None:
            raise ValueError("guessing masked words needs a model with language_head = True")
        masked = TokenBatch.join([pairs.masked.histories, pairs.masked.targets])
        together = TokenBatch.join([whole, masked])
        layout = self._layout(together)
        states = layout.ragged.from_blocks(self._lower_layers(self._embed(together, layout), layout))
        of_whole, of_masked = states.split([len(whole.ids), len(masked.ids)])

        layout = self._layout(whole)
        pooled = self._top.pool(layout.ragged.to_blocks(of_whole), layout).index_select(0, layout.place)
        contrast = self._contrast(pooled, pairs)

        layout = self._layout(masked)
        labels = layout.ragged.to_blocks(torch.cat([pairs.masked.history_labels, pairs.masked.target_labels]))
        of_history = torch.arange(len(masked.ids), device=labels.device) < len(pairs.masked.history_labels)
        rows = (labels >= 0).nonzero().squeeze(1)
        guessed, words = self._top.at(rows, layout.ragged.to_blocks(of_masked), layout), labels[rows]
        in_history = layout.ragged.to_blocks(of_history)[rows]
        of_words = contrast.new_zeros(())
        for side in (in_history, ~in_history):
            share = Gathering.of(words[side]).share  # of the masked tokens of all processes
            of_words = of_words + share * self.language_head.loss(guessed[side], words[side])
        return contrast, of_words

    def _contrast(self, pooled: Tensor, pairs: TokenPairs) -> Tensor:
        """The contrastive loss; `pooled` [2 P, D]: states of `<s>` of all histories, then of all next items."""
        histories, items = F.normalize(pooled.float(), dim=-1).split(len(pairs.items))
        return contrastive_cross_entropy(Pairs(histories, items / self.config.temperature, pairs.items, pairs.users))

    @property
    def _top(self) -> RecformerLayer:
        top = self.layers[-1]
        assert isinstance(top, RecformerLayer)
        return top

    def _layout(self, tokens: TokenBatch) -> WindowLayout:
        return WindowLayout.of(tokens.offsets, self.config.window // 2)

    def _embed(self, tokens: TokenBatch, layout: WindowLayout) -> Tensor:
        """Input vectors [T, D] in the order of the layout."""
        config = self.config
        longest = layout.longest
        if longest > config.positions - config.first_position:
            raise ValueError(
                f"a sequence has {longest} tokens, the table of positions has room for "
                f"{config.positions - config.first_position}"
            )
        place = torch.arange(len(tokens.ids), device=tokens.ids.device)
        place = place - tokens.offsets[:-1].repeat_interleave(tokens.lengths) + config.first_position
        vectors = self.word(tokens.ids) + self.position(place)
        vectors = vectors + self.token_type(tokens.types) + self.item_position(tokens.item_positions)
        embedded: Tensor = self.dropout(self.input_norm(layout.ragged.to_blocks(vectors)))
        return embedded

    def _lower_layers(self, states: Tensor, layout: WindowLayout) -> Tensor:
        """All layers but the last: [T, D] -> [T, D], in the order of the layout."""
        for layer in self.layers[:-1]:
            if self.config.recompute and self.training:
                states = checkpoint(layer, states, layout, use_reentrant=False)
            else:
                states = layer(states, layout)
        return states
