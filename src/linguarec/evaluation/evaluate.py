"""Evaluate a model: encode the catalogue once, continue each history, rank its target."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.histories import TOKENS_PER_BATCH, history_batches
from linguarec.batching.tokens import token_batches
from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.metrics import FloatArray, per_case, per_user
from linguarec.models import Recommending
from linguarec.models.recformer import Recformer
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.ranks import TargetRanks
from linguarec.text.attributes import ItemTokens

ITEMS_PER_CHUNK = 8_192


@dataclass(frozen=True)
class EvaluationResult:
    """Ranks of Q evaluated cases.

    `cases` [Q]: index of each in the `EvaluationCases` they came from, ascending. `users` [Q]: user row of each.
    """

    ranks: TargetRanks
    cases: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cases)

    def __repr__(self) -> str:
        return f"EvaluationResult({len(self):,} cases, ndcg@10 {self.mean('ndcg@10'):.4f})"

    @cached_property
    def _one_case_a_user(self) -> bool:
        return len(np.unique(self.users)) == len(self.users)

    def select(self, mask: npt.NDArray[np.bool_]) -> "EvaluationResult":
        """The cases where `mask` [Q] is true."""
        return EvaluationResult(self.ranks[mask], self.cases[mask], self.users[mask])

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


def evaluate_model(
    model: nn.Module,
    items: ItemBatch,
    cases: EvaluationCases,
    *,
    device: torch.device | str = "cpu",
    exclude_history: bool = False,
    within: npt.NDArray[np.int64] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    shard: tuple[int, int] = (0, 1),
) -> EvaluationResult:
    """Rank the target of every case among the whole catalogue.

    The model runs in evaluation mode (and is put back) under the autocast in force; scores are float32. Histories are
    cut into the same batches whatever the number of processes, which share the batches out, so that joined shards equal
    the whole to the bit.

    Args:
        model: one of `linguarec.models`, or another that is `Recommending`; reads histories of rows of `items`.
        items: the catalogue; the row of a key is the index in it.
        cases: histories and targets.
        device: where the model is and the work is done.
        exclude_history: items of the history are no candidates (the published protocol keeps them).
        within: rows that are the candidates, or None for all.
        tokens_per_batch: bound of the history tokens encoded at once.
        shard: (rank, processes): take every `processes`-th batch from `rank` on; see `join`.
    """
    with evaluating(model), torch.inference_mode():
        inputs, keys = encode_items(model, items, device)
        return rank_cases(
            model,
            inputs,
            keys,
            cases,
            exclude_history=exclude_history,
            within=within,
            tokens_per_batch=tokens_per_batch,
            shard=shard,
        )


def rank_cases(
    model: nn.Module,
    inputs: Tensor | ItemTokens,
    keys: Tensor,
    cases: EvaluationCases,
    *,
    exclude_history: bool = False,
    within: npt.NDArray[np.int64] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    shard: tuple[int, int] = (0, 1),
) -> EvaluationResult:
    """`evaluate_model` for a catalogue that is encoded already.

    `inputs`: what the model reads in histories, vectors [N, D] or tokens. Vectors and `keys` [N, Dk] are where the model is.
    """
    ranker = DenseRanker(keys)
    found: list[tuple[npt.NDArray[np.int64], TargetRanks]] = []
    with evaluating(model), torch.inference_mode():
        for index, queries in history_queries(
            model, inputs, cases.histories, keys.device, tokens_per_batch, cases.users, shard
        ):
            exclude = cases.histories.select(index) if exclude_history else None
            found.append((index, ranker.ranks(queries, cases.targets[index], exclude, within)))
    return _result(found, cases.users)


def history_queries(
    model: nn.Module,
    inputs: Tensor | ItemTokens,
    histories: Ragged,
    device: torch.device,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    users: npt.NDArray[np.int64] | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """The query of each history, batch by batch: indices [B] of its histories, queries [B, Dk].

    Arguments as in `evaluate_model` and `rank_cases`; histories hold rows of `inputs`, and are not empty.
    """
    rank, processes = shard
    if isinstance(inputs, ItemTokens):
        reader = _reading_tokens(model)
        config = reader.config
        batches = token_batches(inputs, histories, config.max_items, config.max_tokens, tokens_per_batch)
        for index, whole in itertools.islice(batches, rank, None, processes):
            yield index, reader.queries(whole.to(device))
    else:
        parts = history_batches(histories, max_length(model), tokens_per_batch, users)
        for index, whole in itertools.islice(parts, rank, None, processes):
            batch = whole.to(device)
            yield index, _recommending(model).queries(batch, inputs)[batch.last]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and afterwards each of its modules back into the mode it was in."""
    trained = [module for module in model.modules() if module.training]
    try:
        for module in trained:
            module.training = False
        yield
    finally:
        for module in trained:
            module.training = True


def encode_items(model: nn.Module, items: ItemBatch, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Inputs [N, D] and keys [N, Dk] of all items, in chunks that bound the memory of an adaptor or code table."""
    if len(items) <= ITEMS_PER_CHUNK or items.tokens is not None:
        return encode_chunks(model, [items], device)
    starts = range(0, len(items), ITEMS_PER_CHUNK)
    rows = torch.arange(len(items), device=items.rows.device)
    return encode_chunks(model, (items.select(rows[start : start + ITEMS_PER_CHUNK]) for start in starts), device)


def encode_chunks(model: nn.Module, chunks: Iterable[ItemBatch], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """`encode_items` for a catalogue that comes in parts, so that it need not be in memory as a whole."""
    reader = _recommending(model)
    inputs, keys = [], []
    for chunk in chunks:
        moved = chunk.to(device)
        inputs.append(reader.item_inputs(moved))
        keys.append(reader.item_keys(moved))
    return (inputs[0], keys[0]) if len(keys) == 1 else (torch.cat(inputs), torch.cat(keys))


def encode_tokens(model: nn.Module, tokens: ItemTokens, device: torch.device | str) -> Tensor:
    """Keys [N, Dk] of all items of a catalogue of tokens, by length and within a budget of tokens a batch.

    The model runs in evaluation mode (and is put back) under the autocast in force.
    """
    reader = _reading_tokens(model)
    alone = Ragged(np.arange(len(tokens)), np.arange(len(tokens) + 1))
    keys = torch.empty(len(tokens), reader.config.hidden_size, device=device)
    with evaluating(model), torch.inference_mode():
        for index, batch in token_batches(tokens, alone, 1, reader.config.max_tokens):
            found = reader.item_keys(ItemBatch(batch.items, batch.domain, tokens=batch.tokens).to(device))
            keys[torch.from_numpy(index).to(device)] = found
    return keys


def max_length(model: nn.Module) -> int:
    """Longest history that the model reads."""
    return _recommending(model).encoder.config.max_length


def join(shards: Sequence[EvaluationResult]) -> EvaluationResult:
    """The results of all shards of one evaluation as one, in the order of the cases."""
    cases = np.concatenate([shard.cases for shard in shards])
    order = np.argsort(cases, kind="stable")
    ranks = TargetRanks(
        np.concatenate([shard.ranks.greater for shard in shards])[order],
        np.concatenate([shard.ranks.ties for shard in shards])[order],
    )
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


def _recommending(model: nn.Module) -> Recommending:
    """A module by the contract of the models, which the type of a module cannot say."""
    return cast(Recommending, model)


def _reading_tokens(model: nn.Module) -> Recformer:
    if not isinstance(model, Recformer):
        raise ValueError(f"a {type(model).__name__} reads no tokens; give it the inputs that it made of the items")
    return model
