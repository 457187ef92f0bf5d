"""Recommend: the next items after one history, after those in a file, or for all users of a prepared folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import DataFormatError, SettingsError
from linguarec.screen import visible

if TYPE_CHECKING:
    from linguarec.catalogue import Catalogue
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.item_files import NamedHistory
    from linguarec.data.ragged import Ragged
    from linguarec.recommendations import Recommendation
    from linguarec.recommender import Recommender, Seen

HISTORIES_AT_ONCE = 4_096
SHOWN_REASONS, SHOWN_LETTERS = 3, 40


def recommend(
    run: Path,
    history: list[str] | None = None,
    histories: Path | None = None,
    for_: Path | None = None,
    output: Path | None = None,
    k: int = 10,
    seen: Literal["exclude", "include", "learned"] = "exclude",
    within: Path | None = None,
    filter_: str | None = None,
    explain: bool = False,
    items: Path | None = None,
    skip_unknown: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Show the items that a trained run recommends after a history of raw item ids, or write those for many histories.

    New items can be added from a file with their text; then they are recommended like the others. Behind torchrun the
    processes share the histories of --histories or --for out.

    Args:
        run: run folder of a trained model
        history: raw item ids, oldest first, separated by commas; an id with commas, quotes or outer spaces is quoted as in CSV:
            '" a","b,c","the ""d"" e"'
        histories: file with many histories (.jsonl, .parquet, .csv): `history` (the ids) and optionally `user`
        for_: prepared folder; recommend to all of its users, after their whole histories
        output: with --histories or --for: file to write (.parquet, .csv, .jsonl): user, rank, raw_id, score, title
        k: how many items to recommend
        seen: items of the history: not recommended (exclude), candidates like the others (include), or candidates whose scores
            are adjusted by what the run learned about repeats (learned)
        within: file with the candidate items, one raw id per line; only these are recommended; for --history
        filter_: only recommend items with these attributes, such as 'brand == "Acme" and price <= 20'; also `in [...]`, ranges
            (5 <= price < 20), `and`, `or`, `not`, parentheses, `is missing`, and `attribute name` in backticks
        explain: for --history, show why: the share of each item of the history in the score, and the parts of the score
        items: file with new items (.csv, .parquet, .jsonl): raw_id, and the attributes of the catalogue or text
        skip_unknown: leave unknown ids out, and count them, instead of stopping
        overwrite: replace the output file
    """
    from linguarec.processes import started_together
    from linguarec.recommender import Recommender

    asked = [
        flag for flag, value in (("history", history), ("histories", histories), ("for", for_)) if value is not None
    ]
    problems = []
    if len(asked) != 1:
        named = ", ".join(f"--{flag}" for flag in asked) or "none"
        problems.append(f"give one of --history, --histories and --for; found {named}")
    elif (output is None) != (history is not None):
        problems.append(
            "--output is the file for --histories and --for, which need it; --history is shown on the screen"
        )
    if within is not None and history is None:
        problems.append("--within is for --history")
    if explain and history is None:
        problems.append("--explain is for --history")
    if k < 1:
        problems.append(f"k is {k}; it must be at least 1")
    if history is not None and started_together() > 1:
        problems.append("--history is one history, which processes cannot share; start the command without torchrun")
    if problems:
        raise SettingsError(problems)
    recommender = Recommender.load(run)
    exclude_seen: Seen = "learned" if seen == "learned" else seen == "exclude"
    added = 0 if items is None else _add(recommender, items)
    if history is not None:
        return _show(recommender, run, history, k, exclude_seen, within, filter_, added, skip_unknown, explain)
    assert output is not None
    return _write(recommender, run, histories, for_, output, k, exclude_seen, filter_, skip_unknown, overwrite)


def _show(
    recommender: "Recommender",
    run: Path,
    history: list[str],
    k: int,
    exclude_seen: "Seen",
    within: Path | None,
    filter_: str | None,
    added: int,
    skip_unknown: bool,
    explain: bool,
) -> dict[str, Any]:
    from linguarec.data.item_files import read_ids
    from linguarec.evaluation.report import Table
    from linguarec.runs.tables import plain_console, show_table

    whitelist = None if within is None else read_ids(within)
    _, unknown = recommender.catalogue.rows([history], skip_unknown)
    found = recommender.recommend([history], k, exclude_seen, whitelist, filter_, skip_unknown, explain=explain)[0]
    catalogue = recommender.catalogue
    read = [raw_id for raw_id in history if raw_id in catalogue.position]
    console = plain_console()
    if added:
        console.print(f"{added} new items read by their text")
    if unknown:
        console.print(f"left out, not in the catalogue: {visible(', '.join(unknown))}")
    shown = [[raw_id, "", catalogue.title(catalogue.position[raw_id])] for raw_id in read]
    show_table(console, Table(["raw id", "", "title"], shown), "history")
    columns, rows = ["raw id", "score", "title"], [[best.raw_id, f"{best.score:.4f}", best.title] for best in found]
    if explain:
        names = list(found[0].parts or ()) if found else []
        names = names if len(names) > 1 else []  # one part alone is the score
        columns += [*names, "because of (what it adds to the score)"]
        for row, best in zip(rows, found, strict=True):
            parts = best.parts or {}
            row += [f"{parts[name]:.4f}" for name in names] + [_reasons(best, catalogue)]
    show_table(console, Table(columns, rows), f"recommended by {recommender.description.name}")
    if not found:
        console.print("no item may be recommended: none that is not in the history passes --within and --filter")
    return {
        "run": str(run),
        "history": read,
        "unknown": unknown,
        "added": added,
        "recommendations": [_as_dict(best) for best in found],
    }


