"""Which settings of a training are searched, and the training with other values of them."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from linguarec.checks import sizes_of_weights
from linguarec.errors import SettingsError
from linguarec.families.family import Family, Start
from linguarec.families.flags import option_types
from linguarec.given import given, note_given
from linguarec.nn.encoders import ENCODERS, encoder_kind
from linguarec.ranges import Between, Choice, Range, Value, range_of_text, ranges_of
from linguarec.training.settings import TrainingSettings

MODEL, TRAINING = "model", "training"


@dataclass(frozen=True)
class Searched:
    """A searched setting: its flag without dashes (`model.temperature`), its range, and its value where it is not searched.

    `default`: None where that depends on the data or the start.
    """

    flag: str
    range: Range
    default: Value | None


@dataclass(frozen=True)
class TrainingArguments:
    """The arguments of a fine-tuning that can be searched; `options` are the family's, by flag."""

    config: Any
    training: TrainingSettings
    options: Mapping[str, Any]


@dataclass(frozen=True)
class SearchSpace:
    """The searched settings of a training, and the arguments that they change."""

    searched: tuple[Searched, ...]
    base: TrainingArguments
    groups: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        family: Family,
        base: TrainingArguments,
        start: Start | None = None,
        only: Sequence[str] = (),
        ranges: Sequence[str] = (),
    ) -> "SearchSpace":
        """The settings with a declared range that the user has not set, and those of `ranges`.

        Args:
            family: of the model.
            base: arguments that the user set; what is set is not searched.
            start: what the training starts from; settings that decide the sizes of its weights are not searched.
            only: flags to search; none = all that have a range.
            ranges: `FLAG=RANGE`, in place of a declared range or for a setting that has none.

        Raises:
            SettingsError: a flag is unknown or set, a range is empty or holds impossible values, or nothing is left; all
                errors are named.
        """
        groups = _groups(family, base, start)
        found = _declared(family, base, groups, start)
        problems: list[str] = []
        for text in ranges:
            flag, _, described = text.partition("=")
            flag = _flag(flag)
            try:
                own = _own_range(flag, described, base, groups, start)
            except ValueError as error:
                problems.append(f"--ranges {text}: {error}")
            else:
                found[flag] = own
        asked = [_flag(flag) for flag in only]
        for flag in asked:
            if flag not in found:
                problems.append(f"--only {flag}: it has no range here. {_hint(flag, found)}")
        kept = {flag: own for flag, own in found.items() if not asked or flag in asked}
        for flag, own in kept.items():
            problems += [f"{flag}={own}: {problem}" for problem in _impossible(flag, own, groups)]
        if not kept and not problems:
            problems.append(
                f"{family.name}: all settings that have a range are set; leave some out, or give one with --ranges"
            )
        if problems:
            raise SettingsError(problems)
        searched = [Searched(flag, own, _default(flag, groups)) for flag, own in kept.items()]
        return cls(tuple(searched), base, groups)

    def arguments(self, values: Mapping[str, Value]) -> TrainingArguments:
        """The arguments of the training with these values, by flag.

        Raises:
            ValueError, SettingsError: values exclude each other.
        """
        config, training, options = self.base.config, self.base.training, dict(self.base.options)
        of_groups: dict[str, dict[str, Value]] = {}
        for flag, value in values.items():
            group, dot, name = flag.rpartition(".")
            if dot:
                of_groups.setdefault(group, {})[name] = value
            else:
                options[flag] = value
        for group, changes in of_groups.items():
            changed = _changed(self.groups[group], changes)
            if group == MODEL:
                config = changed
            elif group == TRAINING:
                training = changed
            else:
                options[group] = changed
        return TrainingArguments(config, training, options)


def _flag(text: str) -> str:
    """A flag as it may be typed, as it is named here."""
    return text.strip().removeprefix("--").replace("-", "_")


def _groups(family: Family, base: TrainingArguments, start: Start | None) -> dict[str, Any]:
    """The groups of settings that the training reads, by name; those outside of groups under ""."""
    found = {MODEL: base.config or (family.config() if start is None else start.description.config)}
    encoder = None if start is None else start.description.encoder
    kind = base.options.get("sequence_encoder") or ("transformer" if encoder is None else encoder_kind(encoder))
    for name, hint in option_types(family.finetuning.options).items():
        classes = [each for each in (get_args(hint) or (hint,)) if isinstance(each, type) and is_dataclass(each)]
        if not classes or (name in ENCODERS and name != kind):
            continue
        own = encoder if name == kind and encoder is not None else classes[0]()
        found[name] = base.options.get(name) or own
    if not family.closed_form:
        found[TRAINING] = base.training
    found[""] = family.finetuning.options(**{flag: value for flag, value in base.options.items() if value is not None})
    return found


