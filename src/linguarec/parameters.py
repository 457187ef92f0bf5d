"""The parameters of a command: those of its function's signature, and the flags that model families declare.

A command's `**options` stand for flags that model families declare as fields of a dataclass (`linguarec.families.flags`).
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError

if TYPE_CHECKING:
    from linguarec.families.family import Family

MODEL_GROUP = "model"


@dataclass(frozen=True)
class Command:
    """Where the function is, its one-line help, which of its parameters are positional, and which one names a model.

    `given`: parameters whose values follow from the command's name. `model`: the parameter that selects the model family; the
    function's `config` parameter then has that family's config class, and its flags are written `--model.<field>`. `options`:
    which flags `**options` stands for: those that model families declare for fine-tuning or pre-training, or the names of
    what they read from a folder; the flags of the selected family, else of all families. `shared`: whether processes that
    torchrun starts share its work. `goes_on`: whether it goes on after an interrupt when it is repeated, without a flag.
    """

    module: str
    function: str
    help: str
    positional: tuple[str, ...] = ()
    model: str | None = None
    options: Literal["finetuning", "pretraining", "reading"] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    goes_on: bool = False


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function on the command line.

    `key` is its name in the parser and in YAML files, `type` its type without `None`; `many`: tuple or list if it takes
    several values of `type`.
    """

    name: str
    key: str
    type: Any
    help: str
    default: Any
    required: bool
    positional: bool
    many: type | None

    @property
    def flag(self) -> str:
        """The flag as the user types it."""
        if self.positional:
            return self.name.upper().replace("_", "-")
        return f"-{self.key}" if len(self.key) == 1 else f"--{self.key.replace('_', '-')}"


def models_of(command: Command) -> list[str]:
    """Names of the families that the command takes: those that offer its training."""
    from linguarec.families import FAMILIES

    return [name for name, family in FAMILIES.items() if getattr(family, command.options or "finetuning") is not None]


def named_family(words: Sequence[str], command: Command, models: Sequence[str]) -> "Family | None":
    """The family named on the command line, found before the parser is built, because the parser needs its config class."""
    if command.model is None or command.positional[0] != command.model or not words or words[0].startswith("-"):
        return None
    from linguarec.families import FAMILIES

    if words[0] not in models:
        from linguarec.families.opening import unknown_model

        raise SettingsError([unknown_model(words[0], models)])
    return FAMILIES[words[0]]


def parameters_of(function: Callable[..., Any], command: Command, family: "Family | None") -> list[Parameter]:
    helps, hints = _documented(function), hints_of(function)
    positional = command.positional
    found = []
    for name, declared in inspect.signature(function).parameters.items():
        if declared.kind is inspect.Parameter.VAR_KEYWORD:
            found += _option_parameters(command, family)
            continue
        key, hint = name.removesuffix("_"), _flag_type(hints[name])
        if command.model is not None and name == command.model:
            key = f"{name}_name"  # `model` in YAML and in flags is the group of the model's settings
        elif command.model is not None and name == "config":
            if family is None:
                continue
            key, hint = MODEL_GROUP, family.config
        hint, many = _one_of(hint)
        required = declared.default is inspect.Parameter.empty
        found.append(
            Parameter(
                name=name,
                key=key,
                type=hint,
                help=helps.get(name, ""),
                default=None if required else declared.default,
                required=required,
                positional=name in positional,
                many=many,
            )
        )
    return sorted(found, key=lambda p: positional.index(p.name) if p.positional else len(positional))


def _option_parameters(command: Command, family: "Family | None") -> list[Parameter]:
    """The flags that `**options` stands for: those of the named family, or of all families if the command names none."""
    from linguarec.families import FAMILIES

    if command.model is not None and family is None:
        return []
    families = FAMILIES.values() if family is None else [family]
    types: dict[str, list[Any]] = {}
    helps: dict[str, dict[str, list[str]]] = {}  # flag -> help -> families
    for each in families:
        for flag, (hint, text) in _declared_options(command, each).items():
            types.setdefault(flag, []).append(_without_none(hint))
            helps.setdefault(flag, {}).setdefault(text, []).append(each.name)
    return [
        Parameter(
            name=flag,
            key=flag,
            type=_one_of(_merged(types[flag]))[0],
            help=next(iter(of_flag))
            if len(of_flag := helps[flag]) == 1
            else "; ".join(f"{', '.join(names)}: {text}" for text, names in of_flag.items()),
            default=None,
            required=False,
            positional=False,
            many=_one_of(_merged(types[flag]))[1],
        )
        for flag in types
    ]


