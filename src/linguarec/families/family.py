"""What a model family tells the rest of the library. Everything outside `families/` asks one of these objects.

A family is a folder: `model.py` (network and config, pure torch), `method.py` (how it is trained and used, and its `Family`),
and whatever only it needs. `linguarec.families.FAMILIES` lists them. How to write one: CONTRIBUTING.md.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import nn

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.nn.encoders import ENCODERS, EncoderConfig, SequenceEncoder, build_encoder, encoder_kind
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.scorer import Scorer, VectorScorer
from linguarec.sources.source import ItemSource
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import PlannedStage

if TYPE_CHECKING:
    from linguarec.families.released import Released
    from linguarec.families.start import Start

log = logging.getLogger(__name__)

Source = TypeVar("Source", bound=ItemSource)
Build = Callable[[Any, EncoderConfig | None, CatalogueShape], nn.Module]
LoadScorer = Callable[[nn.Module, "ModelDescription", ItemSource, Path | None], Scorer]
LeftOut = dict[str, dict[str, int]]
# A start and the options asked for -> name of a way -> the arguments of a fine-tuning beside model and data.
Ways = Callable[["Start", Mapping[str, Any]], dict[str, dict[str, Any]]]


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
class Request:
    """What a training was asked for; the `plan` of a family turns it into a `Plan`.

    `datasets`: one folder to fine-tune on, one or more to pre-train on. `config`: the model's settings, None = not given.
    `options`: of the class that the task declares. `output`: the run folder, not made yet. `valid`, `mixing`: of pre-training.
    """

    family: "Family"
    datasets: list[PreparedDataset]
    start: "Start | None"
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
        hints = option_types(task.options)
        foreign = [flag for flag, value in given.items() if flag not in hints and not _is_default(value)]
        problems = refusals(self.name, foreign)
        for flag, hint in hints.items():
            choices = _choices(hint)
            if choices and given.get(flag) is not None and given[flag] not in choices:
                problems.append(
                    f"--{flag.replace('_', '-')} is {given[flag]!r}; for {self.name} it is one of {', '.join(choices)}"
                )
        if problems:
            raise SettingsError(problems)
        return task.options(**{flag: value for flag, value in given.items() if flag in hints})


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


def option_types(options: type[Any]) -> dict[str, Any]:
    """Type hint of each field of a class of options."""
    hints = get_type_hints(options)
    return {each.name: hints[each.name] for each in fields(options)}


def refusals(who: str, flags: Sequence[str]) -> list[str]:
    """The one rule for flags that say nothing to a model: a line for each."""
    return [f"--{flag.replace('_', '-')}: this is not for {who}; leave it out" for flag in flags]


def refuse(who: str, given: Mapping[str, Any]) -> None:
    """Refuse the flags among `given` that have a value; a group of settings at its defaults has none.

    Raises:
        SettingsError: there are some; all are named.
    """
    if problems := refusals(who, [flag for flag, value in given.items() if not _is_default(value)]):
        raise SettingsError(problems)


def _is_default(value: Any) -> bool:
    if not is_dataclass(value) or isinstance(value, type):
        return value is None
    needed = [each for each in fields(value) if each.default is MISSING and each.default_factory is MISSING]
    return not needed and value == type(value)()


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal, alone or beside None, allows."""
    parts = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    return tuple(choice for part in parts if get_origin(part) is Literal for choice in get_args(part))


def log_own_training(family: Family) -> None:
    """Say which settings of its own a model is trained with where nothing else was asked for."""
    if own := family.training:
        log.info(
            "%s: where not asked otherwise, %s",
            family.name,
            ", ".join(f"{name} {value}" for name, value in own.items()),
        )
