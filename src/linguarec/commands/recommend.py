"""Recommend: the next items for one history, by a trained run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import DataFormatError

if TYPE_CHECKING:
    from linguarec.recommender import Recommender


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

    from linguarec.data.item_files import read_ids
    from linguarec.evaluation.report import Table
    from linguarec.recommender import Recommender
    from linguarec.runs.tables import plain_console, show_table

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
    from linguarec.data.item_files import read_items

    items = read_items(file)
    try:
        return recommender.add_items(items)
    except DataFormatError as error:
        raise DataFormatError(f"{file}: {error}") from error
