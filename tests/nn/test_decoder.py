"""The decoder: attention to one vector is a linear map, and no position depends on later ones."""

import torch
from torch.nn import functional as F

from linguarec.nn.decoder import Decoder
from linguarec.nn.encoders import TransformerConfig, TransformerLayer
from linguarec.nn.ragged import RaggedLayout

CONFIG = TransformerConfig(hidden_size=8, heads=2, inner_size=12, layers=2, max_length=6, initializer_range=0.5)
OFFSETS = torch.tensor([0, 4, 5, 8])
POSITIONS = torch.cat([torch.arange(4), torch.arange(1), torch.arange(3)])


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG).eval()


@torch.no_grad()
def test_attention_to_one_vector_is_a_linear_map() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(CONFIG, reads_memory=True).eval()
    memory = torch.randn(8)
    attention = torch.nn.MultiheadAttention(8, 2, bias=True)
    copies = memory.expand(5, 8)  # the softmax over five copies of one key is uniform, whatever the query is
    attended, weights = attention(torch.randn(3, 8), copies, copies)
    torch.testing.assert_close(weights, torch.full((3, 5), 0.2))
    value = F.linear(memory, attention.in_proj_weight[16:], attention.in_proj_bias[16:])
    torch.testing.assert_close(attended, attention.out_proj(value).expand(3, 8))
    # The layer: the map of the given vector is added to what self-attention left.
    tokens = torch.randn(1, 8)
    layout = RaggedLayout.of(torch.tensor([0, 1]))
    read = layer.attention_norm(tokens + layer.attention(tokens, layout))
    read = layer.memory_norm(read + layer.memory(memory))
    expected = layer.outer_norm(read + layer.outer(F.gelu(layer.inner(read))))
    torch.testing.assert_close(layer(tokens, layout, memory=memory[None]), expected)


@torch.no_grad()
def test_no_position_depends_on_later_inputs_or_memory() -> None:
    made = decoder()
    inputs, memory = torch.randn(8, 8), torch.randn(8, 8)
    before = made(inputs, memory, POSITIONS, OFFSETS)
    for changed in (inputs, memory):
        changed[2] = torch.randn(8)  # the third of four positions of the first sequence
        after = made(inputs, memory, POSITIONS, OFFSETS)
        differs = (after - before).abs().amax(dim=1) > 1e-4
        assert differs.tolist() == [False, False, True, True, False, False, False, False]
        before = after


@torch.no_grad()
def test_the_last_states_alone() -> None:
    made = decoder()
    inputs, memory = torch.randn(8, 8), torch.randn(8, 8)
    every = made(inputs, memory, POSITIONS, OFFSETS)
    last = made(inputs, memory, POSITIONS, OFFSETS, only_last=True)
    torch.testing.assert_close(last, every[OFFSETS[1:] - 1])
