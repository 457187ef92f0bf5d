"""Several prepared folders read as one: their sequences one after the other, their items as (domain, row) pairs.

Nothing is renumbered on disk and no vectors are copied: they stay memory maps, of which a step reads the rows it needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.batching.batches import ItemBatch
from linguarec.batching.catalogue import load_codes
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import draw_users, training_sequences
from linguarec.errors import DataFormatError
from linguarec.text.attributes import ItemTokens

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Domain:
    """What training over several domains reads of one of them.

    `sequences`: the training sequences, item rows. `features` [N, F] and `codes` [N, M]: of all items, or None.
    `word_drops`: further draws of the features, of texts with words left out. `tokens`: of all items, or None.
    """

    name: str
    sequences: Ragged
    num_items: int
    features: npt.NDArray[Any] | None = None
    codes: npt.NDArray[Any] | None = None
    word_drops: Sequence[npt.NDArray[Any]] = field(default_factory=tuple)
    tokens: ItemTokens | None = None

    @classmethod
    def of(
        cls,
        dataset: PreparedDataset,
        split: str,
        features: str | None = None,
        codes: str | None = None,
        tokens: ItemTokens | None = None,
        users: float = 1.0,
        seed: int = 0,
    ) -> "Domain":
        """The training part of `split` of a folder, with the named vectors and codes, or with tokens.

        Args:
            dataset: prepared folder.
            split: which interactions train.
            features: name of the vectors to read, or None.
            codes: name of the codes to read, or None.
            tokens: of all items, or None.
            users: share of the users, drawn by the seed.
            seed: of that draw.

        Raises:
            DataFormatError: the folder has no such split, vectors or codes, or no user with two training items.
            StaleFeaturesError: vectors or codes do not belong to the catalogue.
        """
        sequences = training_sequences(dataset.sequences, dataset.roles(split))
        domain = cls(
            dataset.name,
            sequences if users == 1 else sequences.select(draw_users(dataset.num_users, users, seed)),
            dataset.num_items,
            None if features is None else dataset.features(features),
            None if codes is None else load_codes(dataset, codes).codes,
            () if features is None else dataset.word_drop_draws(features),
            tokens,
        )
        if domain.num_targets == 0:
            raise DataFormatError(
                f"{dataset.path}: split {split!r} leaves no user with two training items; leave this folder out, or prepare it "
                "with more data."
            )
        return domain

    @property
    def num_targets(self) -> int:
        """Next-item targets of an epoch: all items of the sequences but the first of each."""
        lengths = self.sequences.lengths
        return int(np.maximum(lengths - 1, 0).sum())


class Domains:
    """Domains side by side. An item's number is its row plus the number of items of the domains before."""

    def __init__(self, domains: Sequence[Domain]) -> None:
        self.domains = list(domains)
        self.first_item = np.cumsum([0, *(domain.num_items for domain in domains)])
        self.num_draws = min(len(domain.word_drops) for domain in domains)

    @cached_property
    def sequences(self) -> Ragged:
        """All training sequences, item numbers int32."""
        values = [
            np.asarray(domain.sequences.values, dtype=np.int32) + np.int32(first)
            for domain, first in zip(self.domains, self.first_item[:-1], strict=True)
        ]
        lengths = [domain.sequences.lengths for domain in self.domains]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
        return Ragged(np.concatenate(values), offsets)

    @cached_property
    def of_sequence(self) -> npt.NDArray[np.int64]:
        """Domain of each sequence."""
        return np.repeat(np.arange(len(self.domains)), [len(domain.sequences) for domain in self.domains])

    def items(self, numbers: IntArray, draws: IntArray) -> ItemBatch:
        """The items `numbers` [N] with their vectors and codes.

        Args:
            numbers: item numbers, in any order.
            draws: [N] which vector of each: 0 = of the whole text, k = of word-drop draw k - 1.
        """
        owner = np.searchsorted(self.first_item, numbers, side="right") - 1
        rows = numbers - self.first_item[owner]
        return ItemBatch(
            rows=torch.from_numpy(rows),
            domain=torch.from_numpy(owner),
            features=self._gather([[d.features, *d.word_drops] for d in self.domains], owner, rows, draws, np.float32),
            codes=self._gather([[d.codes] for d in self.domains], owner, rows, np.zeros_like(draws), np.int64),
        )

    def tokens(self, numbers: IntArray) -> ItemTokens:
        """Tokens of the items `numbers` [N], which ascend."""
        parts = []
        for domain, first, end in zip(self.domains, self.first_item[:-1], self.first_item[1:], strict=True):
            assert domain.tokens is not None
            within = slice(*np.searchsorted(numbers, [first, end]))
            parts.append(domain.tokens.select(numbers[within] - first))
        return ItemTokens.join(parts)

    def _gather(
        self, sources: list[list[npt.NDArray[Any] | None]], owner: IntArray, rows: IntArray, draws: IntArray, dtype: Any
    ) -> Tensor | None:
        """Row `rows[n]` of `sources[owner[n]][draws[n]]` for every n; None where a domain has no such array."""
        first = sources[0][0]
        if first is None:
            return None
        gathered = np.empty((len(rows), first.shape[1]), dtype=dtype)
        for domain, of_draw in enumerate(sources):
            for draw, array in enumerate(of_draw):
                wanted = np.flatnonzero((owner == domain) & (draws == draw))
                if array is not None and len(wanted):
                    gathered[wanted] = array[rows[wanted]]
        return torch.from_numpy(gathered)
