"""Splits: which interactions train, validate and test.

A split is one `int8` role for every interaction of the folder, in the order of `sequences/items.npy`. Two rules hold for every
split:

- the training sequence of a user is their TRAIN interactions, in order;
- the history of a VALID or TEST target is all of the user's earlier interactions except EXCLUDED ones.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linguarec.data.ragged import Ragged

TRAIN, VALID, TEST, EXCLUDED = 0, 1, 2, 3
HELD_OUT_ITEMS = "held-out-items"  # the split whose test targets are items that no training sequence holds
ROLE_OF_PART = {"train": TRAIN, "valid": VALID, "test": TEST}

Roles = npt.NDArray[np.int8]


@dataclass(frozen=True)
class EvaluationCases:
    """Targets to rank: `histories` (Q sequences of item rows, oldest first), `targets` [Q] item rows, `users` [Q] user rows."""

    histories: Ragged
    targets: npt.NDArray[np.int32]
    users: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, index: npt.NDArray[np.int64]) -> "EvaluationCases":
        """The cases at `index`, in that order."""
        return EvaluationCases(self.histories.select(index), self.targets[index], self.users[index])


@dataclass(frozen=True)
class TimeCuts:
    """A temporal split: first time, in seconds since 1970, of `valid`, `test` and what is `excluded` (None = nothing)."""

    valid: int
    test: int
    excluded: int | None = None

    @property
    def split(self) -> str:
        """Name of the split that these cuts make; other cuts have another name."""
        cuts = (self.valid, self.test) if self.excluded is None else (self.valid, self.test, self.excluded)
        return "-".join(["temporal", *map(str, cuts)])

    def roles(self, timestamps: npt.NDArray[np.int64]) -> Roles:
        """Roles of interactions at these times; equal times get the same role."""
        roles = np.full(len(timestamps), TRAIN, dtype=np.int8)
        roles[timestamps >= self.valid] = VALID
        roles[timestamps >= self.test] = TEST
        if self.excluded is not None:
            roles[timestamps >= self.excluded] = EXCLUDED
        return roles


def leave_one_out(offsets: npt.NDArray[np.int64]) -> Roles:
    """Last item of a user = test, the one before it = valid; users with fewer than 3 items only train."""
    roles = np.full(offsets[-1], TRAIN, dtype=np.int8)
    ends = offsets[1:][np.diff(offsets) >= 3]
    roles[ends - 1] = TEST
    roles[ends - 2] = VALID
    return roles


def training_only(offsets: npt.NDArray[np.int64]) -> Roles:
    """All interactions train: leave-one-out for a log from which the held-out items were already removed."""
    return np.full(offsets[-1], TRAIN, dtype=np.int8)


def global_temporal(timestamps: npt.NDArray[np.int64], valid_share: float = 0.1, test_share: float = 0.1) -> Roles:
    """Interactions after one moment = test, after an earlier one = valid; equal timestamps get the same role."""
    cuts = np.quantile(timestamps, [1 - valid_share - test_share, 1 - test_share], method="higher")
    return TimeCuts(*map(int, cuts)).roles(timestamps)


def held_out_items(sequences: Ragged, num_items: int, share: float, seed: int) -> Roles:
    """Hold out a seeded fraction of the items from training: they are never in a training sequence or history, only targets.

    A user's last held-out interaction is their test target, their other held-out interactions are excluded. Their last known
    item is their valid target if it leaves at least two known items for training.
    """
    return held_out_roles(sequences, choose_held_out(num_items, share, seed))


def choose_held_out(num_items: int, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which items are held out, [N] bool: the fraction `share` of all, at least one unless it is 0."""
    held = np.zeros(num_items, dtype=bool)
    size = max(1, round(share * num_items)) if share else 0
    held[np.random.default_rng(seed).choice(num_items, size=size, replace=False)] = True
    return held


def held_out_roles(sequences: Ragged, held: npt.NDArray[np.bool_]) -> Roles:
    """Roles of `held_out_items` for the held-out items `held` [N]; each user's roles are independent of other users."""
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    is_held = held[sequences.values]
    roles = np.where(is_held, EXCLUDED, TRAIN).astype(np.int8)
    roles[_last_of_each(users, np.flatnonzero(is_held))] = TEST
    known = np.flatnonzero(~is_held)
    enough = np.bincount(users[known], minlength=len(sequences)) >= 3
    last_known = _last_of_each(users, known)
    roles[last_known[enough[users[last_known]]]] = VALID
    # A held-out item at the start of a user's history cannot be predicted from anything.
    known_before = np.cumsum(~is_held) - np.concatenate([[0], np.cumsum(~is_held)])[sequences.offsets[:-1]][users]
    roles[(roles == TEST) & (known_before == 0)] = EXCLUDED
    return roles


def draw_users(num_users: int, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Rows of a fraction of the users, at least one, ascending. With one seed a larger fraction contains the smaller ones."""
    shuffled = np.random.default_rng(seed).permutation(num_users)
    return np.sort(shuffled[: max(1, round(share * num_users))])


def training_sequences(sequences: Ragged, roles: Roles) -> Ragged:
    """The TRAIN interactions of every user (users without any keep an empty sequence)."""
    return _keep(sequences, roles == TRAIN)


def items_of_training_pairs(sequences: Ragged, roles: Roles) -> npt.NDArray[np.int32]:
    """Item rows, ascending, that occur in a (history, target) pair of training: in training sequences of two or more."""
    train = training_sequences(sequences, roles)
    return np.unique(train.values[np.repeat(train.lengths > 1, train.lengths)]).astype(np.int32)


def evaluation_cases(sequences: Ragged, roles: Roles, part: str, max_history: int | None = None) -> EvaluationCases:
    """Targets of `part` ("valid" or "test") with their histories, the last `max_history` items of each.

    A history holds the interactions before the target except excluded ones; test targets are in no valid history (held-out
    items may come before a valid target). Targets with an empty history are left out; to count them, compare `len(cases)` with
    the number of targets.
    """
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    kept = (roles != EXCLUDED) & ((roles != TEST) | (part == "test"))
    before = np.concatenate([[0], np.cumsum(kept)])  # kept interactions before each position
    positions = np.flatnonzero(roles == ROLE_OF_PART[part])
    stop = before[positions]
    start = before[sequences.offsets[users[positions]]]
    if max_history is not None:
        start = np.maximum(start, stop - max_history)
    has_history = stop > start
    positions, start, stop = positions[has_history], start[has_history], stop[has_history]
    lengths = stop - start
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - start, lengths)
    values = np.asarray(sequences.values)
    return EvaluationCases(Ragged(values[kept][flat], offsets), values[positions].astype(np.int32), users[positions])


def _keep(sequences: Ragged, mask: npt.NDArray[np.bool_]) -> Ragged:
    counts = np.concatenate([[0], np.cumsum(mask)])
    return Ragged(np.asarray(sequences.values)[mask], counts[sequences.offsets].astype(np.int64))


def _last_of_each(users: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The last of the `positions` (ascending) of each user."""
    owner = users[positions]
    return positions[np.flatnonzero(np.append(owner[1:] != owner[:-1], True))] if len(positions) else positions
