"""`prepare table`: a log and a catalogue of your own, as files or as tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linguarec.commands.prepare.writing import (
    Catalogue,
    Duplicates,
    Encoding,
    EngineName,
    PrepareResult,
    TextRules,
    Ties,
    TimeUnit,
    duplicates_without_times,
    prepare_folder,
)
from linguarec.errors import SettingsError
from linguarec.files import AnyPath

if TYPE_CHECKING:
    from linguarec.data.engine import Engine
    from linguarec.data.preparation import Source
    from linguarec.tables import TableLike


def prepare_table(
    interactions: "AnyPath | TableLike",
    output: AnyPath,
    items: "AnyPath | TableLike | None" = None,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
    items_item_column: str | None = None,
    attributes: list[str] | None = None,
    order: Literal["time", "rank", "file"] = "time",
    time_unit: TimeUnit = "seconds",
    time_format: str | None = None,
    k_core: int = 5,
    ties: Ties = "file",
    seed: int = 0,
    text_rules: TextRules = "default",
    duplicates: Duplicates = "identical",
    catalogue: Catalogue = "log",
    items_without_metadata: Literal["keep", "drop"] = "keep",
    encoding: Encoding = "utf-8",
    held_out_share: float = 0.1,
    memory: str = "1500MB",
    engine: EngineName = "duckdb",
    master: str | None = None,
    overwrite: bool = False,
    discard: bool = False,
    large_archives: bool = False,
) -> PrepareResult:
    """Prepare a log and a catalogue of your own, as CSV (plain or packed) or Parquet.

    From Python both may be tables as well: data frames of pandas or polars, Arrow tables, lists of mappings.
    A column of Parquet that holds lists or dictionaries is written as text: values joined by " > ", dictionaries as
    "key: value". COLUMN.KEY names one key of a dictionary.

    Args:
        interactions: the log, one row an interaction
        output: the prepared folder to write
        items: the catalogue, one row an item; without it only models on item ids can be trained
        user_column: column of the log that names the user
        item_column: column of the log that names the item
        time_column: column of the log that orders a user's interactions
        items_item_column: column of the catalogue that names the item (default: as in the log)
        attributes: columns of the catalogue that make up the item text, in order (default: all but the item's)
        order: "time" if the time column holds moments, "rank" if its numbers only order, "file" for file order
        time_unit: unit of times given as numbers
        time_format: form of the times in the codes of Python's strptime, such as "%d/%m/%Y %H:%M" (default: numbers or ISO)
        k_core: least number of interactions of a user and of an item; 0 keeps all
        ties: order of interactions at the same time, as in the file or at random
        seed: seed of the random tie order and of the held-out items
        text_rules: cleaning of the item texts; "released" repeats the published code
        duplicates: "identical" drops repeated rows, "first" also a user's later interactions with an item, "keep" none
        catalogue: "log" keeps the items that occur in the log, "all" keeps the others too: they are ranked as well
        items_without_metadata: items of the log that the catalogue lacks: keep them without a text, or drop them
        encoding: encoding of CSV files
        held_out_share: share of the items in the held-out-items split
        memory: memory limit of the database, which spills to disk beyond it; of each of Spark's processes
        engine: the database: duckdb on this machine, or spark on a cluster, with the same result
        master: URL of the Spark master, such as spark://host:7077 or local[8] (default: that of Spark's own settings)
        overwrite: replace the output folder if it exists
        discard: with --overwrite, also throw away vectors, codes and tokens that other commands stored in the folder
        large_archives: read packed files that unpack to more than 2 GiB and 200 times their size
    """
    from linguarec.data.engine import EngineChoice
    from linguarec.data.preparation import FilterSettings
    from linguarec.data.readers.table import TableColumns, read_table
    from linguarec.tables import TableSource, naming_tables

    problems = []
    if attributes is not None and items is None:
        problems.append("--attributes names columns of the catalogue, but there is none; pass --items.")
    if items_item_column is not None and items is None:
        problems.append("--items-item-column names a column of the catalogue, but there is none; pass --items.")
    if time_format is not None and order != "time":
        problems.append(f"--time-format is not read with --order {order}; leave one of them out.")
    if time_format is not None and time_unit != "seconds":
        problems.append("--time-unit is not read with --time-format; leave one of them out.")
    if problems:
        raise SettingsError(problems)
    columns = TableColumns(
        user_column,
        item_column,
        time_column,
        items_item_column or item_column,
        attributes,
        order,
        time_unit,
        time_format,
    )
    log_source = TableSource.of(interactions, "interactions", [columns.user, columns.item])
    items_source = None if items is None else TableSource.of(items, "items", [columns.catalogue_item])
    if order == "file":
        duplicates = duplicates_without_times(duplicates, str(log_source))

    def read(database: "Engine", scratch: Path) -> "Source":
        items_file = None if items_source is None else items_source.file(scratch)
        with naming_tables(scratch):
            return read_table(database, scratch, log_source.file(scratch), items_file, columns, encoding)

    return prepare_folder(
        "table",
        {
            "interactions": log_source.name,
            "items": None if items_source is None else items_source.name,
            "user_column": user_column,
            "item_column": item_column,
            "time_column": time_column,
            "items_item_column": columns.catalogue_item,
            "attributes": attributes,
            "order": order,
            "time_unit": time_unit,
            "time_format": time_format,
            "items_without_metadata": items_without_metadata,
            "encoding": encoding,
        },
        read,
        FilterSettings(
            k_core,
            ties,
            seed,
            duplicates,
            catalogue,
            items_without_metadata == "drop",
            EngineChoice(engine, memory, master),
        ),
        text_rules,
        Path(output),
        held_out_share,
        overwrite,
        discard,
        large_archives,
    )
