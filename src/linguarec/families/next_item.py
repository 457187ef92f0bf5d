"""Fine-tuning of models by their own `finetune_loss`: one stage over the catalogue, or over a sample of it in each step.

What a step asks for (the next item at every position, or masked items) is made by the family's loader. A family may plan its
own stages before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingLoader
from linguarec.data.ragged import Ragged
from linguarec.data.training_data import TrainingData
from linguarec.errors import SettingsError
from linguarec.evaluation.evaluate import rank_cases
from linguarec.families.family import ModelDescription, Plan, Request, Steps, next_items
from linguarec.families.options import EncoderOptions, as_chosen, freeze_encoder, settings_of
from linguarec.families.softmax import SoftmaxSettings
from linguarec.families.start import take_over
from linguarec.families.weights import save_model
from linguarec.ranges import tuned
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.scorer import VectorScorer
from linguarec.sources.source import ItemSource
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import Fit, PlannedStage, StageResult

if TYPE_CHECKING:
    from linguarec.training.module import Stage


@dataclass(frozen=True)
class NextItemOptions(EncoderOptions):
    """The sequence encoder, the classes of the softmax, and the order of items with equal timestamps.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        history_in_softmax: kept (default) or excluded; excluded trains each position without the items of its history as
            classes of the softmax, except the target
        ties: fixed (default) or shuffled; shuffled draws a new order of the items of a user with equal timestamps for every
            epoch, for data whose order of ties says nothing
        softmax: over which items the loss of a step runs
    """

    history_in_softmax: Literal["kept", "excluded"] | None = tuned(None, choices=("kept", "excluded"))
    ties: Literal["fixed", "shuffled"] | None = None
    softmax: SoftmaxSettings | None = None


@dataclass(frozen=True)
class StartOptions(NextItemOptions):
    """The options of every next-item model, and which part of a start is frozen.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        history_in_softmax: kept (default) or excluded; excluded trains each position without the items of its history as
            classes of the softmax, except the target
        ties: fixed (default) or shuffled; shuffled draws a new order of the items of a user with equal timestamps for every
            epoch, for data whose order of ties says nothing
        softmax: over which items the loss of a step runs
        frozen: encoder (default with --from) freezes the loaded sequence encoder except its input LayerNorm
    """

    frozen: Literal["encoder", "none"] | None = None


@dataclass(frozen=True, eq=False)
class NextItemData:
    """The data of a fine-tuning: `source`, the whole catalogue; `read`, training sequences and valid cases.

    `exclude_history`: in training, the items of a position's history are no classes of its softmax, except the target.
    `valid_without_history`: in validation, they are no candidates.
    `make_loader`: the family's, with the model's settings filled in. `softmax`: over which
    classes the loss of a step runs.
    """

    source: ItemSource
    read: TrainingData
    max_length: int
    exclude_history: bool = False
    valid_without_history: bool = False
    make_loader: Callable[[Ragged, Steps], TrainingLoader] = next_items
    softmax: SoftmaxSettings = SoftmaxSettings()  # noqa: RUF009  # it is frozen

    @cached_property
    def known(self) -> npt.NDArray[np.int32]:
        """Rows of the items that occur in training, ascending: the classes of the softmax.

        Other items would only be negatives, so a model would learn to rank them last whatever their text is.
        """
        known: npt.NDArray[np.int32] = np.unique(self.read.sequences.values)
        return known

    def classes(self, numbers: npt.NDArray[np.int64] | None = None) -> ItemBatch:
        """The items of the softmax, or those with some numbers among them."""
        return self.source.part(
            self.known.astype(np.int64) if numbers is None else self.known[numbers].astype(np.int64)
        )

    def stage(
        self,
        network: nn.Module,
        steps: TrainingLoader,
        training: TrainingSettings,
        seed: int,
        tables: Sequence[str] = (),
    ) -> "Stage":
        """The training of `network.finetune_loss` over the classes, or over a sample of them in each step.

        `tables`: names of the item tables of the network.
        """
        # with Lightning, which a run in use does not need
        from linguarec.training.module import FineTuning
        from linguarec.training.sampled import SampledTuning

        sampling = self.softmax.sampling(len(self.known), seed)
        if sampling is None:
            return FineTuning(network, self.classes(), steps, training, seed)
        return SampledTuning(network, self.classes, len(self.known), steps, training, seed, sampling, tables)

    def loader(self, training: TrainingSettings, seed: int) -> TrainingLoader:
        """The training steps, whose items are numbers of classes.

        Raises:
            SettingsError: the size of a step is impossible.
        """
        sequences = self.read.sequences
        rows = np.searchsorted(self.known, sequences.values).astype(np.int32)
        steps = Steps(
            self.max_length,
            training.targets_per_step // training.accumulate,
            training.window_stride or None,
            seed,
            self.exclude_history,
            None if self.read.times is None else self.read.times.values,
        )
        return self.make_loader(Ragged(rows, sequences.offsets), steps)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on the valid cases."""
        scorer = VectorScorer(model)
        inputs, keys = scorer.encode(self.source)
        without = self.valid_without_history
        return rank_cases(scorer, inputs, DenseRanker(keys), self.read.valid, exclude_history=without).means()


