"""What a model family tells the rest of the library. Everything outside `families/` asks one of these objects.

A family is a folder: `model.py` (network and config, pure torch), `method.py` (how it is trained and used, and its `Family`),
and whatever only it needs. `linguarec.families.FAMILIES` lists them. How to write one: CONTRIBUTING.md.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from torch import Tensor, nn

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError
from linguarec.families.flags import options_from
from linguarec.nn.encoders import ENCODERS, EncoderConfig, SequenceEncoder, build_encoder, encoder_kind
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.scorer import LeftOut, Scorer, VectorScorer
from linguarec.sources.source import Asked, ItemSource
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import PlannedStage

log = logging.getLogger(__name__)

Source = TypeVar("Source", bound=ItemSource)
Build = Callable[[Any, EncoderConfig | None, CatalogueShape], nn.Module]
LoadScorer = Callable[[nn.Module, "ModelDescription", ItemSource, Path | None], Scorer]
# A start and the options asked for -> name of a way -> the arguments of a fine-tuning beside model and data, or the error that
# says why this start does not have a way that others of its family have.
Ways = Callable[["Start", Mapping[str, Any]], Mapping[str, dict[str, Any] | CheckpointMismatchError]]


def with_encoder(model: Callable[[Any, CatalogueShape, SequenceEncoder], nn.Module]) -> Build:
    """How a model that takes a sequence encoder is built."""

    def build(config: Any, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
        if encoder is None:
            raise ValueError("this model needs the settings of a sequence encoder")
        return model(config, shape, build_encoder(encoder))

    return build


def score_vectors(
    network: nn.Module, description: "ModelDescription", source: ItemSource, folder: Path | None
) -> Scorer:
    """The scorer of a family whose network makes item vectors of what its source reads."""
    return VectorScorer(network)


@dataclass(frozen=True)
class Start:
    """The opened folder of a model that another training starts from: a pre-training run, a converted checkpoint or another
    run. What is taken over from it: `linguarec.families.start`.

    `source`: how its items were read, as far as the folder tells; it holds no items. `settings`: those that the folder was
    made with; empty where it does not tell.
    """

    folder: Path
    network: nn.Module
    description: "ModelDescription"
    source: ItemSource
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> "Family":
        """Of the model."""
        return self.description.family


@dataclass(frozen=True)
class Request:
    """What a training was asked for; the `plan` of a family turns it into a `Plan`.

    `datasets`: one folder to fine-tune on, one or more to pre-train on. `config`: the model's settings, None = not given.
    `options`: of the class that the task declares. `output`: the run folder, not made yet. `valid`, `mixing`: of pre-training.
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
    mixing: float = 1.0

    @property
    def dataset(self) -> PreparedDataset:
        """The folder to fine-tune on."""
        return self.datasets[0]

    def start_source(self, kind: type[Source]) -> "Source | None":
        """The source of the start, which is of that kind; None without a start."""
        if self.start is None:
            return None
        if not isinstance(self.start.source, kind):
            raise TypeError(f"the start reads items by a {type(self.start.source).__name__}, not by a {kind.__name__}")
        return self.start.source

    @property
    def targets_per_part(self) -> int:
        """Targets of one accumulated part of a step."""
        return self.training.targets_per_step // self.training.accumulate


