"""Why items are recommended: how much of each score is due to each item of the history, and to each part of a model.

Models whose score is a sum over the history say what each of its items adds, exactly: the shares sum to the score. A network is
no such sum. Its shares are differences: the score after the history minus the score after the history without that item. They
need not sum to the score: two similar items of a history can stand in for each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from linguarec.data.ragged import Ragged
from linguarec.ranking.exact import ExactRanker

if TYPE_CHECKING:
    from linguarec.ranking.scorer import Scorer

Rows: TypeAlias = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[np.float64]
NEW = "new item"  # name of the part that a sum adds to the scores of new items
Weigh: TypeAlias = Callable[[Rows], float]


@dataclass(frozen=True)
class Explanation:
    """Of the scores of k items each after Q histories.

    `scores` [Q, k]: the model's own. `items`: for each history its distinct items, the latest first. `shares`: for each history
    [its items, k], in units of the score. `parts`: [Q, k] each, what the models in a model add to the scores, by name; empty =
    there is one model.
    """

    scores: Numbers
    items: Sequence[Rows]
    shares: Sequence[Numbers]
    parts: dict[str, Numbers] = field(default_factory=dict)


def by_leaving_out(
    scorer: "Scorer", inputs: Any, ranker: ExactRanker[Any, Any], histories: Ragged, rows: Rows
) -> Explanation:
    """The explanation of a network; only the items `rows` are scored.

    Of a history of one distinct item, that item has the whole score: nothing is left without it.

    Args:
        scorer: makes the queries.
        inputs: of the items, as `Scorer.encode` gives them.
        ranker: of the items.
        histories: Q histories of rows, oldest first; none empty. What the network does not read has no share.
        rows: [Q, k] items to explain.
    """
    read = [history[-scorer.max_length :] for history in _lists(histories)]
    whole = scored(scorer, inputs, ranker, read, rows)
    items = [_latest_first(history) for history in read]
    without = [
        (query, history[history != item])
        for query, (history, distinct) in enumerate(zip(read, items, strict=True))
        for item in distinct
        if len(distinct) > 1
    ]
    of_query = np.array([query for query, _ in without], dtype=np.int64)
    left = scored(scorer, inputs, ranker, [history for _, history in without], rows[of_query])
    shares = [
        whole[query] - left[of_query == query] if len(distinct) > 1 else whole[query : query + 1]
        for query, distinct in enumerate(items)
    ]
    return Explanation(whole, items, shares)


def by_summing(
    scorer: "Scorer", inputs: Any, ranker: ExactRanker[Any, Any], histories: Ragged, rows: Rows, weigh: Weigh
) -> Explanation:
    """The explanation of a model whose score is the sum of those of the history's items, weighted by their places.

    Args:
        scorer, inputs, ranker, histories, rows: as of `by_leaving_out`.
        weigh: the weight of an item by the places where it occurs [n], as steps before the last one, ascending.
    """
    read = _lists(histories)
    whole = scored(scorer, inputs, ranker, read, rows)
    items = [_latest_first(history) for history in read]
    weights = [
        np.array([weigh(np.flatnonzero(history[::-1] == item)) for item in distinct])
        for history, distinct in zip(read, items, strict=True)
    ]
    of_query = np.repeat(np.arange(len(items)), [len(distinct) for distinct in items])
    alone = scored(
        scorer, inputs, ranker, [np.array([item]) for distinct in items for item in distinct], rows[of_query]
    )
    shares = [weights[query][:, None] * alone[of_query == query] for query in range(len(items))]
    return Explanation(whole, items, shares)


def weighted_sum(
    names: Sequence[str], weights: Numbers, explanations: Sequence[Explanation], histories: Ragged, offset: Numbers
) -> Explanation:
    """The explanation of a weighted sum of models, from theirs; a model that is there twice gets a number.

    Args:
        names: of the models.
        weights: [models, Q, k], of each model for each item.
        explanations: of the models.
        histories: Q of them.
        offset: [Q, k] what is added to the scores of new items, a part of its own where there are any.
    """
    parts: dict[str, Numbers] = {}
    for place, (name, weight, own) in enumerate(zip(names, weights, explanations, strict=True)):
        shown = name if names.count(name) == 1 else f"{name} {names[: place + 1].count(name)}"
        parts[shown] = weight * own.scores
    if offset.any():
        parts[NEW] = offset
    items = [_latest_first(history) for history in _lists(histories)]
    shares = []
    for query, distinct in enumerate(items):
        total = np.zeros((len(distinct), explanations[0].scores.shape[1]))
        place_of = {item: place for place, item in enumerate(distinct.tolist())}
        for weight, own in zip(weights, explanations, strict=True):
            places = [place_of[item] for item in own.items[query].tolist()]  # each item once
            total[places] += weight[query] * own.shares[query]
        shares.append(total)
    return Explanation(sum(parts.values(), np.zeros_like(explanations[0].scores)), items, shares, parts)


def scored(
    scorer: "Scorer", inputs: Any, ranker: ExactRanker[Any, Any], histories: Sequence[Rows], rows: Rows
) -> Numbers:
    """Exact scores [Q, k] of the items `rows` after each history."""
    found = np.empty(rows.shape)
    if not len(histories):
        return found
    lengths = [len(history) for history in histories]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ragged = Ragged(np.concatenate(histories).astype(np.int32), offsets)
    for index, queries in scorer.queries(inputs, ragged):
        wanted = torch.from_numpy(rows[index]).to(ranker.device)
        found[index] = ranker.scores_of(queries, wanted).cpu().numpy()
    return found


def _lists(histories: Ragged) -> list[Rows]:
    return [np.asarray(histories[query], dtype=np.int64) for query in range(len(histories))]


def _latest_first(history: Rows) -> Rows:
    """The distinct items of a history by their last occurrence, the latest first."""
    return np.array(list(dict.fromkeys(history[::-1].tolist())), dtype=np.int64)
