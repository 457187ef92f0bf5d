"""Vectors that are not finite are found whatever the size of the blocks, and counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linguarec.data import vectors as module
from linguarec.data.features import FeatureInfo
from linguarec.data.vectors import check_finite
from linguarec.errors import DataFormatError


def test_all_blocks_are_read_and_the_first_bad_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 12)  # four rows of three numbers
    values = np.arange(30, dtype=np.float64).reshape(10, 3)
    into = np.zeros((10, 3), np.float32)
    check_finite(values, Path("x.npy"), str, "Mend it.", into)
    assert into.tolist() == values.tolist()
    values[5, 1], values[6, 0], values[9, 2] = np.nan, -np.inf, 1e300  # the last one is beyond float32
    with pytest.raises(DataFormatError) as refused:
        check_finite(values, Path("x.npy"), lambda row: f"item i{row}", "Mend it.")
    expected = "x.npy: 3 of 10 item vectors hold NaN or an infinity, first that of row 5 (item i5). Mend it."
    assert str(refused.value) == expected


def test_a_folder_reads_each_file_once_to_check_it(make_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr("linguarec.data.dataset.check_finite", lambda *arguments: read.append(arguments[1].name))
    folder = make_dataset([[0, 1, 2]], features={"words": np.ones((3, 2), np.float32)})
    np.save(folder.path / "features" / "words.drop0.npy", np.ones((3, 2), np.float32))
    for _ in range(2):
        folder.features("words")
        folder.word_drop_draws("words")
    assert read == ["words.npy", "words.drop0.npy"]


def test_vectors_of_another_making_are_mended_another_way(make_dataset: Any) -> None:
    vectors = np.ones((3, 2), np.float32)
    vectors[2, 0] = np.inf
    folder = make_dataset([[0, 1, 2]], features={"words": vectors})
    with pytest.raises(
        DataFormatError, match=rf"1 of 3 item vector holds .* row 2 \(item 'i2'\)\. Encode again: .*{folder.path} "
    ):
        folder.features("words")
    folder.write_features("mine", vectors, FeatureInfo("org/words", 2, "mean", "0" * 64, None, "default"))
    with pytest.raises(DataFormatError, match=r"--encoder org/words --name mine --overwrite`\.$"):
        folder.load_features("mine")
    folder.write_features("feat1CLS", vectors, FeatureInfo("feat1CLS", 2, "cls", None, None, "released"))
    with pytest.raises(DataFormatError, match="They were imported: mend the file that they came from and prepare"):
        folder.features("feat1CLS")
