"""How far timestamps order the interactions of the users."""

from dataclasses import dataclass

import numpy as np

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splitting import user_blocks

NEARLY_ALL = 0.9


@dataclass(frozen=True)
class TiedNeighbours:
    """Pairs of successive interactions of one user (`pairs`), those of them with equal timestamps (`tied`), and `users`.

    Users without interactions do not count.
    """

    pairs: int
    tied: int
    users: int

    @classmethod
    def of(cls, dataset: PreparedDataset) -> "TiedNeighbours | None":
        """Counted over the whole log; None = the folder has no timestamps."""
        if dataset.timestamps is None:
            return None
        offsets, tied = np.asarray(dataset.sequences.offsets), 0
        lengths = np.diff(offsets)
        for first, last in user_blocks(offsets):
            users = np.repeat(np.arange(first, last), lengths[first:last])
            times = np.asarray(dataset.timestamps[int(offsets[first]) : int(offsets[last])])
            tied += int(np.count_nonzero((users[1:] == users[:-1]) & (times[1:] == times[:-1])))
        return cls(int(np.maximum(lengths - 1, 0).sum()), tied, int(np.count_nonzero(lengths)))

    @property
    def share(self) -> float:
        """Fraction of the pairs that are tied."""
        return self.tied / max(1, self.pairs)

    @property
    def moments(self) -> float:
        """Mean number of distinct timestamps of a user."""
        return 1 + (self.pairs - self.tied) / max(1, self.users)

    @property
    def baskets(self) -> bool:
        """Whether nearly all pairs are tied: the users buy baskets, whose items have no order."""
        return self.share >= NEARLY_ALL

    @property
    def sets(self) -> bool:
        """Whether most users have one basket alone: then a history has no order at all."""
        return self.baskets and self.moments < 2
