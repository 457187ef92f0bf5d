"""`prepare append`: a day's log, and the items that are new in it, into a folder that is prepared already."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.commands.prepare.writing import (
    AppendResult,
    Catalogue,
    Duplicates,
    Encoding,
    Ties,
    TimeUnit,
    write_appended,
)
from linguarec.errors import DataFormatError, SettingsError
from linguarec.files import AnyPath

if TYPE_CHECKING:
    from linguarec.data.engine import Engine
    from linguarec.data.preparation import Source
    from linguarec.tables import TableLike

RECIPES = ("table", "amazon-2014", "amazon-2018", "amazon-2023")
# What a manifest has to say of how its folder was made.
_MADE: dict[str, Any] = {
    "attributes": list[str] | None,
    "k_core": int,
    "ties": Ties,
    "seed": int,
    "duplicates": Duplicates,
    "catalogue": Catalogue,
    "items_without_metadata": Literal["keep", "drop"],
    "held_out_share": float,
}
_MADE_OF_TABLE: dict[str, Any] = {
    "user_column": str,
    "item_column": str,
    "time_column": str,
    "items_item_column": str,
    "order": Literal["time", "rank", "file"],
    "time_unit": TimeUnit,
    "time_format": str | None,
    "encoding": Encoding,
}


def prepare_append(
    data: AnyPath,
    interactions: "AnyPath | TableLike",
    items: "AnyPath | TableLike | None" = None,
    memory: str = "1500MB",
    discard: bool = False,
    large_archives: bool = False,
) -> AppendResult:
    """Add a piece of a log to a prepared folder, without reading the logs again that it was made of.

    The piece is read as the folder was: names of columns, times, filters and text rules are those of its manifest.
    Items and users keep their rows, new ones follow, and splits are made again. Users and items below the k-core wait
    in the folder for the next piece. Stored vectors stay: `linguarec encode` adds those of the new items.

    Args:
        data: the prepared folder, of `prepare table` or `prepare amazon-*`; it is replaced when the new one is complete
        interactions: the piece, in the form of the log that the folder was made of (of Amazon: ratings or reviews)
        items: the catalogue of the new items, or of all; items of the folder keep their texts (of Amazon: metadata)
        memory: memory limit of the database, which spills to disk beyond it
        discard: throw away codes, tokens, imported vectors and word-drop draws, which cannot be carried over
        large_archives: read packed files that unpack to more than 2 GiB and 200 times their size
    """
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.engine import EngineChoice
    from linguarec.data.preparation import FilterSettings
    from linguarec.data.readers import amazon
    from linguarec.data.readers.table import TableColumns, read_table
    from linguarec.files import clear_up
    from linguarec.tables import TableSource, naming_tables

    if Path(data).parent.is_dir():
        clear_up(Path(data))  # a process that was killed while it exchanged the folders
    manifest = PreparedDataset.open(data).manifest
    made = manifest.arguments
    if manifest.recipe not in RECIPES:
        raise SettingsError(
            [
                f"{data} was made by prepare {manifest.recipe}, to which nothing is appended; expected one of "
                f"{', '.join(RECIPES)}."
            ]
        )
    by_table = manifest.recipe == "table"
    _check_made(made, _MADE | _MADE_OF_TABLE if by_table else _MADE, data)
    problems = []
    if by_table and items is not None and not manifest.attributes:
        problems.append(
            f"--items is a catalogue, but {data} was made without one; leave it out, or prepare the folder again."
        )
    if not by_table and items is None:
        problems.append("--items is missing: the metadata of the items in the piece.")
    if problems:
        raise SettingsError(problems)
    user = made["user_column"] if by_table else "user_id"
    item = made["item_column"] if by_table else "item_id"
    log_source = TableSource.of(interactions, "interactions", [user, item])
    items_source = None if items is None else TableSource.of(items, "items", [made.get("items_item_column", item)])

    def read(database: "Engine", scratch: Path) -> "Source":
        log_file = log_source.file(scratch)
        items_file = None if items_source is None else items_source.file(scratch)
        if not by_table and items_file is not None:
            edition = {"2014": amazon.AMAZON_2014, "2018": amazon.AMAZON_2018, "2023": amazon.AMAZON_2023}[
                manifest.recipe[-4:]
            ]
            return amazon.read_amazon(database, scratch, edition, Path(log_file), Path(items_file), made["attributes"])
        columns = TableColumns(
            user,
            item,
            made["time_column"],
            made["items_item_column"],
            made["attributes"],
            made["order"],
            made["time_unit"],
            made["time_format"],
        )
        with naming_tables(scratch):
            return read_table(database, scratch, log_file, items_file, columns, made["encoding"])

    filters = FilterSettings(
        made["k_core"],
        made["ties"],
        made["seed"],
        # A log without times was read as with --duplicates keep; the manifest says so.
        made["duplicates"],
        made["catalogue"],
        made["items_without_metadata"] == "drop",
        EngineChoice(memory=memory),
    )
    return write_appended(Path(data), manifest, log_source.name, read, filters, discard, large_archives)


def _check_made(made: Mapping[str, Any], hints: Mapping[str, Any], data: AnyPath) -> None:
    """Refuse arguments of a manifest by which a piece cannot be read as the folder was.

    Raises:
        DataFormatError: one is missing or no such value.
    """
    from linguarec.records import misfit

    for name, hint in hints.items():
        wrong = misfit(made[name], hint) if name in made else "missing"
        if wrong:
            raise DataFormatError(
                f"{data}/manifest.json: of the arguments that the folder was made with, {name} is {wrong}; prepare the folder "
                "again, with all its logs."
            )
