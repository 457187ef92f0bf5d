"""How pre-training is validated: valid targets of each folder, ranked by a model that was not tuned on them."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import EvaluationCases, evaluation_cases
from linguarec.errors import DataFormatError
from linguarec.evaluation.evaluate import evaluating, rank_cases
from linguarec.recipes.runs import is_main_process
from linguarec.text.attributes import ItemTokens

log = logging.getLogger(__name__)
VALID_CASES = 2048  # targets that validation ranks in each folder


def valid_cases(
    datasets: Sequence[PreparedDataset],
    held_out: PreparedDataset | None,
    split: str,
    max_length: int,
    valid_users: int = 0,
) -> list[tuple[PreparedDataset, EvaluationCases]]:
    """What picks the best weights: `held_out` or, where that is None, those of `datasets` that have valid targets.

    Each with up to `valid_users` of its valid targets, 0 = `VALID_CASES`.

    Raises:
        DataFormatError: there are none.
    """
    parts, without = [], []
    for dataset in datasets if held_out is None else [held_out]:
        cases = evaluation_cases(dataset.sequences, dataset.roles(split), "valid", max_length)
        if len(cases):
            chosen = np.random.default_rng(0).permutation(len(cases))[: valid_users or VALID_CASES]
            parts.append((dataset, cases.select(np.sort(chosen))))
        else:
            without.append(str(dataset.path))
    if not parts:
        mend = (
            "name a domain that has some with --valid"
            if held_out is None
            else "name another domain with --valid, or leave --valid out: then the training domains choose"
        )
        raise DataFormatError(
            f"{', '.join(without)}: split {split!r} has no valid target to choose the best weights by; {mend}."
        )
    if without and is_main_process():
        log.warning(
            "%s: split %r has no valid target there; the best weights are chosen by the other folders alone",
            ", ".join(without),
            split,
        )
    return parts


def ranked_means(
    model: nn.Module, parts: Iterable[tuple[Tensor | ItemTokens, Tensor, EvaluationCases]]
) -> dict[str, float]:
    """The mean of each metric over the folders, each given as inputs and keys of its items and its cases.

    `contrast accuracy` is the share of targets that come first among the targets of all cases ranked.
    """
    found = []
    with evaluating(model), torch.inference_mode():
        for inputs, keys, cases in parts:
            means = rank_cases(model, inputs, keys, cases).means()
            among = rank_cases(model, inputs, keys, cases, within=np.unique(cases.targets))
            found.append({**means, "contrast accuracy": among.mean("recall@1")})
    return {name: float(np.mean([means[name] for means in found])) for name in found[0]}
