"""Prepare: a log and a catalogue, from their source files to a prepared dataset folder."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.commands.folders import (
    Catalogue,
    Duplicates,
    Encoding,
    PrepareResult,
    TextRules,
    Ties,
    TimeUnit,
    check_settings,
    prepare_folder,
    write_content,
)
from linguarec.errors import SettingsError
from linguarec.files import AnyPath

if TYPE_CHECKING:
    from linguarec.data.engine import Engine
    from linguarec.data.folder import Content
    from linguarec.data.preparation import FilterSettings, Source
    from linguarec.tables import TableLike

log = logging.getLogger(__name__)


def prepare_amazon(
    edition: Literal["2014", "2018", "2023"],
    ratings: Path,
    meta: Path,
    output: Path,
    k_core: int = 5,
    ties: Ties = "file",
    seed: int = 0,
    text_rules: TextRules = "default",
    attributes: list[str] = ["title", "categories", "brand"],  # noqa: B006 - never changed, shown by --help
    duplicates: Duplicates = "identical",
    catalogue: Catalogue = "log",
    items_without_metadata: Literal["drop", "keep"] = "drop",
    held_out_share: float = 0.1,
    memory: str = "1500MB",
    overwrite: bool = False,
) -> PrepareResult:
    """Prepare Amazon review data, by default as the UniSRec and VQ-Rec papers do.

    Attributes are title, categories, brand, description, features, price and details (a dictionary: its "key: value" pairs),
    other keys of the metadata, and parts of a dictionary: details.Material is the value of Material in details.

    Args:
        edition: year of the release; it decides the names of the columns and the unit of the times
        ratings: ratings (CSV; 2018: item, user, rating, time without header) or reviews (JSON), plain or packed
        meta: metadata, plain or packed: a JSON object or (2014) Python dictionary a line, or one JSON array
        output: the prepared folder to write
        k_core: least number of interactions of a user and of an item; 0 keeps all
        ties: order of interactions at the same time (2018: one day, 2023: one millisecond), as in the file or at random
        seed: seed of the random tie order and of the held-out items
        text_rules: cleaning of the item texts; "released" repeats the published code
        attributes: what the item text is made of, in order
        duplicates: "identical" drops repeated rows, "first" also a user's later interactions with an item, "keep" none
        catalogue: "log" keeps the items that occur in the log, "all" keeps the others too: they are ranked as well
        items_without_metadata: items of the log that the metadata lack: drop their rows, or keep them without a text
        held_out_share: share of the items in the held-out-items split
        memory: memory limit of the database, which spills to disk beyond it
        overwrite: replace the output folder if it exists
    """
    from linguarec.data.readers import amazon

    columns = {"2014": amazon.AMAZON_2014, "2018": amazon.AMAZON_2018, "2023": amazon.AMAZON_2023}[edition]
    return prepare_folder(
        f"amazon-{edition}",
        {
            "ratings": ratings.name,
            "meta": meta.name,
            "attributes": attributes,
            "items_without_metadata": items_without_metadata,
        },
        lambda engine, scratch: amazon.read_amazon(engine, scratch, columns, ratings, meta, attributes),
        _filters(k_core, ties, seed, duplicates, catalogue, items_without_metadata == "drop", memory),
        text_rules,
        output,
        held_out_share,
        overwrite,
    )


def prepare_online_retail(
    log: Path,
    output: Path,
    k_core: int = 5,
    ties: Ties = "file",
    seed: int = 0,
    text_rules: TextRules = "default",
    duplicates: Duplicates = "identical",
    encoding: Encoding = "utf-8",
    held_out_share: float = 0.1,
    memory: str = "1500MB",
    overwrite: bool = False,
) -> PrepareResult:
    """Prepare UCI Online Retail: a user is an invoice, an item a stock code, its text the description.

    Nearly all rows of an invoice bear one time, so the tie order decides the protocol: "random" (seeded) is
    comparable with published figures, "file" keeps the order of the receipt and gives far higher ones.

    Args:
        log: the CSV file, plain or packed, with either form of date
        output: the prepared folder to write
        k_core: least number of interactions of a user and of an item
        ties: order of interactions at the same time, as in the file or at random
        seed: seed of the random tie order and of the held-out items
        text_rules: cleaning of the item texts; "released" repeats the published code
        duplicates: "identical" drops repeated rows, "first" also a user's later interactions with an item, "keep" none
        encoding: encoding of the file
        held_out_share: share of the items in the held-out-items split
        memory: memory limit of the database, which spills to disk beyond it
        overwrite: replace the output folder if it exists
    """
    from linguarec.data.readers.online_retail import read_online_retail

    return prepare_folder(
        "online-retail",
        {"log": log.name, "encoding": encoding},
        lambda engine, scratch: read_online_retail(engine, scratch, log, encoding, lower=text_rules == "released"),
        _filters(k_core, ties, seed, duplicates, "log", False, memory),
        text_rules,
        output,
        held_out_share,
        overwrite,
    )


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
    overwrite: bool = False,
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
        memory: memory limit of the database, which spills to disk beyond it
        overwrite: replace the output folder if it exists
    """
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
        duplicates = _duplicates_without_times(duplicates, str(log_source))

    def read(engine: "Engine", scratch: Path) -> "Source":
        items_file = None if items_source is None else items_source.file(scratch)
        with naming_tables(scratch):
            return read_table(engine, scratch, log_source.file(scratch), items_file, columns, encoding)

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
        _filters(k_core, ties, seed, duplicates, catalogue, items_without_metadata == "drop", memory),
        text_rules,
        Path(output),
        held_out_share,
        overwrite,
    )