def _reasons(best: "Recommendation", catalogue: "Catalogue") -> str:
    """The items of the history that brought an item up most."""
    shown = [reason for reason in (best.reasons or ())[:SHOWN_REASONS] if reason.share > 0]
    titles = [catalogue.title(catalogue.position[reason.raw_id])[:SHOWN_LETTERS] for reason in shown]
    return "; ".join(f"{title} ({reason.share:.4f})" for title, reason in zip(titles, shown, strict=True)) or "-"


def _as_dict(best: "Recommendation") -> dict[str, Any]:
    """As it is printed by --json: what was not asked for is left out."""
    from dataclasses import asdict

    return {name: value for name, value in asdict(best).items() if value is not None}


def _write(
    recommender: "Recommender",
    run: Path,
    histories: Path | None,
    data: Path | None,
    output: Path,
    k: int,
    exclude_seen: "Seen",
    filter_: str | None,
    skip_unknown: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Write the best items for each history, in blocks of some thousand histories, which processes share out."""
    import time

    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.item_files import rows_format, writing_rows
    from linguarec.durations import duration_text
    from linguarec.processes import Processes
    from linguarec.progress import progress_bar
    from linguarec.recommendations import columns_of
    from linguarec.runs.tables import plain_console

    processes = Processes.here()
    started = time.perf_counter()
    dataset = None if data is None else PreparedDataset.open(data)
    if dataset is not None and not skip_unknown:
        _check_known(recommender, run, dataset)
    total, named = _histories(histories, dataset)
    encoded = rows_format(output).encoded

    def best_of(start: int) -> tuple[Any, int, int, int]:
        """The rows of a block, the number of its histories, how many of them have a known item, and of unknown ids."""
        part = named(slice(start, start + HISTORIES_AT_ONCE))
        kept, rows, unknown = _known(recommender, part, skip_unknown)
        catalogue, best = recommender.best_entries(rows, k, exclude_seen, filter_)
        columns = columns_of(catalogue, best)
        columns["user"] = [kept[history] for history in columns.pop("history")]
        return encoded(columns), len(part), len(kept), unknown

    blocks = processes.gathered(map(best_of, processes.share(range(0, total, HISTORIES_AT_ONCE))))
    if not processes.is_writer:
        return {}
    done = left_out = unknown_ids = 0
    with (
        writing_rows(output, overwrite) as write,
        progress_bar("Recommending", total, "histories") as advance,
    ):
        for rows, of_block, kept, unknown in blocks:
            write(rows)
            done, left_out, unknown_ids = done + kept, left_out + of_block - kept, unknown_ids + unknown
            advance(of_block)
    seconds = time.perf_counter() - started
    console = plain_console()
    console.print(f"{done:,} histories in {duration_text(seconds)} ({done / seconds:,.0f} a second): {output}")
    if unknown_ids:
        console.print(
            f"left out: {unknown_ids:,} ids that are not in the catalogue, {left_out:,} histories without any other"
        )
    return {
        "run": str(run),
        "output": str(output),
        "histories": done,
        "histories_left_out": left_out,
        "unknown_ids": unknown_ids,
        "k": k,
        "seconds": round(seconds, 3),
    }


def _histories(
    file: Path | None, dataset: "PreparedDataset | None"
) -> "tuple[int, Callable[[slice], list[NamedHistory]]]":
    """The number of histories in a file or folder, and a function that gives some: the user's raw id, or its number from 1."""
    import numpy as np

    from linguarec.data.item_files import read_histories

    if file is not None:
        found = read_histories(file)
        return len(found), found.__getitem__
    assert dataset is not None
    raw_ids, users = dataset.raw_item_ids, dataset.raw_user_ids
    not_empty = np.flatnonzero(dataset.sequences.lengths > 0)

    def named(places: slice) -> "list[NamedHistory]":
        rows = not_empty[places].tolist()
        return [(users[row], [raw_ids[item] for item in dataset.sequences[row].tolist()]) for row in rows]

    return len(not_empty), named


def _check_known(recommender: "Recommender", run: Path, dataset: "PreparedDataset") -> None:
    """Refuse a folder whose histories hold items that the run does not know."""
    import numpy as np

    taken = np.asarray(dataset.raw_item_ids, dtype=object)[np.unique(dataset.sequences.values)].tolist()
    unknown = [raw_id for raw_id in taken if raw_id not in recommender.catalogue.position]
    if unknown and len(unknown) < len(taken):
        raise DataFormatError(
            f"the histories of {dataset.path} hold {len(unknown):,} items that {run} does not know, such as {unknown[0]!r}. "
            f"`linguarec update {run} {dataset.path} -o NEW` makes the run anew with them, --items FILE reads their texts, "
            "--skip-unknown leaves them out of the histories."
        )


def _known(
    recommender: "Recommender", part: "list[NamedHistory]", skip_unknown: bool
) -> "tuple[list[str], Ragged, int]":
    """Names of the histories with a known item, these histories as catalogue entries, and the number of unknown ids."""
    from linguarec.data.ragged import Ragged

    catalogue = recommender.catalogue
    if not skip_unknown:
        return [user for user, _ in part], catalogue.rows([history for _, history in part])[0], 0
    position = catalogue.position
    found = [(user, [position[raw_id] for raw_id in history if raw_id in position]) for user, history in part]
    unknown = sum(len(history) for _, history in part) - sum(len(entries) for _, entries in found)
    kept = [(user, entries) for user, entries in found if entries]
    return [user for user, _ in kept], Ragged.from_lists([entries for _, entries in kept]), unknown


def _add(recommender: "Recommender", file: Path) -> int:
    """Add the items in `file`; errors name the file."""
    from linguarec.data.item_files import read_items

    items = read_items(file)
    try:
        return recommender.add_items(items)
    except DataFormatError as error:
        raise DataFormatError(f"{file}: {error}") from error
