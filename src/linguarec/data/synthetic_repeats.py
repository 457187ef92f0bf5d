"""A synthetic shop in which users take items again by a known law, whose best possible score is known with and without it.

    P(next = i | history) is proportional to base(i | last item) * exp(law[bucket of the steps since i last occurred])

where base is the law of `linguarec.data.synthetic` (the taste moves by a Markov chain) and the second factor is there for items
of the history alone. So log base is what a model of order has to learn, and `law` is exactly a repeat term on its scores.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linguarec.data.ragged import Ragged
from linguarec.data.synthetic import Shop, WorldSize, generate_world

FloatArray = npt.NDArray[np.float64]

STEPS = (
    1,
    2,
    4,
    8,
    16,
    32,
)  # largest number of steps of each bucket but the last; those of `linguarec.ranking.repeats`
GROCER = (-2.0, 1.0, 2.5, 2.0, 1.0, 0.0, -1.0)  # hardly ever at once, most often some steps later


@dataclass(frozen=True)
class RepeatShop:
    """`shop`: the items and their base law. `sequences`: item rows of every user, oldest first. `law` [7]."""

    shop: Shop
    sequences: Ragged
    law: tuple[float, ...]

    @property
    def repeated(self) -> float:
        """Fraction of the interactions whose item the user had before."""
        found = [len(one) - len(np.unique(one)) for one in (self.sequences[row] for row in range(len(self.sequences)))]
        return float(np.sum(found) / self.sequences.offsets[-1])

    def logits(self, histories: Ragged, with_law: bool = True) -> FloatArray:
        """Log of the next item's law [Q, N] but for a constant; without the repeat law, log base."""
        last = np.asarray(histories.values)[histories.offsets[1:] - 1]
        found: FloatArray = np.log(self.shop.next_item_law(last, after_launch=False))
        if with_law:
            query, items, steps = histories.last_occurrences()
            found[query, items] += np.asarray(self.law)[np.searchsorted(STEPS, steps)]
        return found

    def expected_ndcg(self, scores: FloatArray, histories: Ragged, k: int = 10) -> float:
        """Expected ndcg@k of the ranking by `scores` [Q, N]; of `logits(histories)` the best possible one."""
        logits = self.logits(histories)
        law = np.exp(logits - logits.max(axis=1, keepdims=True))
        law /= law.sum(axis=1, keepdims=True)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return float((np.take_along_axis(law, best, axis=1) / np.log2(np.arange(k) + 2)).sum(axis=1).mean())


def generate_repeat_shop(seed: int, size: WorldSize, law: tuple[float, ...] = GROCER) -> RepeatShop:
    """Draw a shop without new items and the sequences of its users.

    Raises:
        ValueError: the size has new items, or the law is not seven numbers.
    """
    if size.new_items_per_taste or len(law) != len(STEPS) + 1:
        raise ValueError(
            f"need new_items_per_taste 0 and {len(STEPS) + 1} numbers, not {size.new_items_per_taste} and {law}"
        )
    shop = generate_world(seed, domains=1, size=size)[0]
    rng = np.random.default_rng([seed, 7])
    items, lengths = len(shop.items), np.diff(shop.sequences.offsets)
    base = np.log(shop.next_item_law(np.arange(items), after_launch=False))
    drawn = np.empty((len(lengths), int(lengths.max())), dtype=np.int32)
    drawn[:, 0] = rng.integers(items, size=len(lengths))
    latest = np.full((len(lengths), items), -1)  # step of the last occurrence
    every = np.arange(len(lengths))
    for step in range(1, drawn.shape[1]):
        latest[every, drawn[:, step - 1]] = step - 1
        logits = base[drawn[:, step - 1]] + np.where(
            latest >= 0, np.asarray(law)[np.searchsorted(STEPS, step - latest)], 0.0
        )
        drawn[:, step] = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    values = drawn[np.arange(drawn.shape[1]) < lengths[:, None]]
    return RepeatShop(shop, Ragged(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)), tuple(law))
