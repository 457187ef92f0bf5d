"""Training steps of a model that reads histories as text: per epoch one history and its next item of every user.

An encoder that is not causal reads one prefix of a sequence per pass. As published, an epoch has one prefix for every user,
with a target that is redrawn each epoch: in fine-tuning any item but the first, in pre-training one from the middle on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import MaskedPairs, TokenPairs
from linguarec.batching.loader import TrainingBatch
from linguarec.batching.logs import TrainingLogs
from linguarec.batching.pretraining import MixedLoader, Mixing
from linguarec.batching.tokens import history_tokens, item_tokens
from linguarec.batching.windows import Windows, training_pairs
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError
from linguarec.families.recformer.masking import WordMasking
from linguarec.text.attributes import ItemTokens

IntArray = npt.NDArray[np.int64]


class JoinedTokens:
    """The tokens of the items of several logs, with the consecutive item numbers of `TrainingLogs`."""

    def __init__(self, catalogues: Sequence[ItemTokens]) -> None:
        self.catalogues = list(catalogues)
        self.first_item = np.cumsum([0, *map(len, catalogues)])

    def select(self, numbers: IntArray) -> ItemTokens:
        """Tokens of the items `numbers` [N], which must be ascending."""
        parts = []
        for tokens, first, end in zip(self.catalogues, self.first_item[:-1], self.first_item[1:], strict=True):
            within = slice(*np.searchsorted(numbers, [first, end]))
            parts.append(tokens.select(numbers[within] - first))
        return ItemTokens.join(parts)


class HistoryLoader(MixedLoader):
    """Iterates over one epoch of `TrainingBatch` whose histories are tokens, with one target each.

    `targets` [B] of its batches are item numbers of `logs`; with a single log these are item rows.

    Args:
        logs: training sequences.
        tokens: of the items of all logs, by one tokenizer.
        max_items: longest history.
        max_tokens: most tokens of a history.
        targets_per_step: histories of one step over all processes.
        mixing: how the logs share an epoch and its steps.
        second_half: see `training_pairs`.
        seed: of all draws.
    """

    def __init__(
        self,
        logs: TrainingLogs,
        tokens: JoinedTokens,
        max_items: int,
        max_tokens: int,
        targets_per_step: int,
        mixing: Mixing,
        second_half: bool,
        seed: int,
    ) -> None:
        self.second_half = second_half
        super().__init__(logs, max_items, targets_per_step, None, mixing, seed)
        if second_half and len(self._windows) < targets_per_step:
            raise SettingsError(
                [
                    f"a step (an accumulated part of training.targets_per_step) takes {targets_per_step} histories, and all "
                    f"folders together have {len(self._windows)} of two items or more: negatives come from the same step, so "
                    "ask for no more than there are"
                ]
            )
        self.tokens = tokens
        self.max_tokens = max_tokens

    def shard(self, rank: int, processes: int) -> None:
        """Take every `processes`-th history of each step, from `rank` on.

        Raises:
            SettingsError: a step has fewer histories than there are processes.
        """
        fewest = min(len(step) for step in self._steps)
        if fewest < processes:
            raise SettingsError(
                [
                    f"a step (an accumulated part) has {fewest} histories, fewer than the {processes} processes that share it; "
                    "raise training.targets_per_step, or lower training.accumulate or training.devices"
                ]
            )
        super().shard(rank, processes)

    def _check(self) -> None:
        """Refuse steps without targets; any other size is possible, because each window has one target."""
        if self.targets_per_step < 1:
            raise SettingsError(
                [
                    "training.accumulate is above training.targets_per_step; each part of a step needs one history or more"
                ]
            )

    def _draw(self, generator: np.random.Generator) -> Windows:
        return training_pairs(self.offsets, self.max_length, self.second_half, generator)

    def _batch(self, index: int) -> TrainingBatch:
        batch = super()._batch(index)
        sequences = batch.sequences
        numbers, place = np.unique(sequences.items.numpy(), return_inverse=True)
        histories = Ragged(place, sequences.offsets.numpy())
        tokens = history_tokens(self.tokens.select(numbers), histories, self.max_length, self.max_tokens)
        domain = torch.from_numpy(self.logs.domain_of_sequence[sequences.users.numpy()])
        targets = sequences.targets[sequences.last]
        return replace(batch, sequences=replace(sequences, targets=targets, tokens=tokens, domain=domain))


@dataclass(frozen=True)
class TokenPairsBatch:
    """One process's part of a pre-training step; `step` and `step_targets` as in `TrainingBatch`."""

    pairs: TokenPairs
    step: int
    step_targets: int

    def to(self, device: torch.device | str) -> "TokenPairsBatch":
        """The same batch on another device."""
        return replace(self, pairs=self.pairs.to(device))


class TokenPairsLoader:
    """Iterates over one epoch of `TokenPairsBatch`; `state_dict` holds the position.

    Args:
        steps: histories and targets.
        masking: masks words for masked-language modelling; None = no masked words.
    """

    def __init__(self, steps: HistoryLoader, masking: WordMasking | None) -> None:
        self.steps = steps
        self.masking = masking

    def shard(self, rank: int, processes: int) -> None:
        """Take every `processes`-th pair of each step, from `rank` on."""
        self.steps.shard(rank, processes)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[TokenPairsBatch]:
        for batch in self.steps:
            yield TokenPairsBatch(self._pairs(batch), batch.step, batch.step_targets)

    def state_dict(self) -> dict[str, int]:
        """The position of the next batch."""
        return self.steps.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position that `state_dict` returned."""
        self.steps.load_state_dict(state)

    def _pairs(self, batch: TrainingBatch) -> TokenPairs:
        sequences = batch.sequences
        assert sequences.tokens is not None
        numbers, place = np.unique(sequences.targets.numpy(), return_inverse=True)
        targets = item_tokens(self.steps.tokens.select(numbers), place, self.steps.max_tokens)
        pairs = TokenPairs(sequences.tokens, targets, sequences.targets, sequences.users)
        if self.masking is None:
            return pairs
        masked_histories, history_labels = self.masking.mask(sequences.tokens, batch.step, batch.windows, side=0)
        masked_targets, target_labels = self.masking.mask(targets, batch.step, batch.windows, side=1)
        return replace(pairs, masked=MaskedPairs(masked_histories, masked_targets, history_labels, target_labels))
