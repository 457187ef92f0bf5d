"""Arrays written in pieces."""

from pathlib import Path

import numpy as np
import pytest

from linguarec.data.npy import write_npy


def test_pieces_make_one_array(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    write_npy(file, np.int32, 5, [np.array([1, 2]), np.array([], np.int64), np.array([3, 4, 5])])
    loaded = np.load(file, mmap_mode="r")
    assert loaded.dtype == np.int32
    assert loaded.tolist() == [1, 2, 3, 4, 5]


def test_a_wrong_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 values were written where 3 were announced"):
        write_npy(tmp_path / "x.npy", np.int32, 3, [np.array([1, 2])])