@dataclass(frozen=True)
class Plan:
    """A training, ready to run: nothing has been written yet, and everything that can be refused has been.

    `network`: that the stages train. `source`: of the items; a fine-tuning's becomes the run's catalogue. `options`: with the
    names that were chosen. `taken`: what a start gave (see `Start.take_over`). `facts`: what else the settings of the run
    record. `begin`: called once the run folder is made, before the first stage: logs, and writes what new items are read by.
    `left_out`: how much of histories and items the model does not read, for the result; None = not counted.
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
    """A training that a family offers: the class of its options, whose fields are flags, and how it is planned."""

    options: type[Any]
    plan: Callable[[Request], Plan]


@dataclass(frozen=True)
class Family:
    """One model family, or one form of it.

    `name`: on the command line and in `config.json`. `config`: class of the model's settings. `build`: makes a network.
    `source`: what it reads of items. `encoders`: sequence encoders that it may be built with, none = it is its own.
    `finetuning`, `pretraining`: its trainings. `training`: settings of its paper's training, where they differ from the
    defaults. `per_item`: tensors with a row for each catalogue item, never carried to another catalogue. `carries`: whether
    another training can start from it. `ranks_new`: whether it gives a key to an item that it was not trained with.
    `scorer`: makes keys and queries of a trained network. `ways`: how a pre-trained model of it can be fine-tuned in a
    comparison with training from scratch; None = nothing carries over. `released`: reads and writes checkpoints of the
    released code.
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
    per_item: tuple[str, ...] = ()
    carries: bool = True
    ranks_new: bool = True
    scorer: LoadScorer = score_vectors
    ways: "Ways | None" = None
    released: "Released | None" = None

    def __repr__(self) -> str:
        return f"Family({self.name}: {self.summary})"

    @property
    def by_id_alone(self) -> bool:
        """Whether it knows items by nothing but their row."""
        return bool(self.per_item) and not self.ranks_new

    def options(self, task: Task, given: Mapping[str, Any]) -> Any:
        """The options of a training with the values `given` by flag (a name without dashes, with underscores).

        Raises:
            SettingsError: a flag says nothing to this family, or a value is none of its choices; all of them are named.
        """
        return options_from(task.options, given, self.name)


@dataclass(frozen=True)
class ModelDescription:
    """All that the tensors of a model cannot tell, as `config.json` holds it.

    `encoder`: settings of the sequence encoder, None for a family that has none beside itself. `shape`: sizes of its data.
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
    """A file of the released code, of whatever model: its `state` dict and what else it holds.

    `not_made`: classes that its pickle names and that were not made (see `linguarec.unpickling`).
    """

    file: Path
    state: dict[str, Any]
    content: dict[str, Any]
    not_made: list[str]


@dataclass(frozen=True)
class ConversionRequest:
    """What a conversion was asked for beside the file.

    `families`: by name. `told`: settings of the released code from elsewhere, which win over those of the file. `dataset`:
    whose items become the catalogue; `asked`: what of it is read. The others are flags of `linguarec convert`.
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
    """A released checkpoint as a model of ours.

    `items`: `raw_id`, attributes and `text` of its catalogue in row order, None = it has none. `source`: of these items, or
    of none. `keys` [N, Dk]: of the items, where the checkpoint holds them itself. `carried`: tensors that have no place in
    the model, kept for the way back. `settings`: what settings.json records. `told`: what the user is told.
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
    """The folder of a model, opened to be written as a checkpoint of the released code.

    `carried`: as `Converted` told it. `settings`: the folder's settings.json.
    """

    folder: Path
    description: "ModelDescription"
    network: nn.Module
    carried: Mapping[str, Tensor]
    settings: Mapping[str, Any]


class Released(Protocol):
    """The released checkpoints of one or several families. `marks`: the keys that tell them, for messages."""

    marks: str

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a state dict with these keys is such a checkpoint."""

    def read(self, released: ReleasedFile, request: ConversionRequest) -> Converted:
        """The model that a file holds.

        Raises:
            CheckpointMismatchError: the file does not fit, or settings are missing or contradict it.
            SettingsError: a flag says nothing to this kind of checkpoint.
        """

    def write(self, model: ModelFolder, output: Path, overwrite: bool) -> dict[str, Any]:
        """Write a model as the released code does; what was written, for the user.

        Raises:
            CheckpointMismatchError: the released code has no such model.
            OutputError: a file beside `output` exists already.
        """


def log_own_training(family: Family) -> None:
    """Say which settings of its own a model is trained with where nothing else was asked for."""
    if own := family.training:
        log.info(
            "%s: where not asked otherwise, %s",
            family.name,
            ", ".join(f"{name} {value}" for name, value in own.items()),
        )
