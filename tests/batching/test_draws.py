"""Named random numbers."""

import numpy as np

from linguarec.batching.draws import uniform


def test_draws_follow_their_names_and_nothing_else() -> None:
    together = uniform(3, np.arange(10)[:, None], np.arange(4))
    assert together.shape == (10, 4)
    alone = uniform(3, np.array([[7]]), np.arange(4))
    assert np.array_equal(together[7], alone[0])
    assert not np.array_equal(together, uniform(4, np.arange(10)[:, None], np.arange(4)))
    assert not np.array_equal(uniform(1, 2, np.arange(5)), uniform(2, 1, np.arange(5)))


def test_draws_are_uniform_and_do_not_hang_together() -> None:
    draws = uniform(0, np.arange(200)[:, None], np.arange(500))
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0] / draws.size
    assert np.abs(counts - 0.05).max() < 0.003  # 4 standard errors
    neighbours = [
        np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel()),
        np.corrcoef(draws[:-1].ravel(), draws[1:].ravel()),
    ]
    assert max(abs(each[0, 1]) for each in neighbours) < 0.013
