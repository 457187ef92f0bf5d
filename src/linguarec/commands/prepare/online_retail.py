"""`prepare online-retail`: the log of UCI Online Retail."""

from pathlib import Path

from linguarec.commands.prepare.writing import Duplicates, Encoding, PrepareResult, TextRules, Ties, prepare_folder


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
    discard: bool = False,
    large_archives: bool = False,
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
        discard: with --overwrite, also throw away vectors, codes and tokens that other commands stored in the folder
        large_archives: read packed files that unpack to more than 2 GiB and 200 times their size
    """
    from linguarec.data.engine import EngineChoice
    from linguarec.data.preparation import FilterSettings
    from linguarec.data.readers.online_retail import read_online_retail

    return prepare_folder(
        "online-retail",
        {"log": log.name, "encoding": encoding},
        lambda engine, scratch: read_online_retail(engine, scratch, log, encoding, lower=text_rules == "released"),
        FilterSettings(k_core, ties, seed, duplicates, "log", False, EngineChoice(memory=memory)),
        text_rules,
        output,
        held_out_share,
        overwrite,
        discard,
        large_archives,
    )
