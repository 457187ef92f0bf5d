"""`prepare atomic`: atomic files of RecBole, and the files that UniSRec and VQ-Rec released."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.commands.prepare.writing import (
    Catalogue,
    Duplicates,
    TextRules,
    Ties,
    TimeUnit,
    check_settings,
    duplicates_without_times,
    prepare_folder,
    write_content,
)
from linguarec.errors import SettingsError

if TYPE_CHECKING:
    from linguarec.data.folder import Content


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
    discard: bool = False,
    large_archives: bool = False,
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
        discard: with --overwrite, also throw away vectors, codes and tokens that other commands stored in the folder
        large_archives: read packed files that unpack to more than 2 GiB and 200 times their size
    """
    from linguarec.commands.prepare.pretraining import prepare_pretraining
    from linguarec.data.engine import EngineChoice
    from linguarec.data.preparation import FilterSettings
    from linguarec.data.readers import atomic, benchmark, pretraining

    check_settings(held_out_share, seed, k_core)
    name = name or atomic.find_name(source)
    if not atomic.is_benchmark(source, name):
        if not atomic.has_times(source, name):
            duplicates = duplicates_without_times(duplicates, str(source / f"{name}.inter"))
        return prepare_folder(
            "atomic",
            {"source": source.name, "name": name, "time_unit": time_unit},
            lambda engine, scratch: atomic.read_atomic(engine, scratch, source, name, time_unit),
            FilterSettings(k_core, ties, seed, duplicates, catalogue, False, EngineChoice(memory=memory)),
            text_rules,
            output,
            held_out_share,
            overwrite,
            discard,
            large_archives,
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
        return prepare_pretraining(source, name, vector_width, output, held_out_share, seed, overwrite, discard)

    @contextmanager
    def content(scratch: Path) -> "Iterator[Content]":
        yield benchmark.content(source, name, keep_blanks=text_rules == "released")

    return write_content(
        "atomic",
        {"source": source.name, "name": name},
        content,
        text_rules,
        output,
        held_out_share,
        seed,
        overwrite,
        discard,
        large_archives,
    )
