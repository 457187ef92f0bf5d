"""Describe: what a prepared folder holds, the problems found in it, and which models and settings to try first."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.screen import visible

if TYPE_CHECKING:
    from rich.table import Table

    from linguarec.data.ties import TiedNeighbours

BAR_WIDTH = 40


def describe(data: Path) -> dict[str, Any]:
    """Show counts, length histogram, text statistics and problems of a prepared folder, and advice on how to train with it.

    Args:
        data: prepared folder
    """
    from dataclasses import asdict

    from linguarec.data import statistics
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.moments import moment_text
    from linguarec.data.ties import TiedNeighbours
    from linguarec.runs.tables import plain_console

    dataset = PreparedDataset.open(data)
    histogram = statistics.length_histogram(dataset.sequences.lengths)
    lengths = statistics.spread(dataset.sequences.lengths)
    text = statistics.text_statistics(dataset)
    splits = statistics.split_sizes(dataset)
    span = statistics.time_span(dataset)
    times = None if span is None else [moment_text(seconds) for seconds in span]
    ties = TiedNeighbours.of(dataset)
    problems = [*statistics.log_problems(dataset, ties), *statistics.text_problems(dataset)]
    advice = [] if ties is None else _advice(ties)
    manifest = dataset.manifest
    named = [f"{name} (numbers)" if name in manifest.numbers else name for name in manifest.attributes]
    facts = {
        "recipe": manifest.recipe,
        **{name: f"{number:,}" for name, number in manifest.counts.items()},
        "mean, median, longest sequence": f"{lengths['mean']}, {lengths['median']:g}, {lengths['max']}"
        if lengths
        else "-",
        "density": f"{manifest.counts['interactions'] / max(1, dataset.num_users * dataset.num_items):.4%}",
        "first and last time": " to ".join(times) if times else "not known (order only)",
        "order of ties": manifest.arguments.get("ties", "as released"),
        "attributes": ", ".join(named) or "-",
        "text rules": manifest.text_rules,
        "item vectors": ", ".join(dataset.feature_names) or "-",
        "item codes": ", ".join(dataset.code_names) or "-",
        "item tokens": ", ".join(dataset.token_names) or "-",
    }
    console = plain_console()
    console.print(_pairs(str(data), facts))
    console.print(_histogram(histogram))
    console.print(_texts(text))
    console.print(_splits(splits))
    console.print(_problems([asdict(problem) for problem in problems]))
    if ties is not None and advice:
        console.print(_advised(ties, advice))
    reported = {what: number for what, number in manifest.report.items() if number}
    if reported:
        pairs = {what.replace("_", " "): f"{number:,}" for what, number in reported.items()}
        console.print(_pairs("Counted while preparing", pairs))
    return {
        "path": str(data),
        "recipe": manifest.recipe,
        **manifest.counts,
        "times": None if times is None else {"first": times[0], "last": times[1]},
        "lengths": lengths,
        "length_histogram": [{"from": low, "to": high, "users": users} for low, high, users in histogram],
        "numbers": manifest.numbers,
        "text": text,
        "splits": splits,
        "problems": [asdict(problem) for problem in problems],
        "tied_neighbours": None if ties is None else round(ties.share, 4),
        "advice": advice,
        "report": manifest.report,
        "fingerprint": manifest.fingerprint,
    }


def _advice(ties: "TiedNeighbours") -> list[str]:
    """What to try first, in this order; none where timestamps order the interactions."""
    from linguarec.families import FAMILIES

    if not ties.baskets:
        return []
    # They count what occurs together, and find out by themselves whether its order says something.
    unordered = [f"linguarec finetune {name} DATA -o RUN" for name, family in FAMILIES.items() if family.closed_form]
    settings = "--ties shuffled"
    if ties.sets:
        settings += " --sequence-encoder pooling --history-in-softmax excluded --training.stop_by excluded"
    return [*unordered, f"models that predict the next item: {settings}"]


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=bool(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _pairs(title: str, pairs: dict[str, str]) -> "Table":
    table = _table(title)
    for name, value in pairs.items():
        table.add_row(visible(name), visible(str(value)))
    return table


def _histogram(histogram: list[tuple[int, int | None, int]]) -> "Table":
    table = _table("Length of the sequences", "interactions", "users", "share", "")
    table.columns[-1].justify = "left"
    total = sum(users for _, _, users in histogram)
    most = max((users for _, _, users in histogram), default=1)
    for low, high, users in histogram:
        name = f"{low} and more" if high is None else str(low) if low == high else f"{low} - {high}"
        table.add_row(name, f"{users:,}", f"{users / total:.1%}", "█" * round(BAR_WIDTH * users / most))
    return table


def _texts(text: dict[str, dict[str, float]]) -> "Table":
    table = _table("Item texts", "", "mean", "min", "median", "p95", "max")
    for name in ("characters", "words"):
        table.add_row(name, *(f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in text[name].values()))
    for attribute, share in text["attributes_filled"].items():
        table.add_row(f"items with {visible(attribute)}", f"{share:.1%}")
    return table


def _splits(splits: dict[str, dict[str, int]]) -> "Table":
    table = _table("Splits", "", "train", "valid", "test", "excluded")
    for name, sizes in splits.items():
        table.add_row(name, *(f"{number:,}" for number in sizes.values()))
    return table


def _advised(ties: "TiedNeighbours", advice: list[str]) -> "Table":
    what = "Sets" if ties.sets else "Baskets"
    table = _table(
        f"{what}: {ties.share:.1%} of successive interactions have the time of the one before, {ties.moments:.3g} times a user "
        "on average. Try first"
    )
    for line in advice:
        table.add_row(line)
    return table


def _problems(problems: list[dict[str, Any]]) -> "Table":
    table = _table("Problems found", "what", "number", "share", "for example")
    table.columns[-1].justify = "left"
    for problem in problems:
        if problem["number"]:
            share = f"{problem['number'] / max(1, problem['out_of']):.1%}"
            table.add_row(problem["what"], f"{problem['number']:,}", share, visible(", ".join(problem["examples"])))
    if not any(problem["examples"] for problem in problems if problem["number"]):
        del table.columns[-1]
    if table.row_count == 0:
        table.add_row("none", "", "")
    return table
