"""A trained network in use: keys of items, queries of histories, and the ranker that scores the ones by the others."""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linguarec.arrays import save_array
from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.histories import TOKENS_PER_BATCH, history_batches
from linguarec.data.ragged import Ragged
from linguarec.files import writing_file
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.explaining import Explanation, by_leaving_out
from linguarec.sources.inputs import VectorInputs, mapped_tensor
from linguarec.sources.source import ItemSource

KEYS_FILE = "keys.npy"  # of a run: the keys [N, Dk] of its items
IntArray = npt.NDArray[np.int64]
LeftOut = dict[str, dict[str, int]]
log = logging.getLogger(__name__)


class TwoSided(Protocol):
    """What a `VectorScorer` asks of a network."""

    @property
    def max_length(self) -> int:
        """Longest history that is read."""

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """[N, D] that histories are made of."""

    def item_keys(self, items: ItemBatch) -> Tensor:
        """[N, Dk] that is scored."""

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """[T, Dk], one query a position, or [B, Dk], one a history; all that is read of a batch with `only_last`."""


class Scorer(Protocol):
    """Makes keys of items and queries of histories.

    `network`: in evaluation mode while it is used. What histories read of items (`inputs`, see `HistoryInputs`) is made by
    `encode` together with the keys; it is of a kind that belongs to the scorer.
    """

    network: nn.Module

    @property
    def max_length(self) -> int:
        """Longest history that is read; of a longer one the last items are."""

    @property
    def device(self) -> torch.device:
        """Where the network is and the work is done."""

    def encode(self, source: ItemSource, new: bool = False) -> tuple[Any, Any]:
        """Inputs of all items and what they are scored by, on the device, under the autocast in force.

        That is keys [N, Dk] for most scorers; `ranker` takes it. `new`: the network was not trained on these items, so their
        numbers mean nothing to it.
        """

    def ranker(self, keys: Any) -> ExactRanker[Any, Any]:
        """Ranks by the queries and the keys of this scorer."""

    def save_keys(self, ranker: ExactRanker[Any, Any], folder: Path) -> None:
        """Write the keys of a ranker that `ranker` made into a run folder."""

    def load_ranker(self, folder: Path) -> ExactRanker[Any, Any]:
        """The ranker of a run's items, as they were saved; large files are mapped.

        Raises:
            CheckpointMismatchError: a file is missing or damaged.
        """

    def queries(
        self,
        inputs: Any,
        histories: Ragged,
        users: IntArray | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[IntArray, Any]]:
        """The query of each history, batch by batch: indices [B] of its histories, B queries, such as [B, Dk].

        Histories are cut into the same batches whatever the number of processes, which share the batches out.

        Args:
            inputs: that `encode` gave.
            histories: rows of the items, oldest first; none empty.
            users: [Q] user row of each history, or None.
            tokens_per_batch: bound of the history tokens encoded at once.
            shard: (rank, processes): take every `processes`-th batch from `rank` on.
        """

    def explain(self, inputs: Any, ranker: ExactRanker[Any, Any], histories: Ragged, rows: IntArray) -> Explanation:
        """What each item of a history adds to the scores of the items `rows` [Q, k] after it, and each part of the model.

        Args:
            inputs: that `encode` gave.
            ranker: of the items.
            histories: Q histories of rows of the items, oldest first; none empty.
            rows: items to explain.
        """

    def cut_items(self, inputs: Any) -> dict[str, int]:
        """How many items are longer than the network reads, by the limit; empty = nothing is ever cut."""

    def cut_histories(self, inputs: Any, histories: Ragged) -> dict[str, int]:
        """How many histories are longer than the network reads or have nothing to read; empty = nothing is ever cut unseen."""

    def to(self, device: torch.device | str) -> Self:
        """The same scorer, its weights moved to another device."""

    def save(self, folder: Path) -> None:
        """Write the weights that it has beside those of `network`."""

    def load_inputs(self, folder: Path, source: ItemSource) -> Any:
        """The inputs of a run's items, as they were saved; `source`: of the run, with its items."""


class DenseKeys:
    """The part of a scorer that keeps keys [N, Dk] in a file, ranks by query . key and is explained by leaving out items."""

    def explain(self, inputs: Any, ranker: ExactRanker[Any, Any], histories: Ragged, rows: IntArray) -> Explanation:
        """See `Scorer`: differences of scores."""
        return by_leaving_out(cast(Scorer, self), inputs, ranker, histories, rows)

    def ranker(self, keys: Tensor) -> DenseRanker:
        """See `Scorer`."""
        return DenseRanker(keys.float())

    def save_keys(self, ranker: ExactRanker[Any, Any], folder: Path) -> None:
        """See `Scorer`."""
        keys = cast(DenseRanker, ranker).keys.float().cpu().numpy()
        with writing_file(folder / KEYS_FILE, keys.nbytes) as temporary:
            save_array(temporary, keys)

    def load_ranker(self, folder: Path) -> DenseRanker:
        """See `Scorer`: a memory map."""
        return DenseRanker(mapped_tensor(folder / KEYS_FILE))


