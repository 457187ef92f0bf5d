"""Whole-word masking (BERT, arXiv 1810.04805): the model predicts all tokens of a chosen word.

    a word is chosen with probability 15 %;  each of its tokens becomes the mask (80 %), a random token (10 %), or stays

A word does not extend beyond its key or value. Draws are named by step, window and position (see `draws`), so that they
do not depend on how many processes share a step.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.batching.batches import TokenBatch
from linguarec.batching.draws import uniform

# The purpose of a random number, the first of the integers that name it.
_CHOSEN, _BECOMES, _RANDOM_TOKEN = range(100, 103)
_AS_MASK, _AS_RANDOM = 0.8, 0.9  # for a draw in [0, 1): below the first the mask, below the second a random token


@dataclass(frozen=True, eq=False)
class WordMasking:
    """Masks the words of token sequences.

    `continues` [V]: whether a token continues the word before it. `mask`: id of the mask token. `share`: probability that a
    word is chosen.
    """

    continues: npt.NDArray[np.bool_]
    mask_token: int
    seed: int
    share: float = 0.15

    def begins(self, tokens: TokenBatch) -> npt.NDArray[np.bool_]:
        """[T] whether a word begins at this token."""
        ids, types, positions = (part.numpy() for part in (tokens.ids, tokens.types, tokens.item_positions))
        same = np.zeros(len(ids), bool)  # whether a token is in the same key or value as the previous one
        same[1:] = (types[1:] == types[:-1]) & (positions[1:] == positions[:-1])
        begins: npt.NDArray[np.bool_] = ~(self.continues[ids] & same)
        begins[tokens.offsets.numpy()[:-1]] = True
        return begins

    def mask(
        self, tokens: TokenBatch, step: int, windows: npt.NDArray[np.int64], side: int
    ) -> tuple[TokenBatch, Tensor]:
        """The sequences with masked words, and the token to predict at each position [T] (-1 = none).

        Args:
            tokens: B sequences; their `<s>` is never masked.
            step: of the training.
            windows: [B] number of each sequence in its epoch.
            side: 0 = histories, 1 = items, so that the two sides of a pair have different draws.
        """
        ids, offsets = tokens.ids.numpy(), tokens.offsets.numpy()
        first = np.repeat(offsets[:-1], np.diff(offsets))
        place = np.arange(len(ids)) - first
        # A word is named by the position of its first token.
        word = np.maximum.accumulate(np.where(self.begins(tokens), np.arange(len(ids)), 0)) - first
        name = (self.seed, step, np.repeat(windows, np.diff(offsets)), side)
        chosen = (uniform(_CHOSEN, *name, word) < self.share) & (place > 0)
        becomes = uniform(_BECOMES, *name, place)
        random = (uniform(_RANDOM_TOKEN, *name, place) * len(self.continues)).astype(np.int64)
        changed = np.where(becomes < _AS_MASK, self.mask_token, np.where(becomes < _AS_RANDOM, random, ids))
        labels = np.where(chosen, ids, -1)
        return replace(tokens, ids=torch.from_numpy(np.where(chosen, changed, ids))), torch.from_numpy(labels)
