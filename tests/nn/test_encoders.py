"""Sequence encoders: the states after the last items alone are those of the whole forward pass."""

import itertools

import pytest
import torch

from linguarec.nn.encoders import EncoderConfig, GRUConfig, TransformerConfig, build_encoder

_OFFSETS = {"any order": [0, 4, 5, 12, 14, 18], "by length": [0, 1, 3, 7, 11], "one": [0, 6], "of one item": [0, 1, 2]}


@pytest.mark.parametrize("offsets", _OFFSETS.values(), ids=_OFFSETS)
@pytest.mark.parametrize("config", [TransformerConfig(12, 3, 2, 8), GRUConfig(12, 2, 8)], ids=["transformer", "gru"])
def test_states_after_the_last_items_alone_are_those_of_all(config: EncoderConfig, offsets: list[int]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(config).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ends = torch.tensor(offsets)
    inputs = torch.randn(offsets[-1], 12)
    positions = torch.cat([torch.arange(stop - start) for start, stop in itertools.pairwise(offsets)])
    with torch.inference_mode():
        whole = encoder(inputs, positions, ends)
        last = encoder(inputs, positions, ends, only_last=True)
    assert last.shape == (len(offsets) - 1, 12)
    torch.testing.assert_close(last, whole[ends[1:] - 1], rtol=1e-5, atol=1e-6)
