"""Builds a command line from a function's signature and docstring, with jsonargparse.

Flags are the parameters' names with dashes (`--text-rules`); `-o` is `--output`. The trailing underscore of a name that would
be a Python keyword is dropped (`from_` is `--from`). A list takes several values, or one with commas (`--history A,B`; an id
that holds a comma is quoted as in CSV). A dataclass is a group of flags (`--training.learning_rate 0.001`).
`--config run.yaml` reads any of them from a file; later arguments on the command line override earlier ones. All bad settings
are reported at once. A group records which of its settings the user set (`linguarec.given`).
"""

import dataclasses
import difflib
import inspect
import math
import re
import sys
import typing
from argparse import SUPPRESS, Action, ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.comma_lists import split_by_commas
from linguarec.config_files import read_config
from linguarec.errors import SettingsError, quoted
from linguarec.given import note_given
from linguarec.parameters import Command, Parameter, models_of, named_family, of_other_families, parameters_of
from linguarec.portable import FLAG_PATHS, located
from linguarec.screen import visible

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


# What jsonargparse and its YAML reader raise for values that they cannot read.
_UNREADABLE = (
    ArgumentError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError, OSError,
)  # fmt: skip
_LARGEST = (1 << 63) - 1
SHORT = {"output": "-o"}
TRAINING_GROUP = "training"


@dataclass(frozen=True)
class Call:
    """Arguments for the function, and whether the result is to be printed as JSON."""

    arguments: dict[str, Any]
    json: bool


def parse(function: Callable[..., Any], words: Sequence[str], program: str, command: Command) -> Call | None:
    """Parse `words` as arguments of `function`, beside those that the command fixes; None = help was requested and shown.

    Raises:
        SettingsError: some arguments are unknown, missing or have bad values; all of them are named.
    """
    _check_words(words)
    words = [_spelling(word) for word in words]
    models = [] if command.model is None else models_of(command)
    family = named_family(words, command, models)
    parameters = [p for p in parameters_of(function, command, family) if p.name not in command.given]
    parser = _build(function, program, parameters, models if family is None else [])
    if family is not None:
        own = {f"{TRAINING_GROUP}.{name}": value for name, value in family.training.items()}
        parser.set_defaults(own if TRAINING_GROUP in (p.key for p in parameters) else {})
        program = f"{program} {words[0]}"
    if "-h" in words or "--help" in words:
        parser.print_help(sys.stdout)
        return None
    words = _lists_of_groups(_without_commas(words, parameters), parameters)
    refused = of_other_families(command, family)
    if command.goes_on:
        refused["--resume"] = "unknown option --resume; repeat the command without it to go on."
    problems = _unknown(parser, words, refused) + _config_problems(words, parameters)
    namespace: Namespace | None = None
    if not problems:
        try:
            namespace = parser.parse_args(words)
        except _UNREADABLE as error:
            taken = [p for p in parameters if p.positional and (family is None or p.name != command.model)]
            problems = _bad_values(parser, words, parameters) or _surplus(str(error), taken, program)
            problems = problems or [_plain(str(error), parameters)]
    if namespace is None:
        raise SettingsError([*problems, f"`{program} --help` shows all arguments."])
    missing = [p for p in parameters if p.required and namespace.get(p.key) in (None, [])]
    if missing:
        problems = [f"{p.flag} is missing: {p.help}" for p in missing]
        raise SettingsError([*problems, f"`{program} --help` shows all arguments."])
    try:
        values = parser.instantiate(namespace)
    except (ValueError, TypeError, OverflowError) as error:  # settings that are each valid but conflict
        raise SettingsError([_plain(str(error), parameters), f"`{program} --help` shows all arguments."]) from error
    arguments = {p.name: _value(p, values.get(p.key)) for p in parameters} | _beside_config(parameters, values)
    if problems := [line for p in parameters for line in _impossible_numbers(p.flag, arguments[p.name])]:
        raise SettingsError([*problems, f"`{program} --help` shows all arguments."])
    groups = [p for p in parameters if dataclasses.is_dataclass(p.type) and arguments[p.name] is not None]
    asked: Any = parser.parse_args(words, defaults=False) if groups else {}
    for p in groups:
        note_given(arguments[p.name], (asked.get(p.key) or {}).keys())
    return Call({**command.given, **arguments}, json=bool(values.get("json")))


