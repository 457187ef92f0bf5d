"""Flags that families declare as fields of a dataclass: their types and values, and the rule that refuses other flags."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from linguarec.errors import SettingsError, UnreadFlagsError
from linguarec.given import given as set_by_user


def options_from(options: type[Any], given: Mapping[str, Any], who: str) -> Any:
    """An object of a class of options, with the values `given` by flag (a name without dashes, with underscores).

    Raises:
        SettingsError: a flag is not among the options, a value is not one of its choices, or `check` of a group of settings
            fails; all errors of one kind are named.
    """
    hints = option_types(options)
    problems = refusals(who, [flag for flag, value in given.items() if flag not in hints and not _is_default(value)])
    for flag, hint in hints.items():
        problems += refusals(who, _of_another_group(flag, given.get(flag), hint))
        choices = _choices(hint)
        if choices and given.get(flag) is not None and given[flag] not in choices:
            problems.append(
                f"--{flag.replace('_', '-')} is {given[flag]!r}; for {who} it is one of {', '.join(choices)}"
            )
    if problems:
        raise SettingsError(problems)
    found = options(**{flag: value for flag, value in given.items() if flag in hints})
    for group in vars(found).values():
        if hasattr(group, "check"):
            group.check()
    return found


def option_types(options: type[Any]) -> dict[str, Any]:
    """Type hint of each field of a class of options."""
    hints = get_type_hints(options)
    return {each.name: hints[each.name] for each in fields(options)}


def refusals(who: str, flags: Sequence[str]) -> list[str]:
    """A line for each flag that a model does not have."""
    return [f"--{_spelt(flag)}: this is not for {who}; leave it out" for flag in flags]


def _spelt(flag: str) -> str:
    """As it is typed: groups and flags with dashes, settings within a group with underscores."""
    group, dot, name = flag.partition(".")
    return f"{group.replace('_', '-')}{dot}{name}"


def refuse(who: str, given: Mapping[str, Any]) -> None:
    """Refuse the flags in `given` that have a value; a group of settings at its defaults counts as no value.

    Raises:
        UnreadFlagsError: flags have values; all are named.
    """
    if flags := [flag for flag, value in given.items() if not _is_default(value)]:
        raise UnreadFlagsError(refusals(who, flags), flags)


def read_alone(
    plan: Callable[[Mapping[str, Any]], object], given: Mapping[str, Any], spare: Collection[str]
) -> dict[str, Any]:
    """The flags in `given` without those of `spare` that `plan` refuses, which are meant for other models.

    Raises:
        LinguarecError: `plan` refuses another flag, or the rest.
    """
    read = dict(given)
    try:
        plan(read)
    except UnreadFlagsError as error:
        if not set(error.flags) <= set(spare):
            raise
        read = {flag: value for flag, value in given.items() if flag not in error.flags}
        plan(read)
    return read


def _is_default(value: Any) -> bool:
    if not is_dataclass(value) or isinstance(value, type):
        return value is None
    needed = [each for each in fields(value) if each.default is MISSING and each.default_factory is MISSING]
    return not needed and value == type(value)()


def _of_another_group(flag: str, value: Any, hint: Any) -> list[str]:
    """The settings that were set in a group of another class than the family's group of that name."""
    kinds = [each for each in (get_args(hint) or (hint,)) if isinstance(each, type) and is_dataclass(each)]
    if not kinds or value is None or isinstance(value, tuple(kinds)):
        return []
    return [f"{flag}.{name}" for name in set_by_user(value)] or [flag]


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal or an optional Literal allows."""
    parts = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    return tuple(choice for part in parts if get_origin(part) is Literal for choice in get_args(part))
