"""The documentation is whole: its menu, its reference, and the form of every command and every block of code in it.

`tests/end_to_end/test_documented.py` runs the commands; here they are parsed by the parser of the command line.
"""

import ast
import dataclasses
import functools
import importlib
import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml
from documents import (
    NOT_RUN,
    OTHER_PROGRAMS,
    PAGES,
    ROOT,
    blocks_of,
    commands_of,
    parsed,
    prose_of,
    spans_of,
    text_of,
    words_of,
    written_out,
)

import linguarec
from linguarec.cli import COMMANDS, GROUPS
from linguarec.families import FAMILIES
from linguarec.parameters import models_of, parameters_of

LANGUAGES = {"", "bash", "python", "json", "ini", "yaml", "text", "toml", "sql"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
CONFIG = re.compile(r" --config \S+")  # the file of settings does not exist here


# --- pages and menu ---


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python objects."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def menu() -> set[str]:
    """All pages of the menu, as paths in the site."""
    found: set[str] = set()

    def walk(entries: Any) -> None:
        if isinstance(entries, str):
            found.add(entries)
        for entry in entries if isinstance(entries, list) else []:
            for content in entry.values() if isinstance(entry, dict) else [entry]:
                walk(content)

    walk(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"])
    return found


def test_every_page_is_in_the_menu() -> None:
    made = {"reference/commands/index.md"}  # stands in the menu with the pages of the commands
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - made
    assert pages - menu() == set(), "add these pages to `nav` in mkdocs.yml"


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    monkeypatch.syspath_prepend(ROOT / "scripts" / "docs_site")
    return importlib.import_module("hooks")


@pytest.mark.parametrize(
    ("page", "source", "written", "expected"),
    [
        ("index.md", "docs/index.md", "[b](../bench/README.md#recformer)", "[b](benchmarks.md#recformer)"),
        ("models/ease.md", "docs/models/ease.md", "[b](../../bench/README.md)", "[b](../benchmarks.md)"),
        ("benchmarks.md", "bench/README.md", "[s](../docs/serving.md#figures)", "[s](serving.md#figures)"),
        ("overview.md", "README.md", "![p](docs/images/page.png)", "![p](images/page.png)"),
        ("examples/index.md", "examples/README.md", "[o](own_family/README.md)", "[o](own-family.md)"),
        ("examples/own-family.md", "examples/own_family/README.md", "[m](model.py)", "[m](own-family.md#modelpy)"),
        ("data.md", "docs/data.md", "[u](using-a-run.md#filters)", "[u](using-a-run.md#filters)"),
        ("data.md", "docs/data.md", "[a](https://a.org/x.md) [here](#texts)", "[a](https://a.org/x.md) [here](#texts)"),
        ("data.md", "docs/data.md", "[gone](../configs/x.yaml)", "[gone](../configs/x.yaml)"),
        ("data.md", "docs/data.md", "```\n[b](../bench/README.md)\n```\n", "```\n[b](../bench/README.md)\n```\n"),
    ],
)  # fmt: skip
def test_links_between_files_become_links_between_pages(
    page: str, source: str, written: str, expected: str, hooks: Any
) -> None:
    assert hooks.site_links(written, page, source) == expected


# --- reference ---


@pytest.fixture
def command_pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.syspath_prepend(ROOT / "scripts" / "docs_site")
    pages: dict[str, str] = importlib.import_module("command_pages").command_pages()
    return pages


def test_every_command_has_a_page_with_all_its_flags(command_pages: dict[str, str]) -> None:
    assert len(command_pages) == len(COMMANDS)
    for name, command in COMMANDS.items():
        page = command_pages[f"reference/commands/{name.replace(' ', '-')}.md"]
        assert f"linguarec {name}" in page.splitlines()[3]
        function = getattr(importlib.import_module(command.module), command.function)
        for p in parameters_of(function, command, None):
            if p.name in command.given:
                continue
            rows = [f"{p.flag}.{field.name}" for field in dataclasses.fields(p.type)] if is_group(p.type) else [p.flag]
            for flag in rows:
                assert re.search(rf"^\|.*`{re.escape(flag)}`.* \|", page, re.M), f"{name}: {flag}"
        if command.model is not None:
            for model in models_of(command):
                assert f"`{model}`" in page


def is_group(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


@pytest.mark.parametrize("name", ["finetune", "pretrain"])
def test_the_flags_of_every_model_are_on_the_page(name: str, command_pages: dict[str, str]) -> None:
    command, page = COMMANDS[name], command_pages[f"reference/commands/{name}.md"]
    function = getattr(importlib.import_module(command.module), command.function)
    for model in models_of(command):
        section = page.split(f"\n### {model}\n")[1].split("\n### ")[0]
        shared = {p.key for p in parameters_of(function, command, None)}
        for p in parameters_of(function, command, FAMILIES[model]):
            if p.key in shared:
                continue
            if not is_group(p.type):
                assert f"| `{p.flag}` |" in section, f"{model}: {p.flag}"
                continue
            once = f"### {p.flag}.* {{#group-{p.key}}}"
            place = page.split(once)[1] if f"(#group-{p.key})" in section else section
            for field in dataclasses.fields(p.type):
                assert f"| `{p.flag}.{field.name}` |" in place, f"{model}: {p.flag}.{field.name}"


def test_tune_has_the_flags_of_finetune(command_pages: dict[str, str]) -> None:
    assert COMMANDS["tune"].options == COMMANDS["finetune"].options
    assert "(finetune.md#flags-of-the-models)" in command_pages["reference/commands/tune.md"]


def test_every_public_name_is_in_the_reference() -> None:
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference/python.md").read_text(encoding="utf-8"), re.M)
    assert {f"linguarec.{name}" for name in linguarec.__all__} - set(named) == set()
    for path in named:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is not None


# --- figures ---


FIGURE = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+\.\d+)(?![\d])")


@pytest.mark.parametrize("page", ["what-you-need", "which-model", "how-long"])
def test_figures_stand_in_their_source(page: str) -> None:
    """In tables with a column "source": measured figures are in the files that the row links to."""
    place = f"docs/questions/{page}.md"
    checked = 0
    for table in re.findall(r"^\|.*\| source \|\n(?:\|.*\n)+", text_of(place), re.M):
        head, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
        for row in rows:
            files = re.findall(r"\]\(([^)#]+)", row[-1])
            assert files, row
            text = "".join(((ROOT / place).parent / file).read_text(encoding="utf-8") for file in files)
            for name, cell in zip(head, row, strict=True):
                if re.search("measured|kept|excluded|time", name):
                    figures = FIGURE.findall(cell)
                    assert [figure for figure in figures if figure not in text] == [], row
                    checked += len(figures)
    assert checked >= 5


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/decisions.md"])
def test_files_of_the_repository_that_the_text_names_exist(page: str) -> None:
    """Not in the decisions, which tell of their time."""
    rooms = "|".join(path.name for path in (ROOT / "src" / "linguarec").iterdir() if path.is_dir())
    full = r"(?<![\w/.-])(?:src|tests|bench|scripts|examples|configs)/[\w/*-]+(?:\.\w+)?"
    short = rf"(?<![\w/.-])(?:{rooms})/[\w/]+\.py"
    for span in spans_of(page):
        for folder, pattern in ((ROOT, full), (ROOT / "src" / "linguarec", short)):
            for path in re.findall(pattern, span):
                assert list(folder.glob(path.rstrip("/"))), f"{page}: {path}"


# --- commands ---


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_of_bash(page: str) -> None:
    """Where they have colours, a button to copy them, and these tests."""
    assert re.findall(r"^ {4,}(?:linguarec|pip|python|bash|torchrun) .*$", prose_of(page), re.M) == []
    for language, code in blocks_of(page):
        assert language in LANGUAGES, f"{page}: {language}"
        if language in ("", "text"):
            assert re.findall(r"^linguarec .*$", code, re.M) == []


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_every_command_is_accepted_by_the_parser(page: str) -> None:
    for line in map(written_out, commands_of(page)):
        words = shlex.split(CONFIG.sub("", line))
        if "linguarec.cli" in words:  # behind torchrun or python -m
            words = ["linguarec", *words[words.index("linguarec.cli") + 1 :]]
        if words[0] == "linguarec":
            words = ["sasrec" if word == "MODEL" else word for word in words[1:]]
            assert parsed(words) is not None, line
        elif words[:2] == ["pip", "install"]:
            for extra in re.findall(r"linguarec\[(.*?)\]", line):
                assert set(extra.split(",")) <= set(EXTRAS), line
        elif words[0] in ("bash", "python"):
            assert (ROOT / words[1]).is_file(), line


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_name_commands_and_flags_that_exist(page: str) -> None:
    """`linguarec finetune MODEL ... --from RUN` in a sentence need not be a whole command, but its flags exist."""
    for span in spans_of(page):
        found = re.match(r"linguarec ([a-z][a-z-]*)(?: ([a-z][a-z0-9-]*)(?= |$))?", span)
        if found is None:
            continue
        first, second = found[1], found[2]
        if first in GROUPS:
            names = [name for name in COMMANDS if name in (f"{first} {second}", *([] if second else [name]))]
            names = [name for name in names if name.startswith(f"{first} ")]
        else:
            names = [first] if first in COMMANDS else []
        flags = set(re.findall(r"(?<=[ \[])--[a-z][\w.-]*\w", span))
        assert any(flags <= flags_of(name) for name in names), f"{page}: {span}"


@functools.cache
def flags_of(name: str) -> set[str]:
    """All flags of a command, those of all its models among them, and those of every command."""
    command = COMMANDS[name]
    function = getattr(importlib.import_module(command.module), command.function)
    found = {"--config", "--json", "--help", "--print-config"}
    for family in [None, *(FAMILIES[model] for model in (models_of(command) if command.model else []))]:
        for p in parameters_of(function, command, family):
            found |= (
                {f"{p.flag}.{field.name}" for field in dataclasses.fields(p.type)} if is_group(p.type) else {p.flag}
            )
    return found


def test_the_service_files_call_the_command_as_it_is() -> None:
    """ExecStart of a systemd unit and the command of a container."""
    found = 0
    for page in PAGES:
        for _, code in blocks_of(page, "ini"):
            for line in re.findall(r"^ExecStart=\S*(linguarec .*)$", code, re.M):
                assert parsed(words_of(re.sub(r"\$\{\w+\}", "/run", line))) is not None
                found += 1
        for _, code in blocks_of(page, "yaml"):
            for service in (yaml.safe_load(code).get("services") or {}).values():
                if "build" in service:
                    assert parsed(["serve", *service["command"]]) is not None
                    found += 1
    assert found >= 2


# --- Python ---


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "python")])
def test_python_blocks_compile_and_name_what_exists(page: str) -> None:
    for _, code in blocks_of(page, "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("linguarec"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "linguarec":
                assert node.attr in linguarec.__all__, f"{page}: linguarec.{node.attr}"


# --- the list of what is not run ---


def test_what_is_left_out_of_the_run_is_still_there() -> None:
    """A pattern that no command needs any more is taken out of the lists."""
    lines = [line for page in PAGES for line in commands_of(page)]
    for pattern, reason in (NOT_RUN | OTHER_PROGRAMS).items():
        assert reason
        assert any(re.fullmatch(pattern, line) for line in lines), pattern


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_every_program_is_run_or_left_out_with_its_reason(page: str) -> None:
    left_out = [*NOT_RUN, *OTHER_PROGRAMS]
    for line in commands_of(page):
        known = line.split()[0] in ("linguarec", "curl")
        assert known or any(re.fullmatch(pattern, line) for pattern in left_out), f"{page}: {line}"
