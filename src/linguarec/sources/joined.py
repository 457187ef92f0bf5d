"""The items of several folders as one, for a training over several logs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linguarec.batching.batches import ItemBatch
from linguarec.sources.source import IntArray, ItemSource


class JoinedItems:
    """Items of several sources with consecutive numbers: an item's number is its row plus the items of the earlier sources.

    Nothing is copied: vectors stay memory maps, from which a step reads the rows that it needs.
    """

    def __init__(self, sources: Sequence[ItemSource]) -> None:
        self.sources = list(sources)
        self.first_item = np.cumsum([0, *(len(source) for source in sources)])

    def __len__(self) -> int:
        return int(self.first_item[-1])

    @property
    def num_draws(self) -> int:
        """Number of word-drop draws that all sources have."""
        return min(source.num_draws for source in self.sources)

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """The items with the numbers `rows` [N], in any order, with their rows and domains.

        `draws` [N]: the vector of each item to read: 0 = of the full text, k = of word-drop draw k - 1.
        """
        owner = np.searchsorted(self.first_item, rows, side="right") - 1
        own_rows = rows - self.first_item[owner]
        places = [np.flatnonzero(owner == number) for number in range(len(self.sources))]
        parts = {
            number: source.part(own_rows[places[number]], None if draws is None else draws[places[number]])
            for number, source in enumerate(self.sources)
            if len(places[number]) or number == 0
        }
        back = torch.from_numpy(np.argsort(np.concatenate([places[number] for number in parts])))

        def joined(name: str) -> Tensor | None:
            values: list[Any] = [getattr(part, name) for part in parts.values()]
            return None if values[0] is None else torch.cat(values)[back]

        return ItemBatch(
            rows=torch.from_numpy(own_rows),
            domain=torch.from_numpy(owner),
            features=joined("features"),
            codes=joined("codes"),
        )
