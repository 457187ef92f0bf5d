"""The shop with a known repeat law: `learned` reaches the best possible score, with true scores and with a trained model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linguarec
from linguarec.commands.finetune import finetune
from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases, evaluation_cases
from linguarec.data.synthetic import TINY
from linguarec.data.synthetic_repeats import GROCER, STEPS, RepeatShop, generate_repeat_shop
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.stacking import fit_repeats
from linguarec.nn.encoders import TransformerConfig
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.repeats import BUCKETS
from linguarec.training.settings import TrainingSettings

SIZE = replace(TINY, new_items_per_taste=0, users=2_000, shortest=6, longest=30)
SMALL = TransformerConfig(hidden_size=32, inner_size=32, layers=1, max_length=20)
QUICK = TrainingSettings(
    max_epochs=6, learning_rate=5e-3, targets_per_step=2_000, accelerator="cpu", precision="fp32", stop_by="excluded"
)


@pytest.fixture(scope="module")
def shop() -> RepeatShop:
    return generate_repeat_shop(0, SIZE)


def cases_of(shop: RepeatShop, back: int) -> EvaluationCases:
    """The last interactions of the users (`back` 1), or those before."""
    lists = [shop.sequences[user] for user in range(len(shop.sequences))]
    return EvaluationCases(
        Ragged.from_lists([one[:-back].tolist() for one in lists]),
        np.array([one[-back] for one in lists], dtype=np.int32),
        np.arange(len(lists)),
    )


def true_scores(shop: RepeatShop) -> Part:
    """The oracle without the repeat law."""

    def queries(cases: EvaluationCases) -> Any:
        yield np.arange(len(cases)), torch.from_numpy(shop.logits(cases.histories, with_law=False)).float()

    return Part(DenseRanker(torch.eye(len(shop.shop.items))), queries)


def test_the_log_follows_the_law(shop: RepeatShop) -> None:
    assert STEPS == BUCKETS
    assert shop.repeated > 0.3
    cases = cases_of(shop, 1)
    law = np.exp(shop.logits(cases.histories))
    law /= law.sum(axis=1, keepdims=True)
    seen = np.zeros_like(law, dtype=bool)
    for row in range(len(cases)):
        seen[row, cases.histories[row]] = True
    taken = np.mean([target in cases.histories[row] for row, target in enumerate(cases.targets)])
    assert taken == pytest.approx((law * seen).sum(axis=1).mean(), abs=0.03)
    again = generate_repeat_shop(0, SIZE)
    assert np.array_equal(again.sequences.values, shop.sequences.values)
    with pytest.raises(ValueError, match="new_items_per_taste 0"):
        generate_repeat_shop(0, TINY)


def test_the_term_is_found_and_reaches_the_best_possible_score(shop: RepeatShop) -> None:
    part, valid, test = true_scores(shop), cases_of(shop, 2), cases_of(shop, 1)
    term = fit_repeats(part, valid)
    assert term is not None
    base = shop.logits(test.histories, with_law=False)
    best = shop.expected_ndcg(shop.logits(test.histories), test.histories)
    learned = base.copy()
    query, items, steps = test.histories.last_occurrences()
    learned[query, items] += np.array(term.values)[np.searchsorted(STEPS, steps)]
    without = base.copy()
    without[query, items] = -np.inf
    assert shop.expected_ndcg(learned, test.histories) > 0.99 * best
    assert shop.expected_ndcg(base, test.histories) < 0.9 * best  # kept, without the term
    assert shop.expected_ndcg(without, test.histories) < 0.9 * best  # excluded


def test_a_trained_model_with_its_term_reaches_what_it_could_with_the_true_law(
    shop: RepeatShop, make_dataset: Any, tmp_path: Path
) -> None:
    data = make_dataset(
        [shop.sequences[user].tolist() for user in range(len(shop.sequences))], num_items=len(shop.shop.items)
    )
    finetune("sasrec", data.path, tmp_path / "run", transformer=SMALL, training=QUICK, history_in_softmax="excluded")
    model = linguarec.load_model(tmp_path / "run")
    cases = evaluation_cases(data.sequences, data.roles("leave-one-out"), "test")
    _, best = model.best_entries(cases.histories, len(shop.shop.items), exclude_seen=False)
    scores = np.empty((len(cases), len(shop.shop.items)))
    np.put_along_axis(scores, best.rows, best.scores.astype(float), axis=1)
    query, items, steps = cases.histories.last_occurrences()
    assert model.repeats is not None
    reached = {}
    for name, law in (("learned", model.repeats.values), ("true", GROCER)):
        adjusted = scores.copy()
        adjusted[query, items] += np.array(law)[np.searchsorted(STEPS, steps)]
        reached[name] = shop.expected_ndcg(adjusted, cases.histories)
    assert reached["learned"] > 0.99 * reached["true"]
    assert reached["learned"] > 0.9 * shop.expected_ndcg(shop.logits(cases.histories), cases.histories)
    assert shop.expected_ndcg(scores, cases.histories) < reached["learned"]
