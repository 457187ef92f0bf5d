"""Sequences in flat arrays."""

import numpy as np
import pytest

from linguarec.data.ragged import Ragged


def test_rows_are_counted_from_either_end() -> None:
    ragged = Ragged.from_lists([[1, 2], [], [3]])
    assert [row.tolist() for row in ragged] == [[1, 2], [], [3]]
    assert ragged[-1].tolist() == [3]
    assert ragged[np.int64(-3)].tolist() == [1, 2]
    for row in (3, -4):
        with pytest.raises(IndexError, match=f"row {row} of 3 sequences"):
            ragged[row]


def test_without_last_keeps_empty_sequences() -> None:
    ragged = Ragged.from_lists([[1, 2], [], [3]]).without_last()
    assert [row.tolist() for row in ragged] == [[1], [], []]
