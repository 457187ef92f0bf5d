"""Several catalogues as one: consecutive numbers, the rows and draws of each source, in any order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from linguarec.codes.codebook import CodeBook
from linguarec.data.features import UNKNOWN, FeatureInfo
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.ids import IdSource
from linguarec.sources.joined import JoinedItems

SIZES = (3, 5, 2)
INFO = FeatureInfo(UNKNOWN, 2, UNKNOWN, None, None, UNKNOWN)


def embedded(number: int, draws: int) -> EmbeddingSource:
    """Vectors (source, row) of draw 0, and (source, row) + 100 * draw of the others."""
    rows = np.arange(SIZES[number])
    vectors = np.stack([np.full_like(rows, number), rows], axis=1).astype(np.float32)
    return EmbeddingSource(Path("x"), INFO, vectors, [vectors + 100 * draw for draw in range(1, draws + 1)])


@pytest.fixture
def joined() -> JoinedItems:
    return JoinedItems([embedded(number, draws) for number, draws in enumerate((2, 3, 2))])


def test_numbers_are_consecutive_and_parts_come_in_any_order(joined: JoinedItems) -> None:
    assert (len(joined), joined.first_item.tolist()) == (10, [0, 3, 8, 10])
    numbers = np.array([9, 0, 3, 7, 2, 8, 3])
    part = joined.part(numbers)
    assert part.domain.tolist() == [2, 0, 1, 1, 0, 2, 1]
    assert part.rows.tolist() == [1, 0, 0, 4, 2, 0, 0]
    assert torch.equal(part.features, torch.stack([part.domain, part.rows], dim=1).float())


def test_each_item_is_read_by_its_draw(joined: JoinedItems) -> None:
    assert joined.num_draws == 2  # that all have
    numbers, draws = np.array([9, 0, 4, 1]), np.array([2, 0, 1, 2])
    part = joined.part(numbers, draws)
    assert part.features.tolist() == [[202, 201], [0, 0], [101, 101], [200, 201]]


def test_sources_that_nothing_is_asked_of_are_not_read(joined: JoinedItems) -> None:
    joined.sources[1].vectors = None  # type: ignore[attr-defined]
    part = joined.part(np.array([8, 9]))
    assert part.features.tolist() == [[2, 0], [2, 1]]


def test_an_empty_part_has_the_width_of_the_vectors(joined: JoinedItems) -> None:
    part = joined.part(np.zeros(0, np.int64))
    assert (len(part), part.features.shape) == (0, (0, 2))


def test_codes_and_rows_are_joined_too() -> None:
    book = CodeBook("pq", np.zeros((2, 4, 1), np.float32), None, None, "enc")
    codes = [np.array([[0, 1], [2, 3]], np.uint8), np.array([[3, 0]], np.uint8)]
    both = JoinedItems([CodeSource(Path("x"), each, book, None) for each in codes])
    part = both.part(np.array([2, 1]))
    assert part.features is None
    assert_array_equal(part.codes, [[3, 0], [2, 3]])
    part = JoinedItems([IdSource(Path("x"), 2), IdSource(Path("y"), 4)]).part(np.array([5, 1]))
    assert (part.rows.tolist(), part.domain.tolist(), part.features, part.codes) == ([3, 1], [1, 0], None, None)
