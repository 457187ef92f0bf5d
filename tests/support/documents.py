"""The commands and the code in the pages of the documentation."""

import re
import shlex
from pathlib import Path

from linguarec.arguments import Call, parse
from linguarec.cli import COMMANDS, GROUPS

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.S | re.M)


# Commands of linguarec that are parsed only: pattern -> reason.
NOT_RUN = {
    r"linguarec import-codes .*": "needs the published index: tests/commands/test_quantize.py makes one",
    r"linguarec prepare .* --engine spark .*": "needs Java and Spark: tests/data has one",
    r"linguarec demo( --serve)?": "trains three models: tests/end_to_end/test_demo.py runs it",
}
# Other programs: pattern -> what stands for running them.
OTHER_PROGRAMS = {
    r"bash scripts/(demo|test|docs)\.sh( serve)?": "run by CI and tests/end_to_end/test_demo.py; the file exists",
    r"source \.venv/bin/activate": "the environment that scripts/demo.sh makes",
    r"pip install 'linguarec\[\w+\]'": "needs an index of packages; the extra exists",
    r"torchrun .*": "starts processes: parsed here, run by the tests of the commands",
    r"hf auth login": "needs an account at a hub",
    r"python bench/\w+\.py .*": "takes minutes on real data; the file exists",
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, *languages: str) -> list[tuple[str, str]]:
    """The fenced blocks of these languages (of all, without), as language and code."""
    found = [(language, code) for _, language, code in FENCE.findall(text_of(page))]
    return [(language, code) for language, code in found if not languages or language in languages]


def lines_of(block: str) -> list[str]:
    """The commands of a block of bash: continued lines joined, comments left out."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    lines = [re.sub(r"(^|\s+)#.*$", "", line).strip() for line in lines]
    return [line for line in lines if line]


def commands_of(page: str) -> list[str]:
    """The lines of all blocks of bash."""
    return [line for _, block in blocks_of(page, "bash") for line in lines_of(block)]


def prose_of(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def spans_of(page: str) -> list[str]:
    """What stands between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose_of(page))


def written_out(line: str) -> str:
    """A command without its marks of grammar: optional parts are there, of alternatives the first, `...` is left out."""
    line = re.sub(r"\[((?:-|[A-Z])[^\]]*)\]", r"\1", line)
    line = re.sub(r"(?<=[\w-])(\|[\w-]+)+", "", line)
    return re.sub(r"(?<=\w)\.\.\.|(?<=\s)\.\.\.(?=\s|$)", "", line)


def parsed(words: list[str]) -> Call | None:
    """The words after `linguarec`, parsed by the parser of the command line up to the types of the values.

    Raises:
        SettingsError: a flag is unknown, an argument is missing, or a value has a wrong type.
    """
    size = 2 if words[0] in GROUPS else 1
    name = " ".join(words[:size])
    command = COMMANDS[name]
    module = __import__(command.module, fromlist=[command.function])
    return parse(getattr(module, command.function), words[size:], f"linguarec {name}", command)


def words_of(line: str) -> list[str]:
    """The words after `linguarec` of a command."""
    words = shlex.split(line)
    assert words[0] == "linguarec", line
    return words[1:]
