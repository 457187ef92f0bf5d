"""`prepare recformer`: the JSON files that the released Recformer fine-tunes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from linguarec.commands.prepare.writing import PrepareResult, TextRules, check_settings, write_content

if TYPE_CHECKING:
    from linguarec.data.folder import Content


def prepare_recformer(
    source: Path,
    output: Path,
    text_rules: TextRules = "default",
    held_out_share: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
    discard: bool = False,
) -> PrepareResult:
    """Prepare the JSON files that the released Recformer fine-tunes on; they are filtered, ordered and numbered already.

    Args:
        source: folder with train.json, val.json, test.json, smap.json, umap.json and meta_data.json
        output: the prepared folder to write
        text_rules: cleaning of the item texts; "released" repeats the published code
        held_out_share: share of the items in the held-out-items split
        seed: seed of the held-out items
        overwrite: replace the output folder if it exists
        discard: with --overwrite, also throw away vectors, codes and tokens that other commands stored in the folder
    """
    from linguarec.data.readers import recformer
    from linguarec.text.cleaning import item_text

    check_settings(held_out_share, seed)

    @contextmanager
    def content(scratch: Path) -> "Iterator[Content]":
        yield recformer.content(source, lambda values: item_text(values, text_rules).text)

    arguments = {"source": source.name}
    return write_content("recformer", arguments, content, text_rules, output, held_out_share, seed, overwrite, discard)
