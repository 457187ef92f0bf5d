"""The pages of the command line, from the table of commands and the signatures of their functions."""

import dataclasses
import functools
import importlib
import posixpath
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from linguarec.arguments import SHORT, TRAINING_GROUP, _usage
from linguarec.cli import COMMANDS, GROUPS
from linguarec.families import FAMILIES
from linguarec.families.family import Family
from linguarec.parameters import MODEL_GROUP, Command, Parameter, _documented, models_of, parameters_of

FOLDER = "reference/commands/"
INDEX = f"{FOLDER}index.md"
EVERYWHERE = (
    ("`--config`", "YAML file with any of these settings", "path", ""),
    ("`--json`", "print the result as one JSON object, as the last line", "switch", ""),
    ("`--print-config`", "print all settings as YAML, for `--config`, and exit", "switch", ""),
)
HEAD = ("flag", "what", "value", "default")
WORDS = {str: "text", int: "whole number", float: "number", bool: "switch", Path: "path"}


@functools.cache
def command_pages() -> dict[str, str]:
    """Path of each page in the site -> its Markdown."""
    return {page_of(name): _page(name, command) for name, command in COMMANDS.items()}


def page_of(name: str) -> str:
    return f"{FOLDER}{name.replace(' ', '-')}.md"


def table_of_commands() -> str:
    """All commands with their one-line help, for the page before theirs."""
    rows = [
        (f"[`linguarec {name}`]({page_of(name).removeprefix(FOLDER)})", command.help)
        for name, command in COMMANDS.items()
    ]
    return _table(("command", "what it does"), rows)


def _page(name: str, command: Command) -> str:
    function = getattr(importlib.import_module(command.module), command.function)
    shared = [p for p in parameters_of(function, command, None) if p.name not in command.given]
    description = (function.__doc__ or "").split("Args:")[0]
    parts = [
        f"# {name}",
        f"```text\n{_usage(f'linguarec {name}', shared)}\n```",
        _prose("\n\n".join(" ".join(part.split()) for part in description.split("\n\n") if part.strip())),
    ]
    first, _, second = name.partition(" ")
    if second:
        parts.append(f"One of the sources of `linguarec {first}`: {GROUPS[first][0].lower()}{GROUPS[first][1:]}")
    if positional := [p for p in shared if p.positional]:
        parts += ["## Arguments", _table(("argument", *HEAD[1:]), map(_row, positional))]
    flags = [p for p in shared if not p.positional and not _is_group(p)]
    parts += ["## Flags", _table(HEAD, [*map(_row, flags), *EVERYWHERE])]
    parts += [_group(p) for p in shared if _is_group(p)]
    if command.model is not None:
        parts += ["## Flags of the models", *_of_models(name, command)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _of_models(name: str, command: Command) -> Iterator[str]:
    """The flags of each model; groups that several models have stand once, behind them."""
    same = next(other for other, each in COMMANDS.items() if each.model and each.options == command.options)
    models = models_of(command)
    yield f"`MODEL` is one of {', '.join(f'`{model}`' for model in models)}. A flag of one model is refused by the others."
    if same != name:
        yield f"Each model has the flags that it has in [{same}]({posixpath.basename(page_of(same))}#flags-of-the-models)."
        return
    own = {model: own_parameters(command, FAMILIES[model]) for model in models}
    groups = [p for each in own.values() for p in each if _is_group(p) and p.key != MODEL_GROUP]
    several = {p.key: p for p in groups if sum((p.key, p.type) == (each.key, each.type) for each in groups) > 1}
    for model in models:
        yield f"### {model}"
        yield from _of_family(FAMILIES[model], own[model], several)
    yield from map(_group, several.values())


def own_parameters(command: Command, family: Family) -> list[Parameter]:
    """The flags and groups that a command has with this family only."""
    function = getattr(importlib.import_module(command.module), command.function)
    shared = {p.key for p in parameters_of(function, command, None)}
    return [p for p in parameters_of(function, command, family) if p.key not in shared]


def _of_family(family: Family, own: Sequence[Parameter], several: Mapping[str, Parameter]) -> Iterator[str]:
    yield _sentence(family.summary)
    if family.training:
        values = ", ".join(f"`{name}` {_value(value)}" for name, value in family.training.items())
        yield f"Its own defaults of `--{TRAINING_GROUP}.*`: {values}."
    once = {p.key for p in own if _is_group(p) and p.key in several and several[p.key].type == p.type}
    rows = [row for p in own if p.key not in once for row in (_group_rows(p) if _is_group(p) else [_row(p)])]
    if rows:
        yield _table(HEAD, rows)
    if links := [f"[`--{p.key}.*`](#{_anchor(p)})" for p in own if p.key in once]:
        yield f"And the settings of {', '.join(links)}."
    if not rows and not links:
        yield "It has no flags of its own."


def _is_group(p: Parameter) -> bool:
    return dataclasses.is_dataclass(p.type)


def _group(p: Parameter) -> str:
    """A section for a group of flags."""
    return f"### {p.flag}.* {{#{_anchor(p)}}}\n\n{_sentence(p.help)}\n\n{_table(HEAD, _group_rows(p))}"


def _anchor(p: Parameter) -> str:
    return f"group-{p.key}"


def _row(p: Parameter) -> tuple[str, ...]:
    flags = [SHORT[p.key], p.flag] if p.key in SHORT else [p.flag]
    if p.type is bool and p.default:
        flags.append(f"--no-{p.flag.removeprefix('--')}")
    default = "required" if p.required else _value(p.default)
    kind = _type(p.type) + (", several" if p.many else "")
    return ", ".join(f"`{flag}`" for flag in flags), _prose(p.help), kind, default


def _group_rows(p: Parameter) -> list[tuple[str, ...]]:
    """A row for each setting of a group of flags."""
    hints, helps = typing.get_type_hints(p.type), _documented(p.type)
    rows = []
    for field in dataclasses.fields(p.type):
        default = field.default
        if default is dataclasses.MISSING:
            default = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        kind = _type(hints[field.name])
        rows.append((f"`{p.flag}.{field.name}`", _prose(helps.get(field.name, "").rstrip(".")), kind, _value(default)))
    return rows


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple):
        return f"{_type(typing.get_args(hint)[0])}, several"
    if parts := [part for part in typing.get_args(hint) if part is not type(None)]:
        return " or ".join(dict.fromkeys(map(_type, parts)))
    return WORDS.get(hint, "text")


def _value(value: Any) -> str:
    if value is None or value is False or value in ([], ()):
        return ""
    if value is True:
        return "on"
    if isinstance(value, list | tuple):
        return f"`{' '.join(map(str, value))}`"
    return f"`{value}`"


def _prose(text: str) -> str:
    """A docstring's text in Markdown: flags as code, nothing taken for markup."""
    text = re.sub(r"[<*_|]", lambda found: f"\\{found[0]}" if found[0] != "<" else "&lt;", text)
    return re.sub(r"(?<![\w`-])--?[a-z][\w\\.-]*(?<![.\\-])", lambda found: f"`{found[0]}`".replace("\\", ""), text)


def _sentence(text: str) -> str:
    text = _prose(text.strip())
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
