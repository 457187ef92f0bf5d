"""Training of item-kNN: one stage, which counts. Its similarities cannot be used for another catalogue."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

from linguarec.arrays import save_array
from linguarec.batching.histories import TOKENS_PER_BATCH, by_length
from linguarec.checks import LARGEST
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError
from linguarec.families.climbing import Climb
from linguarec.families.closed_form import DECAY, TRAINING, ClosedFormOptions, Recipe, plan_closed_form
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.families.itemknn.model import ItemKNN, ItemKNNConfig, history_weights
from linguarec.files import writing_file
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.explaining import Explanation, by_summing
from linguarec.ranking.scorer import Scorer
from linguarec.ranking.sparse import SparseRanker
from linguarec.sources.ids import IdSource
from linguarec.sources.inputs import VectorInputs
from linguarec.sources.source import ItemSource
from linguarec.stored import AGAIN, read_array

# Of a run: the similarities as CSR, row = item of the history.
SIMILARITY_FILES = {
    "data": "neighbours.values.npy",
    "indices": "neighbours.rows.npy",
    "indptr": "neighbours.starts.npy",
}
SIMILARITY_TYPES = {"data": np.float32, "indices": np.int32, "indptr": np.int32}


class ItemKNNScorer:
    """Queries are weights of the items of histories, as sparse rows; items are scored by sums of similarities."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @property
    def _model(self) -> ItemKNN:
        return cast(ItemKNN, self.network)

    @property
    def max_length(self) -> int:
        """Longest history that is read: of any length."""
        return LARGEST

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def encode(self, source: ItemSource, new: bool = False) -> tuple[VectorInputs, Any]:
        """The rows of the items [N, 1], exact up to 16 million items, and their similarities."""
        rows = torch.cat([chunk.rows for chunk in source.chunks(new)])
        return VectorInputs(rows.to(torch.float32).unsqueeze(1)), self._model.similarity

    def ranker(self, keys: Any) -> SparseRanker:
        """Ranks by sums of similarities."""
        return SparseRanker(keys)

    def save_keys(self, ranker: ExactRanker[Any, Any], folder: Path) -> None:
        """Write the similarities."""
        matrix = cast(SparseRanker, ranker).matrix
        for part, name in SIMILARITY_FILES.items():
            values = getattr(matrix, part).astype(SIMILARITY_TYPES[part], copy=False)
            with writing_file(folder / name, values.nbytes) as temporary:
                save_array(temporary, values)

    def load_ranker(self, folder: Path) -> SparseRanker:
        """The similarities, memory-mapped."""
        items, columns = self._model.shape.num_items, len(VectorInputs.load(folder))
        parts = {
            part: read_array(
                folder / name, CheckpointMismatchError, AGAIN, mapped=True, dtype=SIMILARITY_TYPES[part], shape=(None,)
            )
            for part, name in SIMILARITY_FILES.items()
        }
        starts = parts["indptr"]
        if len(starts) != items + 1 or starts[0] != 0 or (np.diff(starts) < 0).any():
            raise CheckpointMismatchError(
                f"{folder / SIMILARITY_FILES['indptr']} does not say where the neighbours of {items:,} items start. {AGAIN}"
            )
        if not len(parts["data"]) == len(parts["indices"]) == starts[-1]:
            raise CheckpointMismatchError(
                f"{folder}: the files of neighbours hold {len(parts['data']):,} values, {len(parts['indices']):,} rows and "
                f"end at {int(starts[-1]):,}; they do not belong together. {AGAIN}"
            )
        if len(parts["indices"]) and not 0 <= parts["indices"].min() <= parts["indices"].max() < columns:
            raise CheckpointMismatchError(
                f"{folder / SIMILARITY_FILES['indices']} names items outside of the {columns:,} of the catalogue. {AGAIN}"
            )
        try:
            return SparseRanker(sparse.csr_array((parts["data"], parts["indices"], starts), shape=(items, columns)))
        except ValueError as error:
            raise CheckpointMismatchError(f"{folder / SIMILARITY_FILES['data']}: {error}. {AGAIN}") from error

    def queries(
        self,
        inputs: VectorInputs,
        histories: Ragged,
        users: npt.NDArray[np.int64] | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
        """The weights of each history's items; see `Scorer`."""
        if len(histories) and histories.lengths.min() == 0:
            raise ValueError(f"history {int(np.argmin(histories.lengths))} is empty; there is nothing to continue")
        rank, processes = shard
        for index in itertools.islice(by_length(histories.lengths, tokens_per_batch), rank, None, processes):
            part = histories.select(index)
            rows = inputs.rows(torch.from_numpy(np.asarray(part.values, dtype=np.int64))).squeeze(1)
            own = Ragged(rows.numpy().astype(np.int64), part.offsets)
            yield index, history_weights(own, self._model.shape.num_items, self._model.config.decay)

    def explain(
        self, inputs: VectorInputs, ranker: ExactRanker[Any, Any], histories: Ragged, rows: npt.NDArray[np.int64]
    ) -> Explanation:
        """See `Scorer`: exact, an item counts once, at its last occurrence."""
        decay = self._model.config.decay
        return by_summing(self, inputs, ranker, histories, rows, lambda steps: decay ** float(steps[0]))

    def cut_items(self, inputs: VectorInputs) -> dict[str, int]:
        """Items are never cut."""
        return {}

    def cut_histories(self, inputs: VectorInputs, histories: Ragged) -> dict[str, int]:
        """Histories are never cut."""
        return {}

    def to(self, device: torch.device | str) -> Self:
        """The same scorer: it works on the CPU."""
        return self

    def save(self, folder: Path) -> None:
        """There are no further weights."""

    def load_inputs(self, folder: Path, source: ItemSource) -> VectorInputs:
        """The rows of the items."""
        return VectorInputs.load(folder)


def build(config: ItemKNNConfig, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """The network, without similarities."""
    return ItemKNN(config, shape)


def open_scorer(network: nn.Module, description: ModelDescription, source: ItemSource, folder: Path | None) -> Scorer:
    """The scorer of a network."""
    return ItemKNNScorer(network)


def plan_finetuning(request: Request) -> Plan:
    """One stage, which counts the training sequences of the folder.

    Raises:
        DataFormatError: there are no training targets, or no valid cases.
    """
    source = IdSource.choose(request.dataset, {})
    config = request.config or ItemKNNConfig()
    recipe = Recipe(
        lambda network, data: network.fit(data.sequences),
        ItemKNNScorer,
        [Climb(DECAY, 0.1)],
        lambda: f"{len(source):,} items with up to {config.neighbours} neighbours each",
    )
    return plan_closed_form(request, source, recipe)


ITEM_KNN = Family(
    name="itemknn",
    summary="items by ID, similarities counted from the log",
    config=ItemKNNConfig,
    build=build,
    source=IdSource,
    finetuning=Task(ClosedFormOptions, plan_finetuning),
    encoders={},
    per_item=("similarity",),
    carries=False,
    ranks_new=False,
    closed_form=True,
    training=TRAINING,
    scorer=open_scorer,
)