def _beside_config(parameters: list[Parameter], values: "Namespace") -> dict[str, Any]:
    """Arguments that a `run.yaml` gives as a path relative to its own folder, by name, as absolute paths."""
    found = {}
    for file in (Path(str(config.absolute)) for config in values.get("config") or [] if config is not None):
        content = read_config(file)
        for p in parameters:
            value = content.get(p.key) if p.key in FLAG_PATHS else None
            now = values.get(p.key)
            if p.many is not None and isinstance(value, list):
                if [str(each) for each in now or []] == value:  # no later argument overrides it
                    found[p.name] = p.many(type(each)(located(str(each), file.parent)) for each in now)
            elif isinstance(value, str) and located(value, file.parent) != value and now in (value, Path(value)):
                found[p.name] = type(now)(located(value, file.parent))
    return found


def _spelling(word: str) -> str:
    """Flags may be written with dashes or underscores: `--text_rules`, `--training.learning-rate`."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word[2:].partition("=")
    if flag == "print-config":
        flag = "print_config"
    elif flag != "print_config":
        flag = flag.replace("-", "_") if "." in flag else flag.replace("_", "-")
    return f"--{flag}{equals}{value}"


def _without_commas(words: Sequence[str], parameters: Sequence[Parameter]) -> list[str]:
    """`--shares 5,20` as `--shares 5 20`, for lists of numbers and of choices; lists of strings are split after parsing."""
    flags = {p.flag for p in parameters if p.many and p.type not in (str, Path) and not p.positional}
    found: list[str] = []
    in_list = False
    for word in words:
        if not _is_flag(word):
            found += filter(None, word.split(",")) if in_list else [word]
            continue
        flag, _, value = word.partition("=")
        in_list = flag in flags
        found += [flag, *filter(None, value.split(","))] if in_list else [word]
    return found


def _lists_of_groups(words: Sequence[str], parameters: Sequence[Parameter]) -> list[str]:
    """Rewrites `--training.loggers a,b` and `--training.loggers a b` as `[a,b]`, as the parser takes a list in a group."""
    flags = {
        f"--{p.key}.{field.name}"
        for p in parameters
        if dataclasses.is_dataclass(p.type)
        for field in dataclasses.fields(p.type)
        if field.default_factory is list
    }
    found: list[str] = []
    opened = False  # a list that continues with the next word
    for word in words:
        flag, equals, value = word.partition("=")
        if opened and not _is_flag(word):
            found[-1] = f"{found[-1][:-1]},{word}]"
        elif found and found[-1] in flags and not _is_flag(word) and not word.startswith("["):
            found[-1], opened = f"{found[-1]}=[{word}]", True
        else:
            bare = equals and flag in flags and not value.startswith("[")
            found.append(f"{flag}=[{value}]" if bare else word)
            opened = False
    return found


def _is_flag(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def _build(
    function: Callable[..., Any], program: str, parameters: list[Parameter], models: Sequence[str]
) -> "ArgumentParser":
    import jsonargparse

    class Formatter(RawDescriptionHelpFormatter, jsonargparse.DefaultHelpFormatter):
        """Keeps the paragraphs of the docstring, shows only informative defaults, and hides Python types."""

        def _get_help_string(self, action: Action) -> str:
            text = action.help or ""
            if action.dest == "print_config":
                return "Print all settings as YAML, for --config, and exit."
            if action.default in (None, SUPPRESS, []) or action.default is False or "(default: " in text:
                return text
            default = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
            return f"{text} (default: {default})".replace("%", "%%").strip()

    description = (inspect.getdoc(function) or "").split("\nArgs:")[0].strip()
    if models:
        from linguarec.families import FAMILIES

        example = f"{program} {models[0]} --help"
        listed = ", ".join(name for name in models if FAMILIES[name].trained)
        description += f"\n\nModels: {listed}. `{example}` adds the flags of that model's settings."
    parser = jsonargparse.ArgumentParser(
        prog=program,
        description=description,
        usage=_usage(program, parameters),
        formatter_class=Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    for p in parameters:
        _add(parser, p)
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_argument("--json", action="store_true", help="Print the result as one JSON object, as the last line.")
    return parser


def _usage(program: str, parameters: list[Parameter]) -> str:
    parts = []
    for p in parameters:
        shown = p.flag + ("..." if p.many else "") if p.positional else f"{SHORT.get(p.key, p.flag)} {p.key.upper()}"
        if p.required:
            parts.append(shown)
        elif p.positional:
            parts.append(f"[{shown}]")
    return " ".join([program, *parts, "[options]"])


def _add(parser: "ArgumentParser", p: Parameter) -> None:
    from jsonargparse import ActionYesNo

    text = f"{p.help} (required)" if p.required and not p.positional else p.help
    if dataclasses.is_dataclass(p.type):
        parser.add_class_arguments(typing.cast(type, p.type), p.key)
        return
    if p.positional:
        parser.add_argument(
            p.key, type=p.type, nargs="*" if p.many else "?", metavar=p.flag, default=p.default, help=text
        )
        return
    names = [SHORT[p.key], p.flag] if p.key in SHORT else [p.flag]
    if p.type is bool:
        if p.default:
            parser.add_argument(*names, action=ActionYesNo(no_prefix="no-"), default=True, help=text)
        else:
            parser.add_argument(*names, action="store_true", default=False, help=text)
    elif p.many:
        default = None if p.default is None else list(p.default)
        parser.add_argument(*names, type=p.type, nargs="+", metavar=p.key.upper(), default=default, help=text)
    elif typing.get_origin(p.type) is typing.Literal:
        parser.add_argument(*names, type=p.type, default=p.default, help=text)
    else:
        parser.add_argument(*names, type=p.type, metavar=p.key.upper(), default=p.default, help=text)


def _value(p: Parameter, value: Any) -> Any:
    if p.many is None or value is None:
        return value
    if p.type is str and not p.positional:
        try:
            value = [part for word in value for part in split_by_commas(word)]
        except ValueError as error:
            raise SettingsError([f"{p.flag}: {error}"]) from error
    return p.many(value)


def _impossible_numbers(flag: str, value: Any) -> list[str]:
    """A line for each number of a flag, a list or a group that no computation here can take."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return [line for name, part in own.items() for line in _impossible_numbers(f"{flag}.{name}", part)]
    if isinstance(value, list | tuple):
        return [line for part in value for line in _impossible_numbers(flag, part)]
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        return [f"{flag} is {value}; it must be below 2^63."]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{flag} is {value}; it must be a finite number."]
    return []


