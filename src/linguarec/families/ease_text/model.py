"""EASE that also reads texts: collective EASE (Jeunen, Van Balen and Goethals, RecSys 2020), on vectors of a language model.

Item-item weights that have to explain two matrices at once, the log X [users, N] and the items' text vectors V [N, F]:

    B minimises |X - XB|^2 + text_weight |V' - V'B|^2 + regularisation |B|^2 under a zero diagonal
    G = X'DX + text_weight V V' + regularisation I       P = inverse(G)        B = -P / diag(P), column by column

so that each row of V' stands beside the users as one more that "has" every item, to the degree that its text says. V holds
the vectors minus the mean of the catalogue, of length 1, as of a language model's vectors the mean is the largest part. The
score of an item is that of EASE: the sum of B[h, i] over the history, weighted by recency.

A new item j has no column in X. The same regression gives its column from its text alone, column(j) = M v(j) with
M = text_weight P V [N, F]: exactly the column of B that it would have in the catalogue, if nobody had it. In a history, a
new item stands for the items that its text is made of, with the same weights M v(j).

The column that an item j of the log would have if nobody had it follows without another solution, by P without row and column
j, which is P[h, k] - P[h, j] P[j, k] / P[j, j]: it is column(j)[h] + B[h, j] column(j)[j] for h other than j. M v(j) alone is
another: that of a second item of the same text, beside j, which takes what the text says.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.checks import LARGEST, above_zero, refuse
from linguarec.data.ragged import Ragged
from linguarec.families.ease.model import EASEConfig, gram, inverse_of, weighted_items, weights_of
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import tuned

_ROWS_AT_ONCE = 1_024


@dataclass(frozen=True)
class EASETextConfig(EASEConfig):
    """Settings of EASE with text.

    Args:
        regularisation: lambda of EASE, added to the diagonal; larger values trust rare items less.
        decay: weight of a history's item relative to the one after it; 1 = order does not count.
        length_damping: as of EASE, a user with n items counts n ^ -length_damping.
        text_weight: how much the texts count beside the log: one dimension of a text vector with a variance of 1 counts as
            this many users.
    """

    regularisation: float = tuned(100.0, low=1.0, high=5_000.0, log=True)
    text_weight: float = tuned(50.0, low=0.5, high=5_000.0, log=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(above_zero(self, "text_weight"))


class EASEText(nn.Module):
    """Items by ID and text vector: `keys` [N, N] float32, row i = column i of B; `mean` [F]; `readout` M [N, F].

    `keys` are no part of the state dict: a run stores them once, as its keys. In a network that was loaded, they are [0, N].
    """

    keys: Tensor
    mean: Tensor
    readout: Tensor

    def __init__(self, config: EASETextConfig, shape: CatalogueShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        width = shape.needs_features()
        self.register_buffer("keys", torch.zeros(0, shape.num_items), persistent=False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("readout", torch.zeros(shape.num_items, width))

    @property
    def max_length(self) -> int:
        """Longest history that is read: of any length."""
        return LARGEST

    def fit(self, sequences: Ragged, vectors: npt.NDArray[np.float32]) -> None:
        """Compute the weights.

        Args:
            sequences: training sequences of item rows.
            vectors: [N, F] text vectors of all items.
        """
        device = self.keys.device
        self.mean.copy_(torch.from_numpy(vectors.mean(axis=0, dtype=np.float64).astype(np.float32)))
        texts = self._centred(torch.tensor(vectors, device=device)).double().cpu().numpy()
        self.keys = self.keys[:0]  # of an earlier fit: they are N^2 numbers
        matrix = gram(sequences, self.shape.num_items, self.config)
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            matrix[start : start + _ROWS_AT_ONCE] += self.config.text_weight * (
                texts[start : start + _ROWS_AT_ONCE] @ texts.T
            )
        inverse = inverse_of(matrix)
        self.readout.copy_(torch.from_numpy(self.config.text_weight * (inverse @ texts)))
        self.keys = torch.from_numpy(weights_of(inverse).T).contiguous().to(device)

    def _centred(self, vectors: Tensor) -> Tensor:
        """Vectors [N, F] without the mean, of length 1; zero for an item whose vector is the mean."""
        return F.normalize(vectors.float() - self.mean, dim=-1)

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Vectors [N, 1 + F]: the row, exact in float32 far beyond the largest catalogue that can be fitted, and the text."""
        assert items.features is not None
        return torch.cat([items.rows.to(torch.float32).unsqueeze(1), self._centred(items.features)], dim=1)

    def item_keys(self, items: ItemBatch) -> Tensor:
        """Keys [N, all items] of the items: columns of B; of items without a row, columns by their text."""
        assert items.features is not None
        new = items.rows < 0
        keys = torch.empty(len(items.rows), self.shape.num_items, device=self.readout.device)
        keys[~new] = self.keys.index_select(0, items.rows[~new])
        keys[new] = self._centred(items.features[new]) @ self.readout.T
        return keys

    @staticmethod
    def columns_as_new(of_text: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """The columns [n, N] that items of the log would have if nobody had them, each for itself.

        Args:
            of_text: columns [n, N] by the texts of the items, as those of new items.
            keys: [n, N] of the items.
            rows: [n] of the items.
        """
        own = rows.unsqueeze(1)
        return (of_text + keys * of_text.gather(1, own)).scatter(1, own, 0.0)

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """Query [B, N] of each history: `decay` ^ (steps ago) at its items, and at those that its new items stand for."""
        read = inputs.index_select(0, batch.items)
        queries = weighted_items(batch, read[:, 0], self.shape.num_items, self.config.decay)
        new = read[:, 0] < 0
        if bool(new.any()):
            # As known items do, a new one counts once, where it occurs last; its text tells it from others.
            texts, place = torch.unique(
                torch.cat([batch.sequence[new].to(read.dtype).unsqueeze(1), read[new, 1:]], dim=1),
                dim=0,
                return_inverse=True,
            )
            weights = torch.pow(self.config.decay, batch.steps_ago[new].to(torch.float64)).to(read.dtype)
            last = weights.new_zeros(len(texts)).scatter_reduce_(0, place, weights, "amax")
            read_new = read.new_zeros(len(batch), texts.shape[1] - 1)
            read_new.index_add_(0, texts[:, 0].long(), last.unsqueeze(1) * texts[:, 1:])
            queries += read_new @ self.readout.T
        return queries
