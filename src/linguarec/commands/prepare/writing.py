"""Shared by all kinds of source: filters, writing the prepared folder, showing what was counted."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.checks import seed_problems
from linguarec.errors import SettingsError
from linguarec.result import Result

if TYPE_CHECKING:
    from linguarec.data.dataset import Manifest
    from linguarec.data.folder import Content
    from linguarec.data.preparation import FilterSettings, Reader

log = logging.getLogger(__name__)

# The choices of the flags, named once more, so that --help does not load the database.
TextRules = Literal["default", "released"]
Ties = Literal["file", "random"]
Duplicates = Literal["identical", "first", "keep"]
Catalogue = Literal["log", "all"]
Encoding = Literal["utf-8", "latin-1"]
EngineName = Literal["duckdb", "spark"]
TimeUnit = Literal["seconds", "milliseconds", "microseconds"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PrepareResult(Result):
    """Figures of a prepared folder.

    `items_`: number of items. `report`: how much was dropped or mended, by reason. `fingerprint`: of the content.
    """

    output: str
    users: int
    items_: int
    interactions: int
    attributes: list[str]
    report: dict[str, int]
    fingerprint: str

    def _lines(self) -> list[str]:
        counted = ", ".join(f"{what.replace('_', ' ')} {number:,}" for what, number in self.report.items() if number)
        return [
            f"{self.users:,} users, {self.items_:,} items, {self.interactions:,} interactions in {self.output}",
            f"attributes: {', '.join(self.attributes) or 'none'}",
            f"counted: {counted or 'nothing'}",
        ]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AppendResult(Result):
    """Figures of a piece that was appended, and of the folder that it was appended to.

    `pieces`: how many were appended so far. `incomplete`: stored vectors that lack the new items. `report`: what was
    counted of the piece, by reason.
    """

    output: str
    pieces: int
    users: int
    items_: int
    interactions: int
    users_added: int
    items_added: int
    interactions_added: int
    report: dict[str, int]
    incomplete: list[str]
    fingerprint: str

    def _lines(self) -> list[str]:
        counted = ", ".join(f"{what.replace('_', ' ')} {number:,}" for what, number in self.report.items() if number)
        lines = [
            f"{self.users_added:,} users, {self.items_added:,} items, {self.interactions_added:,} interactions more in "
            f"{self.output}",
            f"now {self.users:,} users, {self.items_:,} items, {self.interactions:,} interactions",
            f"counted: {counted or 'nothing'}",
        ]
        if self.incomplete:
            lines.append(f"vectors that lack the new items: {', '.join(self.incomplete)}; `linguarec encode` adds them")
        return lines


def check_settings(held_out_share: float, seed: int, k_core: int = 0) -> None:
    """Raise one error that names every setting that cannot work."""
    problems = []
    if not 0 <= held_out_share < 1:
        problems.append(f"--held-out-share is {held_out_share}; it must be at least 0 (no item held out) and below 1.")
    problems += seed_problems(seed)
    if k_core < 0:
        problems.append(f"--k-core is {k_core}; it must be at least 0, which keeps all.")
    if problems:
        raise SettingsError(problems)


def prepare_folder(
    recipe: str,
    arguments: Mapping[str, Any],
    read: "Reader",
    filters: "FilterSettings",
    text_rules: TextRules,
    output: Path,
    held_out_share: float,
    overwrite: bool,
    discard: bool = False,
    large_archives: bool = False,
) -> PrepareResult:
    from linguarec.data.preparation import prepare_content
    from linguarec.text.cleaning import item_text

    check_settings(held_out_share, filters.seed, filters.k_core)
    arguments = {
        **arguments,
        "k_core": filters.k_core,
        "ties": filters.ties,
        "duplicates": filters.duplicates,
        "catalogue": filters.catalogue,
    }
    return write_content(
        recipe,
        arguments,
        lambda scratch: prepare_content(scratch, read, filters, lambda values: item_text(values, text_rules)),
        text_rules,
        output,
        held_out_share,
        filters.seed,
        overwrite,
        discard,
        large_archives,
    )


def write_content(
    recipe: str,
    arguments: Mapping[str, Any],
    make_content: "Callable[[Path], AbstractContextManager[Content]]",
    text_rules: TextRules,
    output: Path,
    held_out_share: float,
    seed: int,
    overwrite: bool,
    discard: bool = False,
    large_archives: bool = False,
) -> PrepareResult:
    from linguarec.data.folder import Origin, check_nothing_added, write_folder
    from linguarec.data.readers import packing
    from linguarec.data.splitting import SplitSettings

    if overwrite and not discard:
        check_nothing_added(output)
    arguments = {**arguments, "text_rules": text_rules, "held_out_share": held_out_share, "seed": seed}
    with packing.large_archives(large_archives):
        manifest = write_folder(
            output,
            Origin(recipe, arguments, text_rules),
            SplitSettings(held_out_share=held_out_share, seed=seed),
            overwrite,
            make_content,
        )
    _show(output, manifest, manifest.report)
    return PrepareResult(
        output=str(output),
        users=manifest.counts["users"],
        items_=manifest.counts["items"],
        interactions=manifest.counts["interactions"],
        attributes=manifest.attributes,
        report=manifest.report,
        fingerprint=manifest.fingerprint,
    )


def write_appended(
    folder: Path,
    made: "Manifest",
    piece: str,
    read: "Reader",
    filters: "FilterSettings",
    discard: bool,
    large_archives: bool,
) -> AppendResult:
    from linguarec.data.appending import append_content
    from linguarec.data.folder import Origin, check_carried_over, write_folder
    from linguarec.data.readers import packing
    from linguarec.data.splitting import SplitSettings
    from linguarec.text.cleaning import item_text

    if not discard:
        check_carried_over(folder)
    rules: TextRules = "released" if made.text_rules == "released" else "default"
    with packing.large_archives(large_archives):
        manifest = write_folder(
            folder,
            Origin(made.recipe, made.arguments, made.text_rules),
            SplitSettings(held_out_share=made.arguments["held_out_share"], seed=filters.seed),
            True,
            lambda scratch: append_content(
                scratch, folder, piece, read, filters, lambda values: item_text(values, rules)
            ),
        )
    added = manifest.pieces[-1]
    _show(folder, manifest, added["report"])
    if textless := added["report"].get("items_without_text"):
        log.warning(
            "%d of the %d new items have no text: models that read text cannot tell them apart, and items of a folder keep the "
            "text that they came with. Where the catalogue has them, name it with --items in the same call.",
            textless,
            added["items_added"],
        )
    return AppendResult(
        output=str(folder),
        pieces=len(manifest.pieces),
        users=manifest.counts["users"],
        items_=manifest.counts["items"],
        interactions=manifest.counts["interactions"],
        users_added=added["users_added"],
        items_added=added["items_added"],
        interactions_added=added["interactions_added"],
        report=added["report"],
        incomplete=sorted(file.stem for file in (folder / "features").glob("*.json")) if added["items_added"] else [],
        fingerprint=manifest.fingerprint,
    )


def _show(output: Path, manifest: "Manifest", report: Mapping[str, int]) -> None:
    from rich.table import Table

    from linguarec.runs.tables import plain_console, show_title

    console = plain_console()
    show_title(console, f"{output} ({manifest.recipe})")
    table = Table(show_header=False)
    table.add_column("what")
    table.add_column("number", justify="right")
    for what, number in manifest.counts.items():
        table.add_row(what, f"{number:,}", style="bold")
    for what, number in report.items():
        if number:
            table.add_row(what.replace("_", " "), f"{number:,}")
    console.print(table)


def duplicates_without_times(duplicates: Duplicates, interactions: str) -> Duplicates:
    """The setting for a log without times, in which a repeated row may be a repeated visit; a change is warned of."""
    if duplicates != "identical":
        return duplicates
    log.warning(
        "%s is read without times, so that a repeated row may be a repeated visit: all rows stay, as with --duplicates keep "
        "and not identical; --duplicates first leaves one row for each user and item.",
        interactions,
    )
    return "keep"