FirstStage = Callable[[nn.Module, NextItemData], PlannedStage]


def plan_next_item(
    request: Request, source: ItemSource, first: Sequence[FirstStage] = (), mode: str | None = None
) -> Plan:
    """The plan of a family whose network has `finetune_loss` over the whole catalogue.

    Args:
        request: the requested training; its options are `NextItemOptions`, `StartOptions`, or `TransformerOptions` with a
            field `softmax`.
        source: all items of the folder.
        first: functions that make the earlier stages from the network and the data.
        mode: of the fine-tuning, recorded with what is taken from the start.

    Raises:
        SettingsError, CheckpointMismatchError: settings are impossible, or the start does not fit.
        DataFormatError: there are no training targets.
    """
    family, training, seed = request.family, request.training, request.seed
    asked = _choices(request.options)
    frozen = getattr(request.options, "frozen", None)
    softmax: SoftmaxSettings = getattr(request.options, "softmax", None) or SoftmaxSettings()
    if frozen == "encoder" and request.start is None:
        raise SettingsError(["--frozen encoder: there is nothing trained to fix; name its folder with --from"])
    config, encoder = settings_of(request)
    read = TrainingData.of(
        request.dataset,
        request.split,
        request.users,
        training.valid_users,
        seed,
        encoder.max_length,
        times=asked.get("ties") == "shuffled",
    )
    data = NextItemData(
        source,
        read,
        encoder.max_length,
        asked.get("history_in_softmax") == "excluded",
        training.exclude_history,
        lambda sequences, steps: family.loader(sequences, steps, config),
        softmax,
    )
    description = ModelDescription(family, config, encoder, source.shape)
    torch.manual_seed(seed)
    network = description.build()
    taken: dict[str, Any] | None = None
    if request.start is not None:
        taken = take_over(request.start, network, family.per_item)
        taken |= {"mode": mode, "frozen": frozen or "encoder"}
        if taken["frozen"] == "encoder":
            freeze_encoder(network)
    steps = data.loader(training, seed)  # refuses impossible settings

    def begin(before: Sequence[StageResult]) -> Fit:
        return Fit(
            data.stage(network, steps, training, seed, family.per_item),
            data.validate,
            lambda current: save_model(current, description, request.output),
        )

    chosen = {**asked, **names_in(request.options, source)}
    if hasattr(request.options, "softmax"):  # None as in runs of earlier versions, which can then be resumed
        chosen["softmax"] = None if softmax.kind == "full" else softmax
    options = replace(as_chosen(request.options, encoder), **chosen)
    stages = [*(make(network, data) for make in first), PlannedStage("", "", begin)]
    return Plan(description, network, source, stages, options, taken, source.settings())


def _choices(options: Any) -> dict[str, Any]:
    """The choices of `NextItemOptions`, as set or by default; none for a family whose options do not have them."""
    if not isinstance(options, NextItemOptions):
        return {}
    return {"history_in_softmax": options.history_in_softmax or "kept", "ties": options.ties or "fixed"}


def names_in(options: Any, source: ItemSource) -> dict[str, str | None]:
    """The names that a source chose, for those fields of `options` that select them."""
    return {flag: name for flag, name in source.names.items() if hasattr(options, flag)}
