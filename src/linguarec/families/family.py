"""The interface of model families. Code outside `families/` uses a model only through these objects.

A family is a folder: `model.py` (network and config, pure torch), `method.py` (its training and its `Family` object), and the
code that only this family needs. `linguarec.families.FAMILIES` lists the families. How to write one: CONTRIBUTING.md.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor, nn

from linguarec.batching.loader import TrainingLoader
from linguarec.batching.pretraining import Mixing
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError
from linguarec.families.flags import options_from
from linguarec.families.padded import MakePadded
from linguarec.nn.encoders import ENCODERS, EncoderConfig, SequenceEncoder, build_encoder, encoder_kind
from linguarec.nn.shape import CatalogueShape
from linguarec.ranges import Range
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.scorer import LeftOut, Scorer, VectorScorer
from linguarec.sources.ids import IdSource
from linguarec.sources.source import Asked, ItemSource
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import PlannedStage

log = logging.getLogger(__name__)

Source = TypeVar("Source", bound=ItemSource)
Build = Callable[[Any, EncoderConfig | None, CatalogueShape], nn.Module]
LoadScorer = Callable[[nn.Module, "ModelDescription", ItemSource, Path | None], Scorer]
# (scorer, ranker of its items, rows of some of them, these items as new ones) -> their keys, as `Scorer.encode` returns them.
KeysAsNew = Callable[[Scorer, ExactRanker[Any, Any], npt.NDArray[np.int64], ItemSource], Any]
# (start, requested options) -> for each way by name: the arguments of a fine-tuning beside model and data, or the error that
# says why this start does not support a way of its family.
Ways = Callable[["Start", Mapping[str, Any]], Mapping[str, dict[str, Any] | CheckpointMismatchError]]


@dataclass(frozen=True)
class Steps:
    """How sequences are cut into training steps; the fields are arguments of `TrainingLoader`, `targets` is of one step."""

    max_length: int
    targets: int
    stride: int | None
    seed: int
    exclude_history: bool = False
    times: npt.NDArray[np.int64] | None = None


MakeLoader = Callable[[Ragged, Steps, Any], TrainingLoader]  # (training sequences, steps, the model's settings)


def next_items(sequences: Ragged, steps: Steps, config: Any = None) -> TrainingLoader:
    """The training steps of a family whose network predicts the next item at every position."""
    return TrainingLoader(
        sequences.values,
        sequences.offsets,
        steps.max_length,
        steps.targets,
        steps.stride,
        steps.seed,
        steps.exclude_history,
        steps.times,
    )


def with_encoder(model: Callable[[Any, CatalogueShape, SequenceEncoder], nn.Module]) -> Build:
    """A `Build` function for a model that takes a sequence encoder."""

    def build(config: Any, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
        if encoder is None:
            raise ValueError("this model needs the settings of a sequence encoder")
        return model(config, shape, build_encoder(encoder))

    return build


def score_vectors(
    network: nn.Module, description: "ModelDescription", source: ItemSource, folder: Path | None
) -> Scorer:
    """The scorer of a family whose network computes item vectors from its source."""
    return VectorScorer(network)


@dataclass(frozen=True)
class Start:
    """The opened folder of a model that another training starts from: a pre-training run, a converted checkpoint or another
    run. How it is used: `linguarec.families.start`.

    `source`: how its items were made, as far as the folder records it, without items. `settings`: of the training that made
    the folder; empty if it records none.
    """

    folder: Path
    network: nn.Module
    description: "ModelDescription"
    source: ItemSource
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> "Family":
        """The family of the model."""
        return self.description.family


@dataclass(frozen=True)
class Request:
    """A requested training; the family's task turns it into a `Plan`.

    `datasets`: one folder to fine-tune on, one or more to pre-train on. `config`: the model's settings, None = not set.
    `options`: of the class that the task declares. `output`: the run folder, which does not exist yet. `valid`, `mixing`: for
    pre-training only.
    """

    family: "Family"
    datasets: list[PreparedDataset]
    start: Start | None
    config: Any
    options: Any
    training: TrainingSettings
    split: str
    users: float
    seed: int
    output: Path
    valid: PreparedDataset | None = None
    mixing: Mixing = field(default_factory=Mixing)

    @property
    def dataset(self) -> PreparedDataset:
        """The folder to fine-tune on."""
        return self.datasets[0]

    def start_source(self, kind: type[Source]) -> "Source | None":
        """The source of the start, which must be of this class; None without a start."""
        if self.start is None:
            return None
        if not isinstance(self.start.source, kind):
            raise TypeError(f"the start reads items by a {type(self.start.source).__name__}, not by a {kind.__name__}")
        return self.start.source

    @property
    def targets_per_part(self) -> int:
        """Number of targets of one accumulated part of a step."""
        return self.training.targets_per_step // self.training.accumulate


@dataclass(frozen=True)
class Plan:
    """A training, ready to run: all checks are done, and nothing has been written yet.

    `network`: trained by the stages. `source`: of the items; in fine-tuning it becomes the run's catalogue. `options`: with the
    chosen names. `taken`: record of `linguarec.families.start.take_over`. `facts`: further facts for the settings of the run.
    `begin`: called after the run folder is made and before the first stage; logs, and writes the files that new items need.
    `left_out`: counts of the histories and items that the model cuts, for the result; None = not counted.
    """

    description: "ModelDescription"
    network: nn.Module
    source: ItemSource
    stages: Sequence[PlannedStage]
    options: Any
    taken: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    begin: Callable[[], None] = lambda: None
    left_out: Callable[[], LeftOut | None] = lambda: None


@dataclass(frozen=True)
class Task:
    """A training that a family offers: the class of its options, whose fields are flags, and the function that plans it."""

    options: type[Any]
    plan: Callable[[Request], Plan]


@dataclass(frozen=True)
class Family:
    """One model family, or one variant of it.

    `name`: on the command line and in `config.json`. `config`: class of the model's settings. `build`: makes a network.
    `source`: class of its item source. `encoders`: sequence encoders that it can be built with; none = the model needs none.
    `finetuning`, `pretraining`: its trainings. `training`: settings of its paper's training that differ from the defaults.
    `ranges`: those of training settings for `linguarec tune` that differ from the declared ones.
    `per_item`: tensors with a row for each catalogue item, which are never loaded for another catalogue. `carries`: whether
    another training can start from it. `ranks_new`: whether it has keys for items that it was not trained with.
    `closed_form`: fitted at once and without a seed; a comparison puts it beside every model that is trained. `trained`: false
    for what is made of trained runs. `cost`: why its training takes much longer than that of most others, empty = it does not;
    a comparison of many models says so before it starts. `loader`: makes
    the steps that `finetune_loss` reads. `both_ways`: whether a place reads later ones, too; then it is trained on masked
    items, and a history is continued from a masked place behind it. `scorer`: makes keys and queries with a trained network.
    `ways`: ways to fine-tune a pre-trained model, for the comparison with training from scratch; None = none, because no
    weights carry over. `released`: reads and writes checkpoints of the released code. `padded`: the model of a
    run for export, None = it cannot be exported. `keys_as_new`: the keys that items of its catalogue would have if no training
    sequence had held them; None = only another training could tell.
    """

    name: str
    summary: str
    config: type[Any]
    build: Build
    source: type[ItemSource]
    finetuning: Task
    pretraining: Task | None = None
    encoders: Mapping[str, type[Any]] = field(default_factory=lambda: dict(ENCODERS))
    training: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    per_item: tuple[str, ...] = ()
    carries: bool = True
    ranks_new: bool = True
    closed_form: bool = False
    trained: bool = True
    cost: str = ""
    loader: MakeLoader = next_items
    both_ways: bool = False
    scorer: LoadScorer = score_vectors
    ways: "Ways | None" = None
    released: "Released | None" = None
    padded: MakePadded | None = None
    keys_as_new: KeysAsNew | None = None

    def __repr__(self) -> str:
        return f"Family({self.name}: {self.summary})"

    @property
    def by_id_alone(self) -> bool:
        """Whether it knows items only by their catalogue row."""
        return bool(self.per_item) and not self.ranks_new and issubclass(self.source, IdSource)

    @property
    def bound_to_ids(self) -> str:
        """How it depends on IDs, for a message about items that have none: "NAME knows items by ID only"."""
        return f"{self.name} {'knows' if self.by_id_alone else 'ranks'} items by ID only"

    def options(self, task: Task, given: Mapping[str, Any]) -> Any:
        """The options of a training with the values `given` by flag (a name without dashes, with underscores).

        Raises:
            SettingsError: the family does not have a flag, or a value is not one of its choices; all of them are named.
        """
        return options_from(task.options, given, self.name)


@dataclass(frozen=True)
class ModelDescription:
    """The facts about a model that its tensors do not hold, stored as `config.json`.

    `encoder`: settings of the sequence encoder, None for a family without one. `shape`: sizes of its data.
    """

    family: Family
    config: Any
    encoder: EncoderConfig | None
    shape: CatalogueShape

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    def build(self) -> nn.Module:
        """The network, freshly initialised; draws from torch's default generator."""
        return self.family.build(self.config, self.encoder, self.shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        encoder = None if self.encoder is None else {"kind": encoder_kind(self.encoder), **asdict(self.encoder)}
        return {
            "format_version": 1,
            "model": self.name,
            "config": asdict(self.config),
            "encoder": encoder,
            "shape": asdict(self.shape),
        }


@dataclass(frozen=True)
class ReleasedFile:
    """A file of the released code for any model: its `state` dict and its other content.

    `not_made`: classes in its pickle that were not built (see `linguarec.unpickling`).
    """

    file: Path
    state: dict[str, Any]
    content: dict[str, Any]
    not_made: list[str]


@dataclass(frozen=True)
class ConversionRequest:
    """The arguments of a conversion beside the file.

    `families`: by name. `told`: settings of the released code that the user passes; they override those of the file. `dataset`:
    its items become the catalogue; `asked`: names of what is read from it. The others are flags of `linguarec convert`.
    """

    families: "Mapping[str, Family]"
    told: Mapping[str, Any]
    dataset: PreparedDataset | None
    asked: Asked
    item_ids: Path | None = None
    word_embeddings: Path | None = None
    window: int | None = None


@dataclass(frozen=True)
class Converted:
    """A released checkpoint, converted to a linguarec model.

    `items`: `raw_id`, attributes and `text` of its catalogue in row order, None = no catalogue. `source`: of these items, or
    without items. `keys` [N, Dk]: of the items, if the checkpoint holds them. `carried`: tensors that are not part of the
    model, kept for the conversion back. `settings`: content of settings.json. `told`: facts to show to the user.
    """

    title: str
    description: "ModelDescription"
    network: nn.Module
    source: ItemSource
    items: pa.Table | None = None
    attributes: list[str] = field(default_factory=list)
    text_rules: str = "released"
    keys: Tensor | None = None
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a model, opened to write it as a checkpoint of the released code.

    `carried`: as in `Converted`. `settings`: the folder's settings.json.
    """

    folder: Path
    description: "ModelDescription"
    network: nn.Module
    carried: Mapping[str, Tensor]
    settings: Mapping[str, Any]


class Released(Protocol):
    """Adapter for the released checkpoints of one or several families. `marks`: the keys that identify them, for messages."""

    marks: str

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a state dict with these keys is such a checkpoint."""

    def read(self, released: ReleasedFile, request: ConversionRequest) -> Converted:
        """Convert the model in a file.

        Raises:
            CheckpointMismatchError: the file does not fit, or settings are missing or contradict it.
            SettingsError: a flag does not apply to this type of checkpoint.
        """

    def write(self, model: ModelFolder, output: Path, overwrite: bool) -> dict[str, Any]:
        """Write a model in the released code's format; returns facts about the files, to show to the user.

        Raises:
            CheckpointMismatchError: the released code has no such model.
            OutputError: a file beside `output` exists already.
        """


def log_own_training(family: Family) -> None:
    """Log the family's own training settings, which apply unless the user sets others."""
    if own := family.training:
        log.info(
            "%s: unless given otherwise, %s",
            family.name,
            ", ".join(f"--training.{name} {value}" for name, value in own.items()),
        )
