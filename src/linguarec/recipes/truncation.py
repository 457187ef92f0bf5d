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
    """How many items and histories are longer than the model reads, as the result of a command records it.

        {"items": {"over_256_tokens": 3}, "test_histories": {"over_50_items": 12, "over_256_tokens": 40}}

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
    """Say in one line what is cut, if anything is; one process of a training does."""
    said = []
    for what, counts in cut.items():
        shown = [f"{count:,} {over.replace('_', ' ')}" for over, count in counts.items() if count]
        if shown:
            said.append(f"{what.replace('_', ' ')}: {', '.join(shown)}")
    if said and is_main_process():
        log.warning("longer than the model reads, and cut: %s", "; ".join(said))


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {over: sum(each[over] for each in counts) for over in counts[0]}