def prepare_atomic(
    source: Path,
    output: Path,
    name: str | None = None,
    k_core: int = 0,
    ties: Ties = "file",
    text_rules: TextRules = "default",
    duplicates: Duplicates = "identical",
    catalogue: Catalogue = "log",
    time_unit: TimeUnit = "seconds",
    vector_width: int = 768,
    held_out_share: float = 0.1,
    seed: int = 0,
    memory: str = "1500MB",
    overwrite: bool = False,
) -> Mapping[str, Any]:
    """Prepare RecBole's atomic files, or the benchmark files or pre-training files that UniSRec and VQ-Rec released.

    Benchmark files (NAME.train.inter and so on) are filtered and ordered already: they keep their item and user
    numbers, and their item vectors (NAME.feat1CLS) become features of the folder. Pre-training files (NAME.pt_datasets
    and so on) become one prepared folder a domain, with vectors, word-drop draw and, from a faiss index, codes.

    Args:
        source: folder with NAME.inter and NAME.item, or NAME.train.inter, NAME.item2index and so on, or NAME.pt_datasets
        output: the prepared folder to write; of pre-training files, the folder to write those of the domains into
        name: name of the data set, the part before the first dot of its file names; found by itself when there is one
        k_core: least number of interactions of a user and of an item; 0 keeps all (atomic files only)
        ties: order of interactions at the same time, as in the file or at random (atomic files only)
        text_rules: cleaning of the item texts; "released" repeats the published code
        duplicates: "identical" drops repeated rows, "first" also a user's later interactions with an item, "keep" none
        catalogue: "log" keeps the items that occur in the log, "all" keeps the others too (atomic files only)
        time_unit: unit of the times (atomic files only)
        vector_width: numbers in an item vector, which the files do not tell (pre-training files only)
        held_out_share: share of the items in the held-out-items split
        seed: seed of the random tie order and of the held-out items
        memory: memory limit of the database, which spills to disk beyond it
        overwrite: replace the output folder if it exists
    """
    from linguarec.commands.pretraining_files import prepare_pretraining
    from linguarec.data.readers import atomic, benchmark, pretraining

    check_settings(held_out_share, seed, k_core)
    name = name or atomic.find_name(source)
    if not atomic.is_benchmark(source, name):
        if not atomic.has_times(source, name):
            duplicates = _duplicates_without_times(duplicates, str(source / f"{name}.inter"))
        return prepare_folder(
            "atomic",
            {"source": source.name, "name": name, "time_unit": time_unit},
            lambda engine, scratch: atomic.read_atomic(engine, scratch, source, name, time_unit),
            _filters(k_core, ties, seed, duplicates, catalogue, False, memory),
            text_rules,
            output,
            held_out_share,
            overwrite,
        )
    if k_core > 1 or (ties, catalogue, duplicates, time_unit) != ("file", "log", "identical", "seconds"):
        raise SettingsError(
            [
                f"--k-core, --ties, --catalogue, --duplicates and --time-unit cannot be used here: {source}/{name}.*.inter are "
                "filtered and ordered already; leave them out."
            ]
        )
    if vector_width < 1:
        raise SettingsError([f"--vector-width is {vector_width}; a vector has at least 1 number."])
    if pretraining.is_pretraining(source, name):
        return prepare_pretraining(source, name, vector_width, output, held_out_share, seed, overwrite)

    @contextmanager
    def content(scratch: Path) -> "Iterator[Content]":
        yield benchmark.content(source, name, keep_blanks=text_rules == "released")

    return write_content(
        "atomic", {"source": source.name, "name": name}, content, text_rules, output, held_out_share, seed, overwrite
    )


def prepare_recformer(
    source: Path,
    output: Path,
    text_rules: TextRules = "default",
    held_out_share: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
) -> PrepareResult:
    """Prepare the JSON files that the released Recformer fine-tunes on; they are filtered, ordered and numbered already.

    Args:
        source: folder with train.json, val.json, test.json, smap.json, umap.json and meta_data.json
        output: the prepared folder to write
        text_rules: cleaning of the item texts; "released" repeats the published code
        held_out_share: share of the items in the held-out-items split
        seed: seed of the held-out items
        overwrite: replace the output folder if it exists
    """
    from linguarec.data.readers import recformer
    from linguarec.text.cleaning import item_text

    check_settings(held_out_share, seed)

    @contextmanager
    def content(scratch: Path) -> "Iterator[Content]":
        yield recformer.content(source, lambda values: item_text(values, text_rules).text)

    arguments = {"source": source.name}
    return write_content("recformer", arguments, content, text_rules, output, held_out_share, seed, overwrite)


def _duplicates_without_times(duplicates: Duplicates, interactions: str) -> Duplicates:
    """What becomes of `duplicates` where rows have no time: nothing tells a repeated row from a repeated visit."""
    if duplicates != "identical":
        return duplicates
    log.warning(
        "%s is read without times, so that a repeated row may be a repeated visit: all rows stay, as with --duplicates keep "
        "and not identical; --duplicates first leaves one row for each user and item.",
        interactions,
    )
    return "keep"


def _filters(
    k_core: int,
    ties: Ties,
    seed: int,
    duplicates: Duplicates,
    catalogue: Catalogue,
    drop_without_metadata: bool,
    memory: str,
) -> "FilterSettings":
    from linguarec.data.preparation import FilterSettings

    return FilterSettings(k_core, ties, seed, duplicates, catalogue, drop_without_metadata, memory)
