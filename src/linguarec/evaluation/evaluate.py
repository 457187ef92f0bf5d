"""Evaluate a model: score the catalogue after each history, and rank the target."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.histories import TOKENS_PER_BATCH
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.metrics import FloatArray, per_case, per_user
from linguarec.processes import ALONE, Processes
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker, protocols_of
from linguarec.ranking.ordering import BestLists
from linguarec.ranking.ranker import Ranker
from linguarec.ranking.ranks import TargetRanks
from linguarec.ranking.repeats import RepeatTerm
from linguarec.ranking.scorer import Scorer, VectorScorer, evaluating


@dataclass(frozen=True)
class EvaluationResult:
    """Ranks of Q evaluated cases.

    `cases` [Q]: index of each case in its `EvaluationCases`, ascending. `users` [Q]: user row of each. `best` [Q, k]: rows of
    the best k items after each history, best first, -1 where there are fewer; None = not asked for.
    """

    ranks: TargetRanks
    cases: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    best: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.cases)

    def __repr__(self) -> str:
        return f"EvaluationResult({len(self):,} cases, ndcg@10 {self.mean('ndcg@10'):.4f})"

    @cached_property
    def _one_case_a_user(self) -> bool:
        return len(np.unique(self.users)) == len(self.users)

    def select(self, mask: npt.NDArray[np.bool_]) -> "EvaluationResult":
        """The cases where `mask` [Q] is true."""
        best = None if self.best is None else self.best[mask]
        return EvaluationResult(self.ranks[mask], self.cases[mask], self.users[mask], best)

    def per_user(self, ks: Sequence[int] = (10, 50)) -> dict[str, FloatArray]:
        """Each metric for each distinct user (ascending), [U]: the mean over the user's cases."""
        return {name: per_user(values, self.users)[1] for name, values in per_case(self.ranks, ks).items()}

    def means(self, ks: Sequence[int] = (10, 50)) -> dict[str, float]:
        """Each metric's mean over the users; NaN without cases."""
        values = per_case(self.ranks, ks) if self._one_case_a_user else self.per_user(ks)
        return {name: float(value.mean()) if len(value) else float("nan") for name, value in values.items()}

    def mean(self, metric: str) -> float:
        """Mean over the users of one metric, as `ndcg@10`, `recall@50` or `mrr`."""
        name, _, k = metric.partition("@")
        means = self.means([int(k)] if k else [])
        if metric not in means:
            raise ValueError(f"unknown metric {name!r}; there are recall@k, ndcg@k and mrr")
        return means[metric]


_Rows = dict[str, npt.NDArray[np.int32]]  # protocol -> rows [Q, k] of the best items
Protocols = dict[str, EvaluationResult]  # protocol (kept, excluded, learned) -> result on the same cases


def evaluate_model(
    model: nn.Module,
    items: ItemBatch,
    cases: EvaluationCases,
    *,
    exclude_history: bool = False,
    within: npt.NDArray[np.int64] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    shard: tuple[int, int] = (0, 1),
) -> EvaluationResult:
    """Rank the target of every case among `items` with a network that makes item vectors, on the network's device.

    Arguments as in `rank_cases`; `model` and `items` as in `linguarec.ranking.scorer.VectorScorer`.
    """
    scorer = VectorScorer(model)
    inputs, keys = scorer.encode_batches([items])
    return rank_cases(
        scorer,
        inputs,
        DenseRanker(keys),
        cases,
        exclude_history=exclude_history,
        within=within,
        tokens_per_batch=tokens_per_batch,
        shard=shard,
    )


def rank_cases(
    scorer: Scorer,
    inputs: Any,
    ranker: Ranker[Any, Any],
    cases: EvaluationCases,
    *,
    exclude_history: bool = False,
    within: npt.NDArray[np.int64] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    shard: tuple[int, int] = (0, 1),
) -> EvaluationResult:
    """Rank the target of every case among the whole catalogue.

    The network runs in evaluation mode (its mode is restored afterwards) under the current autocast; scores are float32. The
    batches of histories do not depend on the number of processes, which divide them, so joined shards equal an evaluation by
    one process bit by bit.

    Args:
        scorer: makes the queries of the histories.
        inputs: of the items, as the scorer's `encode` returned them.
        ranker: of the items, on the scorer's device.
        cases: histories and targets.
        exclude_history: items of the history are not candidate items (the published protocol keeps them).
        within: rows of the candidate items; None = all.
        tokens_per_batch: most history tokens to encode at once.
        shard: (rank, processes): take every `processes`-th batch from `rank` on; see `join`.
    """
    found: list[tuple[npt.NDArray[np.int64], TargetRanks]] = []
    with evaluating(scorer.network), torch.inference_mode():
        for index, queries in scorer.queries(inputs, cases.histories, cases.users, tokens_per_batch, shard):
            exclude = cases.histories.select(index) if exclude_history else None
            found.append((index, ranker.ranks(queries, cases.targets[index].astype(np.int64), exclude, within)))
    return _result(found, cases.users)


