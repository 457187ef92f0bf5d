"""Training of EASE: one stage, which solves a closed form. Its weights cannot be used for another catalogue."""

import csv
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.batching.histories import TOKENS_PER_BATCH
from linguarec.data.ragged import Ragged
from linguarec.data.training_data import TrainingData
from linguarec.errors import SettingsError
from linguarec.evaluation.evaluate import rank_cases
from linguarec.families.ease.model import EASE, EASEConfig, memory_needed
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.families.weights import save_model
from linguarec.files import writing_file
from linguarec.memory import available_memory
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.scorer import Scorer, VectorScorer
from linguarec.sources.ids import IdSource
from linguarec.sources.inputs import VectorInputs
from linguarec.sources.source import ItemSource
from linguarec.training.callbacks import peak_memory_gib
from linguarec.training.fit import CURVE_FILE
from linguarec.training.processes import is_main_process
from linguarec.training.stages import PlannedStage, StageResult

_QUERY_NUMBERS_AT_ONCE = 1 << 26  # 256 MB: a query is as long as the catalogue
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EASEOptions:
    """EASE has no options beside its settings."""


class EASEScorer(VectorScorer):
    """Makes queries that are as long as the catalogue, of a bounded number of histories at once."""

    @property
    def device(self) -> torch.device:
        """Where the network's only tensor is."""
        return next(self.network.buffers()).device

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


@dataclass(frozen=True, eq=False)
class Solve:
    """The stage: solves for the keys, validates them once, and keeps them. There is nothing to resume: it starts again."""

    network: EASE
    description: ModelDescription
    source: IdSource
    data: TrainingData

    def run(self, folder: Path, resume: bool) -> StageResult:
        """See `linguarec.training.stages.Runnable`."""
        started = time.perf_counter()
        self.network.fit(self.data.sequences)
        solved = time.perf_counter()
        scorer = EASEScorer(self.network)
        inputs, keys = scorer.encode(self.source)
        valid = rank_cases(scorer, inputs, DenseRanker(keys), self.data.valid).means()
        seconds, valid_seconds = solved - started, time.perf_counter() - solved
        if is_main_process():
            row = {
                "epoch": 0,
                "step": 0,
                **{f"valid {name}": value for name, value in valid.items()},
                "seconds": seconds,
                "valid_seconds": valid_seconds,
                "peak_memory_gib": peak_memory_gib(),
            }
            with (
                writing_file(folder / CURVE_FILE) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, fieldnames=list(row))
                writer.writeheader()
                writer.writerow(row)
            save_model(self.network, self.description, folder)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in valid.items())
            log.info("solved in %.1f s  valid %s  %.1f s", seconds, shown, valid_seconds)
        return StageResult(valid, best_epoch=0, epochs=1, steps=0, seconds=seconds + valid_seconds)


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
    description = ModelDescription(request.family, request.config or EASEConfig(), None, source.shape)
    network = EASE(description.config, source.shape)
    valid_users, max_length = request.training.valid_users, network.max_length
    data = TrainingData.of(request.dataset, request.split, request.users, valid_users, request.seed, max_length)

    def begin() -> None:
        if is_main_process():
            log.info(
                "%s is solved at once: of --training.* only valid_users and accelerator are read. %d items need up to %s",
                request.family.name,
                len(source),
                _gib(memory_needed(len(source))),
            )

    def make(before: Sequence[StageResult]) -> Solve:
        return Solve(network, description, source, data)

    return Plan(description, network, source, [PlannedStage("", "", make)], request.options, begin=begin)


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


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


EASE_FAMILY = Family(
    name="ease",
    summary="items by ID, item-item weights in closed form",
    config=EASEConfig,
    build=build,
    source=IdSource,
    finetuning=Task(EASEOptions, plan_finetuning),
    encoders={},
    per_item=("keys",),
    carries=False,
    ranks_new=False,
    closed_form=True,
    scorer=open_scorer,
)
