"""The batches that models read. Notation: B sequences, T tokens (flat), N items, D width, M codebooks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", "TokenBatch", "MaskedPairs", "TokenPairs", "ItemBatch", "ClassSample", "SequenceBatch")


@dataclass(frozen=True)
class TokenBatch:
    """B token sequences for Recformer, items or histories: `<s>` first, then the items, the most recent one first.

    Flat `ids`, `types` (0 = `<s>`, 1 = key, 2 = value) and `item_positions` (0 = `<s>`, 1 = most recent item) [T] int64,
    `offsets` [B+1] int64. No sequence is empty: an item without text and a history without items are `<s>` alone.
    """

    ids: Tensor
    types: Tensor
    item_positions: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sequence [B]."""
        return self.offsets[1:] - self.offsets[:-1]

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        return _to(self, device)

    @staticmethod
    def join(batches: "Sequence[TokenBatch]") -> "TokenBatch":
        """The sequences of several batches as one batch."""
        lengths = torch.cat([batch.lengths for batch in batches])
        return TokenBatch(
            torch.cat([batch.ids for batch in batches]),
            torch.cat([batch.types for batch in batches]),
            torch.cat([batch.item_positions for batch in batches]),
            torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        )


@dataclass(frozen=True)
class MaskedPairs:
    """The two sides of `TokenPairs` with masked words: the same sequences with some ids replaced.

    `history_labels`, `target_labels`: [T] int64 flat, the token to predict at each position, -1 = none.
    """

    histories: TokenBatch
    targets: TokenBatch
    history_labels: Tensor
    target_labels: Tensor

    def to(self, device: torch.device | str) -> "MaskedPairs":
        """The same pairs on another device."""
        return _to(self, device)


@dataclass(frozen=True)
class TokenPairs:
    """P (history, next item) pairs for Recformer's pre-training.

    `items` [P] int64: number of the next item, equal for equal items. `users` [P] int64: number of the pair's user. `masked`:
    None without masked-language modelling.
    """

    histories: TokenBatch
    targets: TokenBatch
    items: Tensor
    users: Tensor
    masked: MaskedPairs | None = None

    def to(self, device: torch.device | str) -> "TokenPairs":
        """The same pairs on another device."""
        return _to(self, device)


@dataclass(frozen=True)
class ItemBatch:
    """N distinct items.

    `rows` [N] int64: catalogue row, -1 = an item without one. `domain` [N] int64. `features` [N, F] text vectors or None.
    `codes` [N, M] int64 or None. `tokens`: item texts or None.
    """

    rows: Tensor
    domain: Tensor
    features: Tensor | None = None
    codes: Tensor | None = None
    tokens: TokenBatch | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def numbers(self) -> Tensor:
        """[N] int64, equal for equal (domain, row) and different for different ones."""
        return self.domain * 2**32 + self.rows

    def to(self, device: torch.device | str) -> "ItemBatch":
        """The same batch on another device."""
        return _to(self, device)

    def select(self, index: Tensor) -> "ItemBatch":
        """The items at `index`, in that order (not for batches with tokens)."""
        if self.tokens is not None:
            raise ValueError("select() does not carry tokens")
        return replace(
            self,
            rows=self.rows[index],
            domain=self.domain[index],
            features=None if self.features is None else self.features[index],
            codes=None if self.codes is None else self.codes[index],
        )


@dataclass(frozen=True)
class ClassSample:
    """The K keys of a step as a sample of all classes (see `negatives.StepClasses`), which the loss takes into account.

    `certain` [K] bool: classes of the step itself, which represent only themselves. `drawn` [K] bool: classes of the uniform
    draw, in which each class is with the probability `share`. `calibration`: None = a softmax over the sample with the logQ
    correction; a number in [0, 1] = gBCE with this t over the drawn classes.
    """

    certain: Tensor
    drawn: Tensor
    share: float
    calibration: float | None = None

    @property
    def log_weights(self) -> Tensor:
        """[K] float32, the logarithm of how many classes each represents, to be added to its logit."""
        return (~self.certain).float() * -math.log(self.share)

    def to(self, device: torch.device | str) -> "ClassSample":
        """The same sample on another device."""
        return _to(self, device)


@dataclass(frozen=True)
class SequenceBatch:
    """B histories, ragged: sequence b is the slice `offsets[b]:offsets[b + 1]` of the flat tensors.

    `items` [T] int64: index into the batch's distinct items, -1 = a masked place, whose item is hidden. `offsets` [B+1] int64.
    `positions` [T] int64, 0 = first of the window. `targets` int64, one for each query of the model ([T], Recformer: [B]):
    index into the keys of the item to predict (the next one; at a masked place the hidden one), -1 = no loss here. `users` [B]
    int64, `domain` [B] int64. `tokens`: the histories as tokens (Recformer), or None.
    `only_last`: only the query after the last item of each sequence is needed, so a model may leave out the others.
    `excluded` [P, 2] int64: pairs (query, index into the keys) that are left out of the softmax, except a query's own target;
    None = no pairs. `sample`: None = the keys are all classes; else they are a sample of them.
    """

    items: Tensor
    offsets: Tensor
    positions: Tensor
    targets: Tensor
    users: Tensor
    domain: Tensor
    tokens: TokenBatch | None = None
    only_last: bool = False
    excluded: Tensor | None = None
    sample: ClassSample | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to(self, device: torch.device | str) -> "SequenceBatch":
        """The same batch on another device."""
        return _to(self, device)

    @property
    def sequence(self) -> Tensor:
        """[T] int64: which of the B sequences each token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.offsets.diff())

    @property
    def steps_ago(self) -> Tensor:
        """[T] int64: how many tokens of its sequence come after each token."""
        return self.last[self.sequence] - torch.arange(len(self.items), device=self.offsets.device)

    @property
    def last(self) -> Tensor:
        """Index [B] of the last token of each sequence."""
        return self.offsets[1:] - 1


def _to(batch: Batch, device: torch.device | str) -> Batch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: value.to(device) for name, value in values.items() if hasattr(value, "to")})
