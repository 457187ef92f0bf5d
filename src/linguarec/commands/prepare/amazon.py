"""`prepare amazon-2014`, `amazon-2018`, `amazon-2023`: ratings or reviews, and metadata."""

from pathlib import Path
from typing import Literal

from linguarec.commands.prepare.writing import (
    Catalogue,
    Duplicates,
    EngineName,
    PrepareResult,
    TextRules,
    Ties,
    prepare_folder,
)


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
    engine: EngineName = "duckdb",
    master: str | None = None,
    overwrite: bool = False,
    discard: bool = False,
    large_archives: bool = False,
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
        memory: memory limit of the database, which spills to disk beyond it; of each of Spark's processes
        engine: the database: duckdb on this machine, or spark on a cluster, with the same result
        master: URL of the Spark master, such as spark://host:7077 or local[8] (default: that of Spark's own settings)
        overwrite: replace the output folder if it exists
        discard: with --overwrite, also throw away vectors, codes and tokens that other commands stored in the folder
        large_archives: read packed files that unpack to more than 2 GiB and 200 times their size
    """
    from linguarec.data.engine import EngineChoice
    from linguarec.data.preparation import FilterSettings
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
        lambda database, scratch: amazon.read_amazon(database, scratch, columns, ratings, meta, attributes),
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
        output,
        held_out_share,
        overwrite,
        discard,
        large_archives,
    )
