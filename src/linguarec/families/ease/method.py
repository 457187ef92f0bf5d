"""Training of EASE: one stage, which solves a closed form. Its weights cannot be used for another catalogue."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.batching.histories import TOKENS_PER_BATCH
from linguarec.data.ragged import Ragged
from linguarec.data.training_data import TrainingData
from linguarec.durations import duration_text
from linguarec.errors import SettingsError
from linguarec.families.climbing import Climb
from linguarec.families.closed_form import DECAY, TRAINING, ClosedFormOptions, Recipe, plan_closed_form
from linguarec.families.ease.model import EASE, EASEConfig, memory_needed, seconds_needed
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.memory import available_memory
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.explaining import Explanation, by_summing
from linguarec.ranking.scorer import Scorer, VectorScorer
from linguarec.sources.ids import IdSource
from linguarec.sources.inputs import VectorInputs
from linguarec.sources.source import ItemSource

# The order first, as it asks for no other weights, and again with the weights that were chosen.
CLIMBS = (Climb(DECAY, 0.1), Climb("regularisation", 2), Climb("length_damping", 0.5), Climb(DECAY, 0.1))
SLOW = 25_000  # items from which on a solution takes minutes on two cores, and grows with the cube
_QUERY_NUMBERS_AT_ONCE = 1 << 26  # 256 MB: a query is as long as the catalogue


class EASEScorer(VectorScorer):
    """Makes queries that are as long as the catalogue, of a bounded number of histories at once."""

    def queries(
        self,
        inputs: VectorInputs,
        histories: Ragged,
        users: npt.NDArray[np.int64] | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]:
        """The query of each history; see `Scorer`."""
        items = next(self.network.buffers()).shape[1]
        # A history has at least one token, so tokens bound the histories.
        most = max(1, min(tokens_per_batch, _QUERY_NUMBERS_AT_ONCE // max(1, items)))
        return super().queries(inputs, histories, users, most, shard)

    def explain(
        self, inputs: VectorInputs, ranker: ExactRanker[Any, Any], histories: Ragged, rows: npt.NDArray[np.int64]
    ) -> Explanation:
        """See `Scorer`: exact, an item counts once, at its last occurrence."""
        decay = cast(EASE, self.network).config.decay
        return by_summing(self, inputs, ranker, histories, rows, lambda steps: decay ** float(steps[0]))


def build(config: EASEConfig, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """The network, without keys."""
    return EASE(config, shape)


def open_scorer(network: nn.Module, description: ModelDescription, source: ItemSource, folder: Path | None) -> Scorer:
    """The scorer of a network."""
    return EASEScorer(network)


def plan_finetuning(request: Request) -> Plan:
    """One stage, which solves for the weights between all items of the folder.

    Raises:
        SettingsError: the matrices do not fit into the memory that is available.
        DataFormatError: there are no training targets, or no valid cases.
    """
    source = IdSource.choose(request.dataset, {})
    check_memory(len(source), available_memory())
    return plan_closed_form(request, source, recipe_of(len(source), lambda network, data: network.fit(data.sequences)))


def recipe_of(num_items: int, fit: Callable[[Any, TrainingData], None]) -> Recipe:
    """The recipe of models with weights between all items."""
    return Recipe(fit, EASEScorer, CLIMBS, lambda: resources_needed(num_items), slow=num_items >= SLOW)


def check_memory(num_items: int, available: int | None) -> None:
    """Refuse a catalogue whose matrices do not fit into memory.

    Args:
        num_items: N.
        available: bytes; None = not known.

    Raises:
        SettingsError: they do not fit; both figures are named.
    """
    needed = memory_needed(num_items)
    if available is not None and needed > available:
        largest = int((available / memory_needed(1)) ** 0.5)
        raise SettingsError(
            [
                f"{num_items:,} items need {_gib(needed)} of memory (three matrices of items by items in float64), and "
                f"{_gib(available)} are available here, enough for {largest:,} items; prepare the data with a larger "
                "--k-core, take a machine with more memory, or another model"
            ]
        )


def resources_needed(num_items: int) -> str:
    """The memory and time that a catalogue needs, in a sentence. It tries a small inverse for that."""
    needed = memory_needed(num_items)
    took = duration_text(seconds_needed(num_items))
    return f"{num_items:,} items need {_gib(needed)} of memory and {took} a solution, by estimate"


def _gib(size: int) -> str:
    if size < 2**20:
        return "less than 1 MiB"
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


EASE_FAMILY = Family(
    name="ease",
    summary="items by ID, item-item weights in closed form",
    config=EASEConfig,
    build=build,
    source=IdSource,
    finetuning=Task(ClosedFormOptions, plan_finetuning),
    encoders={},
    per_item=("keys",),
    carries=False,
    ranks_new=False,
    closed_form=True,
    training=TRAINING,
    scorer=open_scorer,
)
