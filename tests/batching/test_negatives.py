"""Classes drawn for a step: which they are, what they stand for, what the draw depends on."""

import math

import numpy as np
import pytest
import torch

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.negatives import NegativeSampling, StepClasses

TARGETS = np.array([7, 3, 7, 95])


def test_targets_stand_for_themselves_and_the_rest_for_those_left_out() -> None:
    step = StepClasses.draw(TARGETS, 100, 20, seed=1, step=5)
    assert np.array_equal(step.classes, np.unique(step.classes))
    assert np.array_equal(step.classes[step.place(TARGETS)], TARGETS)
    assert 20 <= len(step.classes) <= 23
    of_targets = np.isin(step.classes, TARGETS)
    assert of_targets.sum() == 3
    assert np.all(step.log_weights[of_targets] == 0)
    assert step.log_weights[~of_targets] == pytest.approx(math.log(5))


def test_all_of_them_stand_for_themselves() -> None:
    step = StepClasses.draw(TARGETS, 100, 100, seed=1, step=5)
    assert np.array_equal(step.classes, np.arange(100))
    assert not step.log_weights.any()


def test_the_draw_follows_from_seed_and_step_and_not_from_the_targets() -> None:
    def drawn(seed: int, step: int, targets: list[int]) -> set[int]:
        chosen = StepClasses.draw(np.array(targets), 1000, 50, seed, step)
        return set(chosen.classes[chosen.log_weights > 0].tolist())

    first = drawn(1, 5, [0])
    assert drawn(1, 5, [0]) == first
    assert drawn(1, 5, [999]) - first <= {0}
    assert len(drawn(1, 6, [0]) & first) < 15 > len(drawn(2, 5, [0]) & first)


@pytest.mark.parametrize("drawn", [10, 60])
def test_the_weighted_sum_is_that_over_all_classes_in_expectation(drawn: int) -> None:
    values = np.random.default_rng(0).random(100) ** 4
    values[TARGETS] *= 20  # that the targets are always there must not count twice
    sums = []
    for step in range(4000):
        chosen = StepClasses.draw(TARGETS, 100, drawn, seed=0, step=step)
        sums.append(values[chosen.classes] @ np.exp(chosen.log_weights))
    assert np.mean(sums) == pytest.approx(values.sum(), abs=4 * np.std(sums) / math.sqrt(len(sums)))


def test_a_batch_is_numbered_anew_by_its_sample() -> None:
    """Items, targets and pairs mean the same classes as before; hidden places and absent targets stay -1."""
    items, targets = torch.tensor([40, 7, -1, 90]), torch.tensor([7, -1, 3, 90])
    excluded = torch.tensor([[0, 40], [3, 40], [3, 7], [3, 90]])
    zeros = torch.zeros(1, dtype=torch.int64)
    batch = SequenceBatch(items, torch.tensor([0, 4]), torch.arange(4), targets, zeros, zeros, excluded=excluded)
    step = StepClasses.draw(np.array([40, 7, 90, 7, 3, 90]), 100, 20, seed=1, step=5)
    found = step.as_items_of(batch, calibration=0.5)
    classes = torch.from_numpy(step.classes)
    for before, after in ((items, found.items), (targets, found.targets)):
        assert torch.equal(torch.where(after < 0, -1, classes[after]), before)
    assert found.excluded is not None
    assert torch.equal(found.excluded[:, 0], excluded[:, 0])
    assert torch.equal(classes[found.excluded[:, 1]], excluded[:, 1])
    sample = found.sample
    assert sample is not None
    assert (sample.share, sample.calibration, int(sample.drawn.sum())) == (0.2, 0.5, 20)
    assert classes[sample.certain].tolist() == [3, 7, 40, 90]
    assert bool((sample.certain | sample.drawn).all())
    assert torch.equal(sample.log_weights, torch.from_numpy(step.log_weights))


def test_no_more_are_drawn_than_there_are() -> None:
    step = NegativeSampling(1000, seed=0, calibration=0.75).draw(TARGETS, 100, step=0)
    assert step.share == 1
    assert np.array_equal(step.classes, np.arange(100))
    assert step.drawn.all()
