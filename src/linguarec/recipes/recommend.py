"""Recommend: the next items for one history, by a trained run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import DataFormatError, SettingsError

if TYPE_CHECKING:
    from linguarec.recommender import Recommender

_LONGEST_FIELD = 1 << 27
_JSON_ENDINGS = (".jsonl", ".ndjson")


def recommend(
    run: Path,
    history: list[str],
    k: int = 10,
    include_seen: bool = False,
    within: Path | None = None,
    items: Path | None = None,
    skip_unknown: bool = False,
) -> dict[str, Any]:
    """Show the items that a trained run recommends after a history of raw item ids.

    Items that the run never saw can be given by their text in a file; then they are recommended like the others.

    Args:
        run: run folder of a trained model
        history: raw item ids, oldest first, separated by commas
        k: how many items to recommend
        include_seen: items of the history may be recommended too
        within: file with the only items that may be recommended, one raw id a line
        items: file with new items (.csv, .parquet, .jsonl): raw_id, and the attributes of the catalogue or text
        skip_unknown: leave unknown ids out, and count them, instead of stopping
    """
    from dataclasses import asdict

    from linguarec.evaluation.report import Table
    from linguarec.recipes.tables import plain_console, show_table
    from linguarec.recommender import Recommender

    recommender = Recommender.load(run)
    added = 0 if items is None else _add(recommender, items)
    whitelist = None if within is None else read_ids(within)
    _, unknown = recommender.catalogue.rows([history], skip_unknown)
    found = recommender.recommend([history], k, not include_seen, whitelist, skip_unknown)[0]

    catalogue = recommender.catalogue
    read = [raw_id for raw_id in history if raw_id in catalogue.position]
    console = plain_console()
    if added:
        console.print(f"{added} new items read by their text")
    if unknown:
        console.print(f"left out, not in the catalogue: {', '.join(unknown)}")
    shown = [[raw_id, "", catalogue.title(catalogue.position[raw_id])] for raw_id in read]
    show_table(console, Table(["raw id", "", "title"], shown), "history")
    rows = [[best.raw_id, f"{best.score:.4f}", best.title] for best in found]
    show_table(console, Table(["raw id", "score", "title"], rows), f"recommended by {recommender.description.name}")
    return {
        "run": str(run),
        "history": read,
        "unknown": unknown,
        "added": added,
        "recommendations": [asdict(best) for best in found],
    }


def _add(recommender: "Recommender", file: Path) -> int:
    """Add the items in `file`; errors name it."""
    items = read_items(file)
    try:
        return recommender.add_items(items)
    except DataFormatError as error:
        raise DataFormatError(f"{file}: {error}") from error


def read_items(file: Path) -> list[dict[str, Any]]:
    """New items from a CSV (with a header line), Parquet or JSON-lines file, values as they stand there.

    Raises:
        DataFormatError: the file is of another kind or holds no item, or a row cannot be read; the row is named.
    """
    kind = file.suffix.lower()
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
        **dict.fromkeys(_JSON_ENDINGS, _json_rows),
    }
    if kind not in readers:
        raise SettingsError([f"items is {file}; expected a file that ends in {', '.join(readers)}"])
    try:
        found = list(readers[kind](file))
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    if not found:
        raise DataFormatError(f"{file} holds no items; expected one a row, with their raw_id.")
    return found


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    import csv

    csv.field_size_limit(_LONGEST_FIELD)
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, strict=True)
        try:
            names = list(reader.fieldnames or [])
            if "raw_id" not in names or len(set(names)) < len(names):
                raise DataFormatError(
                    f"{file}: the columns are {', '.join(map(repr, names))}; expected raw_id and others, each once, "
                    "separated by commas."
                )
            for row in reader:
                if None in row or None in row.values():
                    raise DataFormatError(
                        f"{file}, line {reader.line_num}: expected {len(names)} columns ({', '.join(names)}); found more or "
                        "fewer."
                    )
                yield {name: value or None for name, value in row.items()}
        except csv.Error as error:
            raise DataFormatError(
                f"{file}, after line {reader.line_num}: {error}; expected CSV with quotes that are closed."
            ) from error


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    import json

    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataFormatError(f"{file}, line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise DataFormatError(f"{file}, line {number}: expected an object, found {type(row).__name__}.")
            yield row


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(file).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataFormatError(f"{file} is not a Parquet file: {error}.") from error


def read_ids(file: Path) -> list[str]:
    """The raw ids in a file, one a line.

    Raises:
        DataFormatError: there are none, or the file is not UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataFormatError(f"{file} holds no ids; expected one raw id a line.")
    return found
