"""The accuracy tables of `bench/README.md` and the tables of `docs/scale.md` hold the figures of `bench/results/`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"
NUMBER = r"([+-]?\d[\d,]*(?:\.\d+)?)"
TABLES: list[dict[str, Any]] = json.loads((BENCH / "results" / "accuracy.json").read_text(encoding="utf-8"))


def readme_tables() -> list[list[list[str]]]:
    """The tables of the accuracy part, in order: their rows of cells, without the headings."""
    text = (BENCH / "README.md").read_text(encoding="utf-8").split("\n## Accuracy\n")[1]
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    lines = [block.splitlines()[2:] for block in blocks]
    return [[[cell.strip() for cell in line[1:-1].split("|")] for line in block] for block in lines]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def figures_of(cell: str) -> Any:
    """A cell of the README as JSON holds it; None = empty."""
    if cell in ("", "-"):
        return None
    if found := re.fullmatch(NUMBER, cell):
        return number(found[1])
    if found := re.fullmatch(rf"{NUMBER} \({NUMBER}(?:-| to ){NUMBER}\)", cell):
        return {name: number(found[place]) for place, name in enumerate(("value", "low", "high"), start=1)}
    if found := re.fullmatch(rf"{NUMBER} ±{NUMBER}( \*)?", cell):
        figures = {"value": number(found[1]), "plus_minus": number(found[2])}
        return figures | ({"significant": True} if found[3] else {})
    if found := re.fullmatch(rf"{NUMBER} / {NUMBER}(?:: (.*)| \((.*)\))?", cell):
        note = found[3] or found[4]
        return {"recall@10": number(found[1]), "ndcg@10": number(found[2])} | ({"note": note} if note else {})
    if found := re.fullmatch(rf"{NUMBER} (s|GiB)", cell):
        return {"value": number(found[1]), "unit": found[2]}
    if found := re.fullmatch(rf"{NUMBER} (to .*)", cell):
        return {"value": number(found[1]), "note": found[2]}
    return cell


def expected_row(columns: list[str], cells: list[str], above: dict[str, Any]) -> dict[str, Any]:
    """A row of the README as JSON holds it; an empty first cell means the one above."""
    row = {name: figures_of(cell) for name, cell in zip(columns, cells, strict=True)}
    if row[columns[0]] is None:
        row[columns[0]] = above[columns[0]]
    if "trial" in row:
        if cells[1].startswith("**"):
            row["kept"] = True
        if cells[1].endswith(" *"):
            row["classes"] = "whole catalogue"
        row["trial"] = cells[1].removesuffix(" *").strip("*")
    return {name: value for name, value in row.items() if value is not None}


def test_every_table_is_stored() -> None:
    assert len(readme_tables()) == len(TABLES) == 24


@pytest.mark.parametrize("place", range(len(TABLES)), ids=[table["table"] for table in TABLES])
def test_the_figures_are_those_of_the_readme(place: int) -> None:
    stored, expected = TABLES[place], []
    for cells in readme_tables()[place]:
        expected.append(expected_row(stored["columns"], cells, expected[-1] if expected else {}))
    assert stored["rows"] == expected
    # Nothing but the named columns is taken for text where figures belong.
    for row in stored["rows"]:
        assert all(not isinstance(row[name], str) for name in row if "@" in name or name in ("valid", "test", "epochs"))


def test_the_tables_of_scale_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/scale.md holds no other figure between its marks than `python bench/scale.py --docs` writes there."""
    monkeypatch.syspath_prepend(str(BENCH))
    from scale import put_into, tables

    results = json.loads((BENCH / "results" / "scale.json").read_text(encoding="utf-8"))["results"]
    docs = (BENCH.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    assert "| recommend --for | U, U x N |" in docs
    assert put_into(docs, tables(results)) == docs
