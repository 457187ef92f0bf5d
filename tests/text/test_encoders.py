"""Batches by length and the choice of precision; vectors themselves are tested with the recipe."""

import numpy as np
import pytest
import torch

from linguarec.text.encoders import batches_by_length, choose_precision


def test_batches_fill_the_budget_longest_first() -> None:
    lengths = np.array([3, 10, 4, 4, 2, 9])
    batches = [batch.tolist() for batch in batches_by_length(lengths, budget=12)]
    assert batches == [[1], [5], [2, 3, 0], [4]]


def test_a_text_beyond_the_budget_is_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in batches_by_length(np.array([2, 50]), budget=8)] == [[1], [0]]


@pytest.mark.parametrize("flags", [" avx2 avx512_bf16 ", " amx_tile amx_bf16 "])
def test_auto_is_bf16_where_the_processor_multiplies_it(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import linguarec.text.encoders as encoders

    monkeypatch.setattr(encoders.Path, "is_file", lambda self: True)
    monkeypatch.setattr(encoders.Path, "read_text", lambda self: f"flags :{flags}")
    assert choose_precision("auto", torch.device("cpu")) == "bf16"
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    monkeypatch.setattr(encoders.Path, "read_text", lambda self: "flags : avx2")
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