def _set_by_user(group: str, base: TrainingArguments) -> set[str]:
    """The settings of a group that are set, so that they are not searched."""
    if group == "":
        return {flag for flag, value in base.options.items() if value is not None}
    own = {MODEL: base.config, TRAINING: base.training}.get(group, base.options.get(group))
    return set() if own is None else set(given(own))


def _declared(
    family: Family, base: TrainingArguments, groups: Mapping[str, Any], start: Start | None
) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for group, settings in groups.items():
        own = {**ranges_of(settings), **(family.ranges if group == TRAINING else {})}
        without = _set_by_user(group, base) | _fixed_by(start, group, settings)
        found |= {f"{group}.{name}".lstrip("."): each for name, each in own.items() if name not in without}
    return found


def _fixed_by(start: Start | None, group: str, settings: Any) -> set[str]:
    return set() if start is None or group in ("", TRAINING) else set(sizes_of_weights(settings))


def _own_range(flag: str, text: str, base: TrainingArguments, groups: Mapping[str, Any], start: Start | None) -> Range:
    """The range that the user wrote for a setting, with values of its type.

    Raises:
        ValueError: there is no such setting, it is set already, or the range does not suit it.
    """
    group, _, name = flag.rpartition(".")
    settings = groups.get(group)
    names = {each.name for each in fields(settings)} if settings is not None else set()
    if name not in names or flag in groups or flag == "sequence_encoder":
        every = [f"{of}.{each.name}".lstrip(".") for of, own in groups.items() for each in fields(own)]
        raise ValueError(f"there is no such setting to search. {_hint(flag, every)}")
    if name in _set_by_user(group, base):
        raise ValueError(f"--{flag} is set as well; leave one of them out")
    if name in _fixed_by(start, group, settings):
        raise ValueError("it decides the sizes of weights, and those of --from do not change")
    return _typed(range_of_text(text), get_type_hints(type(settings))[name])


def _typed(found: Range, hint: Any) -> Range:
    """The range with values of the type of its setting."""
    hints = [each for each in get_args(hint) if each is not NoneType] if _is_union(hint) else [hint]
    kind = hints[0]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    numbers = kind in (int, float)
    if isinstance(found, Between):
        if not numbers:
            raise ValueError(f"it is no number; expected choices, such as {'|'.join(map(str, choices)) or 'A|B'}")
        if kind is int and not found.whole:
            raise ValueError("it is a whole number, so its range begins and ends with whole ones")
        return found if kind is int else Between(float(found.low), float(found.high), found.log)
    values = found.values
    if choices and (strange := [value for value in values if value not in choices]):
        raise ValueError(f"{strange[0]} is none of its values, {', '.join(map(str, choices))}")
    if kind is float and all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        return Choice(tuple(float(each) for each in values))
    if not choices and not all(type(each) is kind for each in values):
        raise ValueError(f"expected values of the type {getattr(kind, '__name__', kind)}")
    return found


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (UnionType, Union)


def _impossible(flag: str, own: Range, groups: Mapping[str, Any]) -> list[str]:
    """A line for each end of a range that the setting refuses, whatever the others are."""
    group, _, name = flag.rpartition(".")
    problems = []
    for value in own.ends:
        try:
            changed = replace(groups[group], **{name: value})
            if hasattr(changed, "check"):
                changed.check()
        except (ValueError, SettingsError) as error:
            problems.append(str(error))
    return problems


def _default(flag: str, groups: Mapping[str, Any]) -> Value | None:
    group, _, name = flag.rpartition(".")
    value: Value | None = getattr(groups[group], name)
    declared = ranges_of(groups[group]).get(name)  # of which the first choice is what None stands for
    return declared.ends[0] if value is None and declared is not None else value


def _changed(group: Any, values: Mapping[str, Value]) -> Any:
    """A group with other values, which count as set by the user (see `linguarec.given`), like those that were."""
    changed = replace(group, **values)
    note_given(changed, {*given(group), *values})
    return changed


def _hint(flag: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    near = difflib.get_close_matches(flag, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