def _check_words(words: Sequence[str]) -> None:
    """Refuse words that no file can hold.

    Raises:
        SettingsError: a word is not UTF-8, or holds a zero byte.
    """
    bad = [visible(word) for word in words if "\0" in word or not _is_text(word)]
    if bad:
        raise SettingsError(
            [f"{word} holds bytes that are not UTF-8 text, or a zero byte; expected text" for word in bad]
        )


def _is_text(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _config_problems(words: Sequence[str], parameters: Sequence[Parameter]) -> list[str]:
    """The lines of an error about the files of `--config`, which are read strictly before the parser reads them again."""
    problems: list[str] = []
    groups = [p.key for p in parameters if dataclasses.is_dataclass(p.type)]
    for flag, *values in _occurrences(words):
        name, equals, value = flag.partition("=")
        if name == "--config":
            try:
                for file in [value] if equals else values[:1]:
                    found = read_config(Path(file))
                    problems += [
                        f"--config {file}: {key} is {quoted(found[key])}, expected settings: `{key}: {{name: value}}`."
                        for key in groups
                        if found.get(key) is not None and not isinstance(found[key], dict)
                    ]
            except SettingsError as error:
                problems += error.problems
    return problems


def _occurrences(words: Sequence[str]) -> list[list[str]]:
    """The flags among `words`, each with the values that follow it."""
    found: list[list[str]] = []
    for word in words:
        if _is_flag(word):
            found.append([word])
        elif found:
            found[-1].append(word)
    return found


def _unknown(parser: "ArgumentParser", words: Sequence[str], refused: Mapping[str, str]) -> list[str]:
    """One line for each unknown flag: that of `refused`, such as that it is for other models, or the most similar flag."""
    known = [name for action in parser._actions for name in action.option_strings]
    # By name, and by name in its group: `--epochs` is similar to `max_epochs`, hardly to `--training.max_epochs`. Dashes in
    # front do not count; they are alike in all flags.
    names = {_bare(flag).rpartition(".")[2]: flag for flag in reversed(known)} | {_bare(flag): flag for flag in known}
    problems = []
    for flag, *_ in _occurrences(words):
        name = flag.partition("=")[0]
        if name in known or (name[1] != "-" and name[:2] in known):
            continue
        if name in refused:
            problems.append(refused[name])
            continue
        near = difflib.get_close_matches(_bare(name), names, n=1, cutoff=0.7)
        problems.append(f"unknown option {name}" + (f"; did you mean {names[near[0]]}?" if near else "."))
    return list(dict.fromkeys(problems))


def _bare(flag: str) -> str:
    return flag.lstrip("-").replace("_", "-")


def _bad_values(parser: "ArgumentParser", words: Sequence[str], parameters: list[Parameter]) -> list[str]:
    """Parse each flag alone, so that every bad value is named, not only the first."""
    problems = []
    for occurrence in _occurrences(words):
        try:
            parser.parse_args(occurrence)
        except _UNREADABLE as error:
            in_file = occurrence[0].startswith("--config")
            strange = in_file and "is not accepted" in str(error)
            of_file = " (--config is a YAML file of this command's own flags)" if strange else ""
            problems.append(
                f"{' '.join(map(_cut, occurrence))}: {_plain(str(error), parameters if in_file else [])}{of_file}"
            )
    return problems


def _surplus(message: str, taken: Sequence[Parameter], program: str) -> list[str]:
    """A line about the words beyond the positional arguments that `program` takes, if the parser's `message` is about such."""
    found = re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if found is None:
        return []
    several = next((p.flag for p in taken if p.many), None)
    named = " ".join(p.flag for p in taken)
    if several is not None:  # the parser takes only those that stand together
        mend = f"write all of {several} together, before the options"
    elif len(taken) == 1:
        mend = f"`{program}` takes one argument beside its options, {named}; run it once for each"
    else:
        mend = f"`{program}` takes {f'{len(taken)} arguments' if taken else 'none'} beside its options"
        mend += f", {named}" if taken else ""
    return [f"too many arguments: {_cut_message(found[1])}; {mend}."]


def _cut(word: str) -> str:
    return word if len(word) <= 200 else f"{word[:200]}... ({len(word):,} characters)"


def _plain(message: str, parameters: list[Parameter]) -> str:
    """jsonargparse's message in one line, without Python's spelling of types; `parameters` turn its keys into flags."""
    flags = {p.key: p.flag for p in parameters}
    message = message.replace("<class 'NoneType'>", "null")
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
    message = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", r"one of \1", message)
    message = re.sub(r"Expected an? (.*?)\. Got value: (.*)", r"expected \1, got \2", message)
    union = re.search(r"Subtypes: [\[(](.*)[\])].*Given value: (.*)", message, re.DOTALL)
    key = re.match(r'Parser key "([^"]+)"', message)
    if union is not None:
        message = f"expected {' or '.join(union[1].split(', '))}, got {union[2]}"
    message = re.sub(r'Parser key "([^"]+)"( element \d+)?:', "", message)
    if key is not None and parameters:
        message = f"{flags.get(key[1], '--' + key[1])}: {message}"
    return _cut_message(" ".join(message.split()))


def _cut_message(message: str) -> str:
    return message if len(message) <= 1_000 else f"{message[:1_000]}..."
