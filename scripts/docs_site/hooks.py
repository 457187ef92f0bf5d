"""What the site takes from outside docs/, for MkDocs.

Pages that live elsewhere in the repository (the benchmarks, the examples) and the pages of the command line are made when the
site is built, so no text is copied by hand. Links between files of the repository, as they work on a code host, become links
between the pages; one that leads to no page is left as it is, and `mkdocs build --strict` then refuses it.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command_pages import INDEX, command_pages, table_of_commands
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_pages import notebook_page

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = "reference/commands/"  # in the nav: all pages of the command line


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def with_sources(path: str) -> str:
    """A README, followed by the Python files that stand beside it."""
    parts = [text_of(path)]
    for file in sorted((ROOT / path).parent.glob("*.py")):
        parts.append(f"## {file.name}\n\n```python\n{file.read_text(encoding='utf-8')}```\n")
    return "\n\n".join(parts)


# Page of the site -> file of the repository, and what makes the page of it.
OUTSIDE: dict[str, tuple[str, Callable[[str], str]]] = {
    "overview.md": ("README.md", text_of),
    "benchmarks.md": ("bench/README.md", text_of),
    "contributing.md": ("CONTRIBUTING.md", text_of),
    "changelog.md": ("CHANGELOG.md", text_of),
    "examples/index.md": ("examples/README.md", text_of),
    "examples/new-items.md": ("examples/new-items.ipynb", lambda path: notebook_page(ROOT / path)),
    "examples/own-family.md": ("examples/own_family/README.md", with_sources),
}
PAGE_OF = {source: page for page, (source, _) in OUTSIDE.items()}
# Links to a file whose text stands on another file's page, and links to a folder.
PAGE_OF |= {f"examples/own_family/{name}.py": f"examples/own-family.md#{name}py" for name in ("model", "method", "run")}
PAGE_OF |= {"examples": "examples/index.md", "examples/own_family": "examples/own-family.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the commands into the nav."""
    assert config.nav is not None
    _fill(config.nav, [INDEX, *command_pages()])
    return config


def _fill(entries: list[Any], pages: list[str]) -> None:
    for entry in entries:
        for title, content in entry.items() if isinstance(entry, dict) else ():
            if content == COMMANDS:
                entry[title] = pages
            elif isinstance(content, list):
                _fill(content, pages)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for page, (source, make) in OUTSIDE.items():
        files.append(File.generated(config, page, content=make(source)))
    for page, text in command_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    here = page.file.src_uri
    if here == INDEX:
        return markdown.replace("<!-- commands -->", table_of_commands())
    if here in command_pages():
        return markdown
    markdown = re.sub(r"(\d\.\d{4}) / (\d\.\d{4})", "\\1\u00a0/\u00a0\\2", markdown)  # recall / ndcg stay in one line
    markdown = re.sub(r"^\d+\. .*\n(?:(?: {3,}.*)?\n)*", _four_spaces, markdown, flags=re.M)
    source = OUTSIDE[here][0] if here in OUTSIDE else f"docs/{here}"
    return site_links(markdown, here, source)


def _four_spaces(item: re.Match[str]) -> str:
    """A numbered item whose paragraphs and code are indented by three spaces, as on code hosts, indented by four."""
    text = re.sub(r"^ {3}(?=.)", "    ", item[0], flags=re.M)
    return f"{text}\n" if "\n\n" in text.rstrip() else text


def on_post_build(config: MkDocsConfig) -> None:
    """Nothing may be loaded from elsewhere when the site is read."""
    foreign = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"?https?:[^>]*>|<link[^>]+stylesheet[^>]+href=\"?https?:[^>]*>"
    )
    for file in Path(config.site_dir).rglob("*.html"):
        if found := foreign.search(file.read_text(encoding="utf-8")):
            raise PluginError(f"{file.relative_to(config.site_dir)} loads something from elsewhere: {found[0]}")


def site_links(markdown: str, page: str, source: str) -> str:
    """The text of `source`, a file of the repository, with links as of `page`, a page of the site; fenced code stays."""
    folder = posixpath.dirname(source)

    def replace(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        found = posixpath.normpath(posixpath.join(folder, target))
        found = PAGE_OF.get(found, found.removeprefix("docs/") if found.startswith("docs/") else "")
        if not found:
            return link[0]
        file, _, own = found.partition("#")
        return f"]({posixpath.relpath(file, posixpath.dirname(page) or '.')}{anchor or (own and '#' + own)})"

    parts = re.split(r"(^ *```.*?^ *```)", markdown, flags=re.S | re.M)
    return "".join(
        part if part.lstrip().startswith("```") else re.sub(r"\]\(((?![a-z]+:)[^)#\s]+)(#[^)\s]*)?\)", replace, part)
        for part in parts
    )
