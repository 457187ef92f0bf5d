"""Use of a blend: its parts are asked one after the other, their scores are summed."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.arrays import save_array
from linguarec.batching.histories import TOKENS_PER_BATCH
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.blend.items import BlendInputs, BlendSource, part_folders
from linguarec.families.blend.model import Blend, BlendConfig
from linguarec.families.blend.padded import side_by_side
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.families.padded import PaddedModel
from linguarec.families.weights import PARTS_FOLDER, save_model
from linguarec.files import writing_file
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.explaining import Explanation, weighted_sum
from linguarec.ranking.queries import KeptQueries
from linguarec.ranking.scorer import Scorer, evaluating
from linguarec.ranking.sums import NewItems, SumRanker
from linguarec.sources.source import ItemSource
from linguarec.stored import AGAIN, read_array

NEW_ITEMS_FILE = "new_items.npy"  # of a blend: rows of the items that no training sequence holds
_HISTORIES_AT_ONCE = 1_024
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BlendPart:
    """A model of a blend. `scorer`: of its network, which `description` describes."""

    scorer: Scorer
    description: ModelDescription


class BlendScorer:
    """Asks every part; queries and keys are tuples with those of each part. It works on the CPU."""

    def __init__(self, network: nn.Module, parts: Sequence[BlendPart]) -> None:
        self.network = network
        self.parts = tuple(parts)

    @property
    def weights(self) -> list[float]:
        """One for each part."""
        found: list[float] = cast(Blend, self.network).weights.tolist()
        return found

    @property
    def max_length(self) -> int:
        """Longest history that a part reads."""
        return max(part.scorer.max_length for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def encode(self, source: ItemSource, new: bool = False) -> tuple[BlendInputs, tuple[Any, ...]]:
        """Inputs and keys by each part; the keys of new items are None for a part that has none for them."""
        inputs, keys = [], []
        for part, own in zip(self.parts, cast(BlendSource, source).sources, strict=True):
            found = part.scorer.encode(own, new)
            inputs.append(found[0])
            keys.append(None if new and not part.description.family.ranks_new else found[1])
        return BlendInputs(inputs), tuple(keys)

    def ranker(self, keys: tuple[Any, ...]) -> SumRanker:
        """Ranks by the weighted sum."""
        rankers = [part.scorer.ranker(own) for part, own in zip(self.parts, keys, strict=True)]
        return SumRanker(rankers, self.weights, self._new_items(()))

    def _new_items(self, rows: Sequence[int]) -> NewItems:
        blend = cast(Blend, self.network)
        return NewItems(tuple(blend.new_weights.tolist()), float(blend.new_offset), tuple(rows))

    def save_keys(self, ranker: ExactRanker[Any, Any], folder: Path) -> None:
        """Write which items are new, and the keys of each part into its folder."""
        rows = np.array(cast(SumRanker, ranker).new.rows, dtype=np.int64)
        with writing_file(folder / NEW_ITEMS_FILE, rows.nbytes) as temporary:
            save_array(temporary, rows)
        for (place, part), own in zip(self._places(folder), cast(SumRanker, ranker).parts, strict=True):
            part.scorer.save_keys(own, place)

    def load_ranker(self, folder: Path) -> SumRanker:
        """The sum of the rankers of the parts."""
        places = part_folders(folder, len(self.parts))
        rankers = [part.scorer.load_ranker(place) for place, part in zip(places, self.parts, strict=True)]
        rows = read_array(folder / NEW_ITEMS_FILE, CheckpointMismatchError, AGAIN, dtype=np.int64, shape=(None,))
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(rankers[0]):
            raise CheckpointMismatchError(f"{folder / NEW_ITEMS_FILE} does not list rows of the run's items. {AGAIN}")
        return SumRanker(rankers, self.weights, self._new_items(rows.tolist()))

    def queries(
        self,
        inputs: BlendInputs,
        histories: Ragged,
        users: IntArray | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[IntArray, tuple[Any, ...]]]:
        """The queries of each part, for blocks of histories of about one length; see `Scorer`."""
        rank, processes = shard
        order = np.argsort(histories.lengths, kind="stable")
        blocks = [order[start : start + _HISTORIES_AT_ONCE] for start in range(0, len(order), _HISTORIES_AT_ONCE)]
        for index in itertools.islice(blocks, rank, None, processes):
            of_index, its_users = histories.select(index), None if users is None else users[index]
            found = []
            for part, own in zip(self.parts, inputs.parts, strict=True):
                with evaluating(part.scorer.network):
                    batches = part.scorer.queries(own, of_index, its_users, tokens_per_batch)
                    found.append(KeptQueries(batches).of(np.arange(len(index))))
            yield index, tuple(found)

    def explain(
        self, inputs: BlendInputs, ranker: ExactRanker[Any, Any], histories: Ragged, rows: IntArray
    ) -> Explanation:
        """The weighted sum of the explanations of the parts, which are named by their families."""
        found = []
        for part, own, ranks in zip(self.parts, inputs.parts, cast(SumRanker, ranker).parts, strict=True):
            with evaluating(part.scorer.network):
                found.append(part.scorer.explain(own, ranks, histories, rows))
        names = [part.description.family.name for part in self.parts]
        weights, offset = cast(SumRanker, ranker).weights_of(rows)
        return weighted_sum(names, weights, found, histories, offset)

    def cut_items(self, inputs: BlendInputs) -> dict[str, int]:
        """The largest count of the parts, by limit."""
        return _largest(part.scorer.cut_items(own) for part, own in zip(self.parts, inputs.parts, strict=True))

    def cut_histories(self, inputs: BlendInputs, histories: Ragged) -> dict[str, int]:
        """The largest count of the parts, by limit."""
        return _largest(
            part.scorer.cut_histories(own, histories) for part, own in zip(self.parts, inputs.parts, strict=True)
        )

    def to(self, device: torch.device | str) -> Self:
        """The same scorer: it works on the CPU."""
        return self

    def save(self, folder: Path) -> None:
        """Write the network of each part into its folder, as a run does."""
        for place, part in self._places(folder):
            save_model(part.scorer.network, part.description, place)
            part.scorer.save(place)

    def load_inputs(self, folder: Path, source: ItemSource) -> BlendInputs:
        """The inputs of each part."""
        places = part_folders(folder, len(self.parts))
        return BlendInputs(
            [
                part.scorer.load_inputs(place, own)
                for place, part, own in zip(places, self.parts, cast(BlendSource, source).sources, strict=True)
            ]
        )

    def _places(self, folder: Path) -> Iterator[tuple[Path, BlendPart]]:
        for number, part in enumerate(self.parts):
            place = folder / PARTS_FOLDER / str(number)
            place.mkdir(parents=True, exist_ok=True)
            yield place, part


def _largest(counts: Iterator[dict[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in counts:
        found |= {limit: max(count, found.get(limit, 0)) for limit, count in each.items()}
    return found


def build(config: BlendConfig, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """The weights, all zero."""
    return Blend(config, shape)


def open_scorer(network: nn.Module, description: ModelDescription, source: ItemSource, folder: Path | None) -> Scorer:
    """The scorer of a blend, whose parts are opened.

    Raises:
        CheckpointMismatchError: a part is missing, or damaged.
    """
    from linguarec.families.opening import open_model

    if folder is None:
        raise ValueError("the parts of a blend are opened from its folder")
    parts = []
    places = part_folders(folder, cast(Blend, network).config.parts)
    for place, own in zip(places, cast(BlendSource, source).sources, strict=True):
        its_network, its_description = open_model(place)
        scorer = its_description.family.scorer(its_network, its_description, own, place)
        parts.append(BlendPart(scorer, its_description))
    return BlendScorer(network, parts)


def open_padded(scorer: Scorer, inputs: Any, ranker: ExactRanker[Any, Any]) -> PaddedModel:
    """The blend for export: its parts with item vectors; the others are left out.

    Raises:
        SettingsError: no part can be exported.
    """
    blend = cast(BlendScorer, scorer)
    whole = cast(SumRanker, ranker)
    of_items, offset = whole.weights_of(np.arange(len(whole)))
    own = zip(blend.parts, blend.weights, of_items, cast(BlendInputs, inputs).parts, whole.parts, strict=True)
    kept, weights, left_out = [], [], []
    for part, weight, its_weights, its_inputs, its_ranker in own:
        make = part.description.family.padded
        try:
            if make is None:
                raise SettingsError(["it has no padded form"])
            kept.append(make(part.scorer, its_inputs, its_ranker))
            weights.append(its_weights)
        except SettingsError as error:
            left_out.append({"model": part.description.name, "weight": weight, "reason": str(error)})
    if not kept:
        reasons = "; ".join(f"{part['model']}: {part['reason']}" for part in left_out)
        raise SettingsError([f"no part of this blend can be exported ({reasons})"])
    return side_by_side(kept, weights, offset, left_out)


@dataclass(frozen=True)
class NoOptions:
    """A blend is not trained."""


def refuse_finetuning(request: Request) -> Plan:
    """A blend is not trained like other models.

    Raises:
        SettingsError: always.
    """
    raise SettingsError(["a blend is made of trained runs: linguarec blend RUN RUN ... -o BLEND"])


BLEND = Family(
    name="blend",
    summary="a weighted sum of trained runs, made by `linguarec blend`",
    config=BlendConfig,
    build=build,
    source=BlendSource,
    finetuning=Task(NoOptions, refuse_finetuning),
    encoders={},
    per_item=("parts",),
    carries=False,
    trained=False,
    scorer=open_scorer,
    padded=open_padded,
)
