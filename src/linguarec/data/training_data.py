"""The data of a fine-tuning: training sequences and valid cases, of all users or a fraction of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases, draw_users, evaluation_cases, training_sequences
from linguarec.errors import DataFormatError, SettingsError
from linguarec.processes import is_main_process

log = logging.getLogger(__name__)
_told: set[tuple[str, ...]] = set()


def log_read(datasets: Sequence[PreparedDataset]) -> None:
    """Log which folders a training reads, before it imports its libraries, which takes seconds.

    Once for the same folders in a process: a comparison plans and trains many models on one.
    """
    paths = tuple(str(dataset.path) for dataset in datasets)
    if paths in _told or not is_main_process():
        return
    _told.add(paths)
    counts = [
        f"{dataset.path} ({dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_interactions:,} "
        "interactions)"
        for dataset in datasets
    ]
    log.info("reads %s", ", ".join(counts))


@dataclass(frozen=True)
class TrainingData:
    """`sequences`: item rows of each user's training part. `valid`: cases that select the best weights.

    `times`: timestamps of the same interactions; None = not asked for.
    """

    sequences: Ragged
    valid: EvaluationCases
    times: Ragged | None = None

    @classmethod
    def of(
        cls,
        dataset: PreparedDataset,
        split: str,
        users: float,
        valid_users: int,
        seed: int,
        max_length: int,
        times: bool = False,
    ) -> "TrainingData":
        """The parts of `split`.

        Args:
            dataset: prepared folder.
            split: which interactions train and validate.
            users: fraction of the users, drawn with `seed`.
            valid_users: most users to validate on, drawn with `seed`; 0 = all.
            seed: of these draws.
            max_length: longest history of a valid case.
            times: read the timestamps of the training interactions too.

        Raises:
            SettingsError: timestamps are asked for, and the folder has none.
            DataFormatError: there are no training targets, or no valid cases.
        """
        roles = dataset.roles(split)
        sequences = training_sequences(dataset.sequences, roles)
        moments = training_sequences(_times_of(dataset), roles) if times else None
        valid = evaluation_cases(dataset.sequences, roles, "valid", max_length)
        if users < 1:
            some = draw_users(dataset.num_users, users, seed)
            sequences = sequences.select(some)
            moments = None if moments is None else moments.select(some)
            valid = valid.select(np.flatnonzero(np.isin(valid.users, some)))
        validating = np.unique(valid.users)
        if 0 < valid_users < len(validating):
            drawn = np.random.default_rng(seed).permutation(validating)[:valid_users]
            valid = valid.select(np.flatnonzero(np.isin(valid.users, drawn)))
        if not (sequences.lengths >= 2).any():
            raise DataFormatError(
                f"{dataset.path}: split {split!r} leaves no user with two training items; there is nothing to learn from."
            )
        if len(valid) == 0:
            raise DataFormatError(
                f"{dataset.path}: split {split!r} has no valid target to stop the training by"
                + ("; prepare more data." if users == 1 else f" among the {users:.3g} of the users; raise --users.")
            )
        return cls(sequences, valid, moments)


def _times_of(dataset: PreparedDataset) -> Ragged:
    if dataset.timestamps is None:
        raise SettingsError([f"--ties shuffled: {dataset.path} has no timestamps, so nothing tells which items tie"])
    return Ragged(dataset.timestamps, dataset.sequences.offsets)


def check_fraction(users: float) -> None:
    """Refuse an invalid fraction of the users.

    Raises:
        SettingsError: `users` is not above 0 and at most 1.
    """
    if not 0 < users <= 1:
        raise SettingsError([f"users is {users}; it is a fraction of the users, above 0 and at most 1"])
