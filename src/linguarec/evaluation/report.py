"""A report as one self-contained HTML file: text, tables, and embedded plots."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linguarec.files import writing_file

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2430; background: #fff; }
body { max-width: 80rem; margin: 2.5rem auto; padding: 0 1.25rem; }
p, figure { max-width: 60rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; border-bottom: 1px solid #dfe4ea; padding-bottom: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e8ecf0; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #b9c2cc; }
tr.strong td { font-weight: 650; background: #f2f7fb; }
figure { margin: 1.25rem 0; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: #55606e; font-size: .875rem; }
pre { background: #f5f7f9; padding: .8rem 1rem; overflow-x: auto; border-radius: 4px; font-size: .875rem; }
"""


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column is aligned left, the others right. `strong`: indices of rows in bold."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} cells, the table has {len(self.columns)} columns: {row}")


@dataclass(frozen=True)
class Figure:
    """A PNG file and its caption, which is also the alternative text."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """One part of a report; the parts that are set are shown in this order: text, table, note, figures, commands."""

    title: str
    text: str = ""
    table: Table | None = None
    note: str = ""
    figures: Sequence[Figure] = ()
    commands: Sequence[str] = ()


def write_report(path: Path, title: str, sections: Sequence[Section], summary: str = "") -> None:
    """Write `sections` under `title` as one HTML file.

    Raises:
        OutputError: the file cannot be written.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        _paragraph(summary),
        *(_section(section) for section in sections),
        "</body></html>\n",
    ]
    with writing_file(path) as temporary:
        temporary.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>", _paragraph(section.text)]
    if section.table is not None:
        parts.append(_table(section.table))
    parts.append(_paragraph(section.note, "note"))
    parts.extend(_figure(figure) for figure in section.figures)
    if section.commands:
        parts.append(f"<pre>{html.escape(chr(10).join(section.commands))}</pre>")
    return "\n".join(part for part in parts if part)


def _paragraph(text: str, style: str = "") -> str:
    if not text:
        return ""
    attribute = f' class="{style}"' if style else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        attribute = ' class="strong"' if number in table.strong else ""
        rows.append(f"<tr{attribute}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.path.read_bytes()).decode("ascii")
    caption = html.escape(figure.caption)
    image = f'<img alt="{html.escape(figure.caption, quote=True)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