class VectorScorer(DenseKeys):
    """The scorer of a network that makes item vectors [N, D], which its sequence side reads."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @property
    def _model(self) -> TwoSided:
        return cast(TwoSided, self.network)

    @property
    def max_length(self) -> int:
        """Longest history that is read."""
        return self._model.max_length

    @property
    def device(self) -> torch.device:
        """Where the weights are; of a network without any, its other tensors."""
        return next(itertools.chain(self.network.parameters(), self.network.buffers())).device

    def encode(self, source: ItemSource, new: bool = False) -> tuple[VectorInputs, Tensor]:
        """Item vectors and keys of all items, in chunks that bound the memory of what makes them."""
        return self.encode_batches(source.chunks(new))

    def encode_batches(self, batches: Iterable[ItemBatch]) -> tuple[VectorInputs, Tensor]:
        """As `encode`, for a catalogue that comes in batches."""
        inputs, keys = [], []
        with evaluating(self.network), torch.inference_mode():
            for batch in batches:
                moved = batch.to(self.device)
                inputs.append(self._model.item_inputs(moved))
                keys.append(self._model.item_keys(moved))
            whole = (inputs[0], keys[0]) if len(keys) == 1 else (torch.cat(inputs), torch.cat(keys))
        return VectorInputs(whole[0]), whole[1]

    def queries(
        self,
        inputs: VectorInputs,
        histories: Ragged,
        users: IntArray | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """The query after the last item of each history; see `Scorer`."""
        rank, processes = shard
        parts = history_batches(histories, self.max_length, tokens_per_batch, users)
        for index, whole in itertools.islice(parts, rank, None, processes):
            batch = whole.to(self.device)
            read = replace(batch, items=torch.arange(len(batch.items), device=self.device), only_last=True)
            yield index, last_queries(self._model.queries(read, inputs.rows(batch.items)), batch)

    def cut_items(self, inputs: VectorInputs) -> dict[str, int]:
        """Item vectors are never cut."""
        return {}

    def cut_histories(self, inputs: VectorInputs, histories: Ragged) -> dict[str, int]:
        """Nothing is counted: the last `max_length` items are read."""
        return {}

    def to(self, device: torch.device | str) -> Self:
        """The same scorer, its network moved."""
        self.network.to(device)
        return self

    def save(self, folder: Path) -> None:
        """There are no further weights."""

    def load_inputs(self, folder: Path, source: ItemSource) -> VectorInputs:
        """The item vectors, memory-mapped."""
        return VectorInputs.load(folder)


def last_queries(found: Tensor, batch: SequenceBatch) -> Tensor:
    """The query of each history [B, Dk], of queries one a history or one a position.

    Where both are as many, each history is one item long, and they are the same.
    """
    return found if len(found) == len(batch) else found[batch.last]


def left_out(scorer: Scorer, inputs: Any, histories: Mapping[str, Ragged]) -> LeftOut | None:
    """How much of items and histories the scorer does not read, as the result of a command records it; None = not counted.

        {"items": {"over_256_tokens": 3}, "test_histories": {"over_50_items": 12, "over_256_tokens": 40, "without_text": 0}}

    Args:
        scorer: whose limits count.
        inputs: of the items.
        histories: train, valid, test -> histories of rows of the items.
    """
    counts = {"items": scorer.cut_items(inputs)}
    counts |= {f"{part}_histories": scorer.cut_histories(inputs, of_part) for part, of_part in histories.items()}
    return counts if any(counts.values()) else None


def log_left_out(counts: Mapping[str, Mapping[str, int]] | None) -> None:
    """Say in a line each what is cut and what has no text, if anything has."""
    too_long, without_text = [], []
    for what, of_what in (counts or {}).items():
        name = what.replace("_", " ")
        shown = [
            f"{count:,} {over.replace('_', ' ')}" for over, count in of_what.items() if count and over != "without_text"
        ]
        if shown:
            too_long.append(f"{name}: {', '.join(shown)}")
        if of_what.get("without_text"):
            without_text.append(f"{name}: {of_what['without_text']:,}")
    if too_long:
        log.warning("longer than the model reads, and cut: %s", "; ".join(too_long))
    if without_text:
        log.warning("of items without any text alone, and therefore all read alike: %s", "; ".join(without_text))


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