def rank_by_protocol(
    scorer: Scorer,
    inputs: Any,
    ranker: ExactRanker[Any, Any],
    cases: EvaluationCases,
    repeats: RepeatTerm | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    processes: Processes = ALONE,
    best: int = 0,
) -> Protocols:
    """Rank the target of every case among the whole catalogue under every protocol, in one pass.

    `kept`: items of the history are candidates, as published. `excluded`: they are not, as `recommend` works. `learned`: they
    are, with the repeat term added to their scores; only with `repeats`. Other arguments as in `rank_cases`.

    `processes`: share the batches; the writer gets the result of one process to the bit, the others one without cases. `best`:
    how many of the best items to give for each case; for `excluded`, a target of the history is none of them.
    """
    with evaluating(scorer.network), torch.inference_mode():
        queries = scorer.queries(inputs, cases.histories, cases.users, tokens_per_batch, processes.shard)
        return ranked_by_protocol(queries, ranker, cases, repeats, processes, best)


def ranked_by_protocol(
    queries: Iterable[tuple[npt.NDArray[np.int64], Any]],
    ranker: ExactRanker[Any, Any],
    cases: EvaluationCases,
    repeats: RepeatTerm | None = None,
    processes: Processes = ALONE,
    best: int = 0,
) -> Protocols:
    """As `rank_by_protocol`, with queries that are made already, batch by batch: the indices of the cases, their queries.

    With several processes those of this one's share.
    """

    def ranks_of(
        batch: tuple[npt.NDArray[np.int64], Any],
    ) -> tuple[npt.NDArray[np.int64], dict[str, TargetRanks], _Rows]:
        index, of_index = batch
        histories = cases.histories.select(index)
        adjustments = None if repeats is None else repeats(histories)
        noted = BestLists(best) if best and len(index) else None
        targets = cases.targets[index].astype(np.int64)
        ranks = ranker.ranks_by_protocol(of_index, targets, histories, adjustments, noted)
        return index, ranks, {} if noted is None else {name: noted.rows(name) for name in ranks}

    found: dict[str, list[tuple[npt.NDArray[np.int64], TargetRanks]]] = {name: [] for name in protocols_of(repeats)}
    lists = {name: np.full((len(cases), best), -1, dtype=np.int32) for name in found if best}
    for index, ranks, rows in processes.gathered(map(ranks_of, queries)):
        for name, of_name in ranks.items():
            found[name].append((index, of_name))
        for name, of_lists in rows.items():
            lists[name][index] = of_lists
    return {
        name: replace(result, best=lists[name][result.cases]) if best else result
        for name, result in ((name, _result(of_name, cases.users)) for name, of_name in found.items())
    }


def join(shards: Sequence[EvaluationResult]) -> EvaluationResult:
    """Join the results of all shards of one evaluation, in the order of the cases."""
    cases = np.concatenate([shard.cases for shard in shards])
    order = np.argsort(cases, kind="stable")
    ranks = TargetRanks.joined([shard.ranks for shard in shards])[order]
    if len(np.unique(cases)) != len(cases):
        raise ValueError("the shards overlap: a case occurs in two of them")
    return EvaluationResult(ranks, cases[order], np.concatenate([shard.users for shard in shards])[order])


def _result(found: list[tuple[npt.NDArray[np.int64], TargetRanks]], users: npt.NDArray[np.int64]) -> EvaluationResult:
    none = np.zeros(0, dtype=np.int64)
    index = np.concatenate([none, *(index for index, _ in found)])
    greater = np.concatenate([none, *(ranks.greater for _, ranks in found)])
    ties = np.concatenate([none, *(ranks.ties for _, ranks in found)])
    order = np.argsort(index)
    return EvaluationResult(TargetRanks(greater[order], ties[order]), index[order], users[index[order]])
