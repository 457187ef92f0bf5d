"""Chooses a repeat term by ndcg@10 on the cases themselves, where maximum likelihood is misled.

The likelihood is right if scores are logits. Those of item-item models are not, and then the term that makes repeats as likely
as they are is not the one that ranks best. ndcg@10 as a function of the term needs few numbers of a case: the score of its
target, those of its history, and the ten best others. So terms can be tried by the hundred.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.evaluation.metrics import FloatArray, ndcg
from linguarec.ranking.ranks import TargetRanks
from linguarec.ranking.repeats import NUM_BUCKETS

IntArray = npt.NDArray[np.int64]
_K = 10
_TRIED, _ROUNDS = 32, 3  # values of a bucket tried in each round
_GAIN = 1e-5  # of ndcg@10; less is noise
ROWS = 512  # cases that are worked on at once


@dataclass(frozen=True)
class Heads:
    """What ndcg@10 depends on, for C cases and the S items of their histories.

    `target` [C]: score of the target. `above`, `equal` [C]: how many other items that are not in the history score higher, and
    the same. `best` [C, 10]: the highest scores of such items but the target. `case`, `score`, `bucket`, `is_target` [S]: of
    the items of the histories. `lowest`: a term that puts an item below all others.
    """

    target: FloatArray
    above: IntArray
    equal: IntArray
    best: FloatArray
    case: IntArray
    score: FloatArray
    bucket: IntArray
    is_target: npt.NDArray[np.bool_]
    lowest: float

    @classmethod
    def of(cls, scores: Tensor, target: Tensor, seen_case: Tensor, seen_place: Tensor, seen_bucket: Tensor) -> "Heads":
        """Of scores [C, K], which are changed; -inf = no class. Other arguments as in `StackData`."""
        parts = scores.split(ROWS)  # what is compared takes as much memory again
        least = min(float(part.where(part != -torch.inf, torch.inf).min()) for part in parts)
        lowest = -2.0 * (float(scores.max()) - least + 1)
        of_target = scores.gather(1, target.unsqueeze(1))
        of_seen = scores[seen_case, seen_place].double().numpy()
        is_target = seen_place == target[seen_case]
        scores[seen_case, seen_place] = -torch.inf
        bars = of_target.split(ROWS)
        above = torch.cat([torch.count_nonzero(part > bar, dim=1) for part, bar in zip(parts, bars, strict=True)])
        scores.scatter_(1, target.unsqueeze(1), -torch.inf)
        equal = torch.cat([torch.count_nonzero(part == bar, dim=1) for part, bar in zip(parts, bars, strict=True)])
        best = torch.cat([part.topk(min(_K, part.shape[1]), dim=1).values for part in parts])
        return cls(
            of_target.squeeze(1).double().numpy(),
            above.numpy(),
            equal.numpy(),
            best.double().numpy(),
            seen_case.numpy(),
            of_seen,
            seen_bucket.numpy(),
            is_target.numpy(),
            lowest,
        )

    @classmethod
    def joined(cls, blocks: Sequence["Heads"]) -> "Heads":
        """The cases of all blocks in turn."""
        starts = np.cumsum([0, *(len(block.target) for block in blocks[:-1])])
        return cls(
            np.concatenate([block.target for block in blocks]),
            np.concatenate([block.above for block in blocks]),
            np.concatenate([block.equal for block in blocks]),
            np.concatenate([block.best for block in blocks]),
            np.concatenate([block.case + start for block, start in zip(blocks, starts, strict=True)]),
            np.concatenate([block.score for block in blocks]),
            np.concatenate([block.bucket for block in blocks]),
            np.concatenate([block.is_target for block in blocks]),
            min(block.lowest for block in blocks),
        )

    def gains(self, values: FloatArray) -> FloatArray:
        """ndcg@10 [C] of each case with the term `values` [buckets]; ties count as their mean."""
        adjusted = self.score + values[self.bucket]
        target, above, equal = self.target.copy(), self.above.copy(), self.equal.copy()
        moved = self.is_target & (values[self.bucket] != 0)
        repeated = self.case[moved]
        target[repeated] = adjusted[moved]
        # A moved target hardly ever ties; of ties beyond the ten best items the number is not known.
        above[repeated] = (self.best[repeated] > target[repeated, None]).sum(axis=1)
        equal[repeated] = (self.best[repeated] == target[repeated, None]).sum(axis=1)
        others = ~self.is_target
        of_target = target[self.case]
        above += np.bincount(self.case[others & (adjusted > of_target)], minlength=len(target))
        equal += np.bincount(self.case[others & (adjusted == of_target)], minlength=len(target))
        return ndcg(TargetRanks(above, equal + 1), _K)

    def ndcg(self, values: FloatArray) -> float:
        """Mean ndcg@10 with the term `values` [buckets]."""
        return float(self.gains(values).mean())


def best_term(heads: Heads, start: FloatArray) -> tuple[FloatArray, float]:
    """The term with the best ndcg@10, found bucket by bucket from the best of `start`, no term, and no repeats at all.

    Returns:
        The term [buckets] and its ndcg@10.
    """
    starts = [start, np.zeros(NUM_BUCKETS), np.full(NUM_BUCKETS, heads.lowest)]
    reached = [heads.ndcg(each) for each in starts]
    values, best = starts[int(np.argmax(reached))].copy(), max(reached)
    gaps = heads.target[heads.case] - heads.score
    for _ in range(_ROUNDS):
        before = best
        for bucket in range(NUM_BUCKETS):
            of_bucket = gaps[heads.bucket == bucket]
            if not len(of_bucket):
                continue
            tried = [*np.quantile(of_bucket, np.linspace(0, 1, _TRIED)), heads.lowest]
            for value in tried:
                changed = values.copy()
                changed[bucket] = value
                if (found := heads.ndcg(changed)) > best + _GAIN:
                    values, best = changed, found
        if best <= before + _GAIN:
            break
    return values, best