def _declared_options(command: Command, family: "Family") -> dict[str, tuple[Any, str]]:
    """Type and help of each option of a family."""
    from linguarec.families.flags import option_types

    if command.options == "reading":
        return {flag: (str, text) for flag, text in family.source.flags.items()}
    task = family.pretraining if command.options == "pretraining" else family.finetuning
    if task is None:
        return {}
    helps = _documented(task.options)
    return {flag: (hint, helps.get(flag, "")) for flag, hint in option_types(task.options).items()}


def of_other_families(command: Command, family: "Family | None") -> dict[str, str]:
    """Flags, with dashes, that only other families declare -> the line that refuses them for this one."""
    if family is None or command.options is None:
        return {}
    from linguarec.families import FAMILIES
    from linguarec.families.flags import refusals

    own = set(_names_of(_declared_options(command, family)))
    others = {name for each in FAMILIES.values() for name in _names_of(_declared_options(command, each))} - own
    return {line.partition(":")[0]: line for name in others for line in refusals(family.name, [name])}


def _names_of(options: Mapping[str, tuple[Any, str]]) -> list[str]:
    """Names of options, and of the settings in those that are groups."""
    names = list(options)
    for flag, (hint, _) in options.items():
        kind = _without_none(hint)
        if dataclasses.is_dataclass(kind):
            names += [f"{flag}.{each.name}" for each in dataclasses.fields(kind)]
    return names


def _one_of(hint: Any) -> tuple[Any, type | None]:
    """The type of one value of a parameter, and tuple or list if it takes several of them."""
    origin = typing.get_origin(hint)
    many = tuple if origin is tuple else list if origin in (list, Sequence) else None
    return (_flag_type(typing.get_args(hint)[0]) if many else hint), many


def _merged(hints: Sequence[Any]) -> Any:
    """One type for a flag that several families declare: the union of their choices."""
    choices = [
        choice for hint in hints if typing.get_origin(hint) is typing.Literal for choice in typing.get_args(hint)
    ]
    return typing.Literal[tuple(dict.fromkeys(choices))] if choices else hints[0]


def _documented(described: Any) -> dict[str, str]:
    """The descriptions under `Args:` of a docstring, by name."""
    import docstring_parser

    found = docstring_parser.parse(inspect.getdoc(described) or "")
    return {p.arg_name: " ".join((p.description or "").split()) for p in found.params}


@functools.cache
def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of the function; those that its module imports only under TYPE_CHECKING are imported now.

    Other names of such imports are left alone: their modules may need an extra that is not installed.
    """
    module = inspect.getmodule(function)
    needed = set(re.findall(r"\w+", " ".join(map(str, inspect.get_annotations(function).values()))))
    names: dict[str, Any] = {}
    if module is not None:
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                for line in node.body:
                    if isinstance(line, ast.ImportFrom) and line.module is not None:
                        aliases = {alias.asname or alias.name: alias.name for alias in line.names}
                        for shown in needed & aliases.keys():
                            names[shown] = getattr(importlib.import_module(line.module), aliases[shown])
    return typing.get_type_hints(function, localns=names)


def _flag_type(hint: Any) -> Any:
    """The type of a value on the command line, without None: a path where from Python it may be its string, or a table."""
    return Path if _is_union(hint) and Path in typing.get_args(hint) else _without_none(hint)


def _without_none(hint: Any) -> Any:
    if _is_union(hint):
        kept = [part for part in typing.get_args(hint) if part is not type(None)]
        return functools.reduce(lambda left, right: left | right, kept)
    return hint


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)
