"""Sequence encoders: the states after the last items alone are those of the whole forward pass."""

import itertools

import pytest
import torch

from linguarec.nn.encoders import EncoderConfig, GRUConfig, PoolingConfig, TransformerConfig, build_encoder
from linguarec.nn.ragged import RaggedLayout

_OFFSETS = {"any order": [0, 4, 5, 12, 14, 18], "by length": [0, 1, 3, 7, 11], "one": [0, 6], "of one item": [0, 1, 2]}


@pytest.mark.parametrize("offsets", _OFFSETS.values(), ids=_OFFSETS)
@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(12, 3, 2, 8),
        TransformerConfig(12, 3, 2, 8, positions="none"),
        GRUConfig(12, 2, 8),
        PoolingConfig(12, 8),
    ],
    ids=["transformer", "no positions", "gru", "pooling"],
)
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


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_transformer_that_reads_both_ways_sees_the_whole_sequence_and_no_other(training: bool) -> None:
    """In training with a dropout of next to nothing, which takes the direct form of the attention on a CPU."""
    torch.manual_seed(0)
    encoder = build_encoder(TransformerConfig(12, 2, 2, 8, dropout=0.0, attention_dropout=1e-9)).train(training)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ends = torch.tensor([0, 4, 9])
    inputs, positions = torch.randn(9, 12), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])
    with torch.no_grad():
        whole = encoder(inputs, positions, ends, causal=False)
        alone = encoder(inputs[4:], positions[4:], ends[1:] - 4, causal=False)
        last = encoder(inputs, positions, ends, only_last=True, causal=False)
        inputs[8] = torch.randn(12)
        changed = encoder(inputs, positions, ends, causal=False)
        causal = encoder(inputs, positions, ends)
    torch.testing.assert_close(whole[4:], alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, whole[ends[1:] - 1], rtol=1e-5, atol=1e-6)
    assert torch.equal(changed[:4], whole[:4])
    assert (changed[4:] - whole[4:]).abs().amax(dim=-1).min() > 1e-3
    assert (causal[4:8] - changed[4:8]).abs().amax(dim=-1).min() > 1e-3


def test_both_ways_without_positions_a_sequence_is_a_set() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(TransformerConfig(12, 2, 2, 8, positions="none")).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    inputs, positions, ends = torch.randn(5, 12), torch.arange(5), torch.tensor([0, 5])
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.inference_mode():
        states = encoder(inputs, positions, ends, causal=False)
        of_others = encoder(inputs[order], positions, ends, causal=False)
        causal = [
            encoder(inputs[each], positions, ends)[-1] for each in (torch.arange(5), torch.tensor([1, 0, 2, 3, 4]))
        ]
    torch.testing.assert_close(of_others, states[order], rtol=1e-5, atol=1e-6)
    assert (causal[0] - causal[1]).abs().max() > 1e-4  # the second layer reads which of the two came first


def test_positions_are_learned_or_none() -> None:
    with pytest.raises(ValueError, match="positions is 'sinusoidal'; it must be learned or none"):
        TransformerConfig(positions="sinusoidal")  # type: ignore[arg-type]


def test_attention_both_ways_is_the_softmax_over_all_places() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(4, 1, 1, 8, dropout=0.0)
    attention = build_encoder(config).layers[0].attention.eval()
    tokens = torch.randn(3, 4)
    query, key, value = attention.query_key_value(tokens).chunk(3, dim=1)
    expected = attention.output((query @ key.T / 2).softmax(-1) @ value)
    found = attention(tokens, RaggedLayout.of(torch.tensor([0, 3])), causal=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_pooling_is_the_mean_of_the_items_so_far_and_a_feed_forward_layer() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(PoolingConfig(4, 6, dropout=0.0)).train()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    inputs = torch.randn(5, 4)
    with torch.no_grad():
        found = encoder(inputs, torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 2, 5]))
        means = torch.stack([inputs[0], inputs[:2].mean(0), inputs[2], inputs[2:4].mean(0), inputs[2:].mean(0)])
        pooled = encoder.input_norm(means)
        expected = encoder.outer_norm(pooled + encoder.outer(torch.nn.functional.gelu(encoder.inner(pooled))))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_pooling_leaves_whole_items_out_in_training() -> None:
    """A state is that of some subset of the items, each scaled alike; the norm takes the scale out."""
    torch.manual_seed(0)
    encoder = build_encoder(PoolingConfig(4, 6, dropout=0.5))
    inputs, positions, ends = torch.randn(3, 4), torch.arange(3), torch.tensor([0, 3])
    with torch.no_grad():
        subsets = [
            encoder.eval()(inputs[list(some)], positions[: len(some)], torch.tensor([0, len(some)]))[-1]
            for number in (1, 2, 3)
            for some in itertools.combinations(range(3), number)
        ]
        subsets.append(encoder(torch.zeros(1, 4), positions[:1], torch.tensor([0, 1]))[0])
        encoder.train()
        seen = set()
        for _ in range(40):
            state = encoder(inputs, positions, ends)[-1]
            distances = torch.stack([(state - each).abs().max() for each in subsets])
            assert distances.min() < 1e-4
            seen.add(int(distances.argmin()))
    assert len(seen) > 5


@pytest.mark.parametrize(
    ("config", "what"), [(GRUConfig(12, 1, 8), "a GRU"), (PoolingConfig(12, 8), "pooling")], ids=["gru", "pooling"]
)
def test_only_the_transformer_reads_both_ways(config: EncoderConfig, what: str) -> None:
    with pytest.raises(ValueError, match=f"{what} reads from left to right only"):
        build_encoder(config)(torch.randn(2, 12), torch.arange(2), torch.tensor([0, 2]), causal=False)
