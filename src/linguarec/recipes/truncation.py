"""What a model of tokens leaves out of histories and items: counted by its own limits, logged, recorded with the result."""

import logging
from collections.abc import Mapping, Sequence

from linguarec.batching.tokens import cut_histories, cut_items
from linguarec.data.ragged import Ragged
from linguarec.models.recformer import RecformerConfig
from linguarec.recipes.runs import is_main_process
from linguarec.text.attributes import ItemTokens

log = logging.getLogger(__name__)


def count_cut(
    config: RecformerConfig,
    catalogues: Sequence[ItemTokens],
    histories: Mapping[str, Sequence[tuple[ItemTokens, Ragged]]],
) -> dict[str, dict[str, int]]:
    """How many items and histories are longer than the model reads, or empty, as the result of a command records it.

        {"items": {"over_256_tokens": 3}, "test_histories": {"over_50_items": 12, "over_256_tokens": 40, "without_text": 0}}

    Args:
        config: of the model; its limits count.
        catalogues: the items that are encoded.
        histories: train, valid, test -> the longest history of each user or that of each target, with the tokens of its items.
    """
    items, tokens = config.max_items, config.max_tokens
    cut = {"items": _sum([cut_items(of_folder.lengths, tokens) for of_folder in catalogues])}
    for part, of_part in histories.items():
        cut[f"{part}_histories"] = _sum([cut_histories(read.lengths, one, items, tokens) for read, one in of_part])
    return cut


def log_cut(cut: Mapping[str, Mapping[str, int]]) -> None:
    """Say in a line each what is cut and what has no text, if anything has; one process of a training does."""
    too_long, without_text = [], []
    for what, counts in cut.items():
        name = what.replace("_", " ")
        shown = [
            f"{count:,} {over.replace('_', ' ')}" for over, count in counts.items() if count and over != "without_text"
        ]
        if shown:
            too_long.append(f"{name}: {', '.join(shown)}")
        if counts.get("without_text"):
            without_text.append(f"{name}: {counts['without_text']:,}")
    if too_long and is_main_process():
        log.warning("longer than the model reads, and cut: %s", "; ".join(too_long))
    if without_text and is_main_process():
        log.warning("of items without any text alone, and therefore all read alike: %s", "; ".join(without_text))


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {over: sum(each[over] for each in counts) for over in counts[0]}
