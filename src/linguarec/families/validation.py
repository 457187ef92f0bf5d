"""Validation of pre-training: ranks the valid targets of each folder with the model as it is."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import EvaluationCases, evaluation_cases
from linguarec.errors import DataFormatError
from linguarec.evaluation.evaluate import rank_cases
from linguarec.families.family import Request
from linguarec.processes import is_main_process
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.scorer import Scorer

log = logging.getLogger(__name__)
VALID_CASES = 2048  # targets to rank in each folder


def valid_cases(
    request: Request, max_length: int, valid_users: int = 0
) -> list[tuple[PreparedDataset, EvaluationCases]]:
    """The cases that select the best weights: of the validation folder, or else of the training folders with valid targets.

    Args:
        request: of the pre-training.
        max_length: longest history of a case.
        valid_users: most valid targets of each folder, 0 = `VALID_CASES`.

    Raises:
        DataFormatError: there are no cases.
    """
    held_out, split = request.valid, request.split
    parts, without = [], []
    for dataset in request.datasets if held_out is None else [held_out]:
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
    scorer: Scorer, parts: Iterable[tuple[Any, Tensor, EvaluationCases]], exclude_history: bool = False
) -> dict[str, float]:
    """The mean of each metric over the folders; each of the `parts` is the inputs, keys and cases of a folder.

    `exclude_history`: as in `rank_cases`, of all metrics but `contrast accuracy`, which is the fraction of cases whose own
    target scores highest among the targets of all ranked cases.
    """
    found = []
    for inputs, keys, cases in parts:
        ranker = DenseRanker(keys)
        means = rank_cases(scorer, inputs, ranker, cases, exclude_history=exclude_history).means()
        among = rank_cases(scorer, inputs, ranker, cases, within=np.unique(cases.targets))
        found.append({**means, "contrast accuracy": among.mean("recall@1")})
    return {name: float(np.mean([means[name] for means in found])) for name in found[0]}
