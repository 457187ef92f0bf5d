"""Steps of pre-training over several domains: sequences, their items, an augmented view, semi-synthetic negatives.

An epoch trains every target of every domain once (mixing 1), or weights the domains differently. The augmented view drops
items from a history, or words from the texts of its items (UniSRec, arXiv 2206.05941, section 2.3.2). A semi-synthetic
negative is the code of a target with some numbers replaced at random (VQ-Rec, arXiv 2210.12316, section 3.2.2).

All draws of a step depend only on seed, epoch and step: the views and negatives are the same for any number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.draws import uniform
from linguarec.batching.loader import TrainingBatch, TrainingLoader
from linguarec.batching.logs import TrainingLogs
from linguarec.batching.windows import Windows
from linguarec.checks import fractions
from linguarec.errors import SettingsError

IntArray = npt.NDArray[np.int64]
# The purpose of a random number, the first of the integers that name it (see `draws`).
_WORD_DROP, _WHICH_DRAW, _ITEM_DROP, _REPLACED, _CODE = range(5)


class ItemParts(Protocol):
    """Access to the items of several logs by their numbers, for a step."""

    @property
    def num_draws(self) -> int:
        """Number of stored word-drop vectors of each item."""

    def part(self, rows: IntArray, draws: IntArray | None = None) -> ItemBatch:
        """The items `rows` [N]; `draws` [N]: 0 = the vector of the full text, k = the vector of word-drop draw k - 1."""


@dataclass(frozen=True)
class ViewSettings:
    """How the augmented view of a history is made, defaults as published for UniSRec.

    Args:
        item_drop: fraction of the items that an augmented history leaves out; at least one stays.
        word_drop: fraction of the histories whose view has words left out of its texts instead (stored draws, see
            `linguarec encode --word-drop-draws`).
    """

    item_drop: float = 0.2
    word_drop: float = 0.1

    def check(self) -> None:
        """Refuse values that are not fractions.

        Raises:
            SettingsError: values are not in [0, 1]; all are named.
        """
        _refuse(fractions(self, "item_drop", "word_drop"))


@dataclass(frozen=True)
class NegativeSettings:
    """How semi-synthetic negatives are made, defaults as published for VQ-Rec.

    Args:
        code_replacement: probability that a number of a code is replaced at random in a semi-synthetic negative; 0 = no such
            negatives.
    """

    code_replacement: float = 0.75

    def check(self) -> None:
        """Refuse a value that is not a probability.

        Raises:
            SettingsError: the value is not in [0, 1].
        """
        _refuse(fractions(self, "code_replacement"))


@dataclass(frozen=True)
class PretrainingBatch:
    """One process's part of one step.

    `items` [N]: distinct (item, draw) pairs. `sequences`: histories and targets, as indices into `items`. `augmented`: one
    view of each history, in the same order, without targets; None if the items have no vectors or the model uses no views.
    `negatives` [P, M]: a semi-synthetic code for each of the P targets of `sequences`, or None. `step` and `step_targets` as
    in `TrainingBatch`.
    """

    items: ItemBatch
    sequences: SequenceBatch
    augmented: SequenceBatch | None
    negatives: Tensor | None
    step: int
    step_targets: int

    def to(self, device: torch.device | str) -> "PretrainingBatch":
        """The same batch on another device."""
        return replace(
            self,
            items=self.items.to(device),
            sequences=self.sequences.to(device),
            augmented=None if self.augmented is None else self.augmented.to(device),
            negatives=None if self.negatives is None else self.negatives.to(device),
        )


class PretrainingLoader:
    """Iterates over one epoch of `PretrainingBatch`; `state_dict` holds the position.

    Args:
        steps: histories and targets of each step; negatives come from the same step (if steps are accumulated, from the same
            part).
        items: of all logs of `steps`.
        views: how the augmented view of each history is made; None = no views.
        negatives: how semi-synthetic negatives are made; None = no such negatives.
        centroids: K, the number of values of a code, for the negatives.

    Raises:
        SettingsError: fewer targets than one step takes.
    """

    def __init__(
        self,
        steps: "MixedLoader",
        items: ItemParts,
        views: ViewSettings | None,
        negatives: NegativeSettings | None = None,
        centroids: int | None = None,
    ) -> None:
        self.steps = steps
        self.items = items
        self.views = views
        self.replacement = 0.0 if negatives is None else negatives.code_replacement
        self.centroids = centroids
        self.seed = steps.seed
        num_targets = steps.logs.num_targets
        if num_targets < steps.targets_per_step:
            few = ""
            if num_targets < 2 * steps.max_length:  # the smallest allowed step, see `TrainingLoader`
                few = f" (with so few, lower --transformer.max_length to {num_targets // 2} at most, or take more data)"
            raise SettingsError(
                [
                    f"a step (an accumulated part of training.targets_per_step) takes {steps.targets_per_step} targets, and "
                    f"all folders together have {num_targets}: negatives come from the same step, so ask for no more than "
                    f"there are{few}"
                ]
            )

    def shard(self, rank: int, processes: int) -> None:
        """Take every `processes`-th window of each step, from `rank` on."""
        self.steps.shard(rank, processes)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[PretrainingBatch]:
        for batch in self.steps:
            yield self._pretraining_batch(batch)

    def state_dict(self) -> dict[str, int]:
        """The position of the next batch."""
        return self.steps.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position that `state_dict` returned."""
        self.steps.load_state_dict(state)

    def _pretraining_batch(self, batch: TrainingBatch) -> PretrainingBatch:
        sequences = batch.sequences
        items, targets = sequences.items.numpy(), sequences.targets.numpy()
        has_target = targets >= 0
        numbers = [items, targets[has_target]]
        draws = [np.zeros_like(part) for part in numbers]
        kept = None
        if self.views is not None:
            kept, draw = self._view(batch, self.views)
            numbers.append(items[kept])
            draws.append(draw[kept])
        # A pair (item, draw) as one number, so that each distinct pair is read and encoded once.
        choices = self.items.num_draws + 1
        pairs = np.concatenate(numbers) * choices + np.concatenate(draws)
        distinct, place = np.unique(pairs, return_inverse=True)
        item_batch = self.items.part(distinct // choices, distinct % choices)
        places = [torch.from_numpy(part) for part in np.split(place, np.cumsum([len(part) for part in numbers[:-1]]))]
        target_places = torch.full((len(targets),), -1)
        target_places[torch.from_numpy(has_target)] = places[1]
        domain = torch.from_numpy(self.steps.logs.domain_of_sequence[sequences.users.numpy()])
        sequences = replace(sequences, items=places[0], targets=target_places, domain=domain)
        negatives = None
        if self.replacement and self.centroids is not None and item_batch.codes is not None:
            negatives = self._synthetic(item_batch.codes[places[1]], batch, has_target, self.centroids)
        return PretrainingBatch(
            items=item_batch,
            sequences=sequences,
            augmented=None if kept is None else _view_of(sequences, kept, places[2]),
            negatives=negatives,
            step=batch.step,
            step_targets=batch.step_targets,
        )

    def _view(self, batch: TrainingBatch, settings: ViewSettings) -> tuple[npt.NDArray[np.bool_], IntArray]:
        """For each token: whether the view keeps it, and which draw of its vector it reads."""
        offsets = batch.sequences.offsets.numpy()
        lengths = np.diff(offsets)
        name = (self.seed, batch.step, batch.windows)
        drops_words = uniform(_WORD_DROP, *name) < settings.word_drop
        draw = 1 + (uniform(_WHICH_DRAW, *name) * self.items.num_draws).astype(np.int64)
        windows, positions = np.repeat(batch.windows, lengths), batch.sequences.positions.numpy()
        chance = uniform(_ITEM_DROP, self.seed, batch.step, windows, positions)
        kept = (chance >= settings.item_drop) | np.repeat(drops_words, lengths)
        # If no item would stay, keep the one with the highest draw: a uniform choice.
        highest = np.repeat(np.maximum.reduceat(chance, offsets[:-1]), lengths)
        some = np.repeat(np.logical_or.reduceat(kept, offsets[:-1]), lengths)
        return kept | (~some & (chance == highest)), np.repeat(np.where(drops_words, draw, 0), lengths)

    def _synthetic(
        self, codes: Tensor, batch: TrainingBatch, has_target: npt.NDArray[np.bool_], centroids: int
    ) -> Tensor:
        """The codes [P, M] of the targets with some numbers replaced by uniform draws from the K values."""
        windows = np.repeat(batch.windows, np.diff(batch.sequences.offsets.numpy()))[has_target]
        positions = batch.sequences.positions.numpy()[has_target]
        name = (self.seed, batch.step, windows[:, None], positions[:, None], np.arange(codes.shape[1]))
        replaced = torch.from_numpy(uniform(_REPLACED, *name) < self.replacement)
        return torch.where(replaced, torch.from_numpy((uniform(_CODE, *name) * centroids).astype(np.int64)), codes)


@dataclass(frozen=True)
class Mixing:
    """How several domains share an epoch and its steps.

    Args:
        exponent: a domain with n targets gets a share of the epoch's targets in proportion to n^exponent: 1 = every target
            once per epoch, 0 = equal shares.
        domains_per_step: all = a step holds targets of all domains, shuffled; one = a step is of one domain, so that all
            negatives of a target are items of its own.
    """

    exponent: float = 1.0
    domains_per_step: Literal["all", "one"] = "all"


class MixedLoader(TrainingLoader):
    """The sequences of several logs in a shuffled order, each log with its share of the epoch's targets.

    Shares count targets, which are the rows of the published protocol, not windows: a sequence's first window holds up to
    `max_length` targets, an exact window after it only one.

    `users` of its batches are numbers of sequences in `logs.sequences`.

    Raises:
        SettingsError: steps of one domain each, and a domain has fewer targets than one step takes.
    """

    def __init__(
        self, logs: TrainingLogs, max_length: int, targets_per_step: int, stride: int | None, mixing: Mixing, seed: int
    ) -> None:
        self.logs = logs
        self.mixing = mixing
        sequences = logs.sequences
        super().__init__(sequences.values, sequences.offsets, max_length, targets_per_step, stride, seed)

    def _divide(self, windows: Windows, generator: np.random.Generator) -> list[IntArray]:
        """Every window once at exponent 1; otherwise each domain's windows repeated or sampled up to its share."""
        domain, targets = self.logs.domain_of_sequence[windows.user], windows.num_targets
        sizes = np.bincount(domain, weights=targets, minlength=len(self.logs))
        weights = np.where(sizes > 0, sizes**self.mixing.exponent, 0)
        wanted = np.round(sizes.sum() * weights / weights.sum()).astype(np.int64)
        some = np.flatnonzero(sizes)
        chosen = []
        for number in some:
            own = np.flatnonzero(domain == number)
            whole, rest = divmod(int(wanted[number]), int(sizes[number]))
            drawn = generator.permutation(own)
            # As many windows as bring the number of targets nearest to `rest`.
            few = drawn[: int((np.cumsum(targets[drawn]) - targets[drawn] / 2 < rest).sum())]
            chosen.append(np.concatenate([np.tile(own, whole), few]))
        if self.mixing.domains_per_step == "all":
            return self._cut(generator.permutation(np.concatenate(chosen)), windows)
        self._check_domains(wanted)
        steps: list[IntArray] = []
        for number, own in zip(some, chosen, strict=True):
            # By the share, not by what was drawn, so that all epochs have as many steps.
            steps += self._cut(generator.permutation(own), windows, self._count(int(wanted[number])))
        return [steps[place] for place in generator.permutation(len(steps))]

    def _check_domains(self, wanted: IntArray) -> None:
        """Refuse a domain that is too small for a step of its own."""
        small = [
            f"{log.name} has {count:,} targets in an epoch, fewer than the {self.targets_per_step:,} of a step (an accumulated "
            "part of training.targets_per_step) of one domain; lower that, leave the folder out, or use --domains-per-step all"
            for log, count in zip(self.logs.logs, wanted.tolist(), strict=True)
            if count < self.targets_per_step
        ]
        if small:
            raise SettingsError(small)


def _view_of(sequences: SequenceBatch, kept: npt.NDArray[np.bool_], places: Tensor) -> SequenceBatch:
    """The sequences reduced to the `kept` tokens, which read the items at `places`; positions are renumbered."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[sequences.offsets.numpy()]
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return replace(
        sequences,
        items=places,
        offsets=torch.from_numpy(offsets),
        positions=torch.from_numpy(positions),
        targets=torch.full((len(places),), -1),
    )


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SettingsError([f"augmentation.{problem}" for problem in problems])
