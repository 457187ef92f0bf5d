"""Window attention: blocks give what a dense mask gives, a sequence alone what it gives among others."""

import math

import pytest
import torch
from torch import Tensor

from linguarec.families.recformer.near_attention import attend_near
from linguarec.families.recformer.window_attention import WindowAttention, WindowLayout

WIDTH, HEADS = 24, 3


def attention(dropout: float = 0.0) -> WindowAttention:
    torch.manual_seed(0)
    made = WindowAttention(WIDTH, HEADS, dropout)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def run(made: WindowAttention, tokens: Tensor, lengths: list[int], reach: int) -> Tensor:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    layout = WindowLayout.of(offsets, reach)
    return layout.ragged.from_blocks(made(layout.ragged.to_blocks(tokens), layout))


def dense(made: WindowAttention, tokens: Tensor, reach: int) -> Tensor:
    """One sequence [L, D] by the definition: all projections of all tokens, a full mask, the first row overwritten."""
    length = len(tokens)

    def heads(projected: Tensor) -> Tensor:
        return projected.view(length, HEADS, -1).transpose(0, 1)

    def mix(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        logits = (query @ key.transpose(1, 2) / math.sqrt(WIDTH // HEADS)).masked_fill(~seen, -math.inf)
        return (logits.softmax(-1) @ value).transpose(0, 1).reshape(length, -1)

    place = torch.arange(length)
    near = (place[:, None] - place).abs() <= reach
    near[:, 0] = True
    local = mix(*(heads(part) for part in made.query_key_value(tokens).chunk(3, -1)), near)
    projections = (made.global_query, made.global_key, made.global_value)
    everything = mix(*(heads(part(tokens)) for part in projections), torch.ones_like(near))
    return made.output(torch.cat([everything[:1], local[1:]]))


@pytest.mark.parametrize("reach", [1, 2, 4, 16])
@torch.no_grad()
def test_blocks_equal_a_dense_mask_at_lengths_around_multiples_of_the_reach(reach: int) -> None:
    made = attention()
    lengths = sorted(
        {max(1, k * reach + d) for k in (0, 1, 2, 3, 5) for d in (-1, 0, 1, 2, 3)}, key=lambda n: n * 7 % 11
    )
    tokens = torch.randn(sum(lengths), WIDTH)
    found = run(made, tokens, lengths, reach).split(lengths)
    for sequence, states in zip(tokens.split(lengths), found, strict=True):
        torch.testing.assert_close(states, dense(made, sequence, reach), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(run(made, sequence, [len(sequence)], reach), states, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_dense_mask() -> None:
    made, reach, lengths = attention(), 3, [17, 2, 5, 9, 5]
    tokens = torch.randn(sum(lengths), WIDTH, requires_grad=True)
    weight = torch.randn(sum(lengths), WIDTH)

    def gradients(states: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((states * weight).sum(), [tokens, *made.parameters()]))

    expected = gradients(torch.cat([dense(made, sequence, reach) for sequence in tokens.split(lengths)]))
    for found, exact in zip(gradients(run(made, tokens, lengths, reach)), expected, strict=True):
        torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_pooling_is_the_first_row_of_each_sequence() -> None:
    made, lengths = attention(), [30, 4, 1, 11]
    tokens = torch.randn(sum(lengths), WIDTH)
    layout = WindowLayout.of(torch.tensor([0, *lengths]).cumsum(0), 4)
    pooled = made.pool(layout.ragged.to_blocks(tokens), layout)[layout.place]
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    torch.testing.assert_close(pooled, run(made, tokens, lengths, 4)[starts], atol=1e-5, rtol=1e-5)


def test_dropout_keeps_the_mean() -> None:
    """With dropout, short and long sequences agree on average with what they are without."""
    made, lengths = attention(dropout=0.2), [3, 12]
    tokens = torch.randn(sum(lengths), WIDTH)
    exact = run(made, tokens, lengths, 2).detach()
    made.train()
    draws = torch.stack([run(made, tokens, lengths, 2).detach() for _ in range(2000)])
    assert draws.std(0).min() > 0.01
    torch.testing.assert_close(draws.mean(0), exact, atol=0.1, rtol=0)


def test_bfloat16_has_nearly_the_same_states_and_gradients() -> None:
    made, lengths = attention(), [17, 2, 5, 40, 5]
    tokens = torch.randn(sum(lengths), WIDTH)

    def states_and_gradients() -> list[Tensor]:
        states = run(made, tokens, lengths, 3).float()
        return [states.detach(), *torch.autograd.grad(states.square().sum(), list(made.parameters()))]

    exact = states_and_gradients()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = states_and_gradients()
    names = ["states", *dict(made.named_parameters())]
    for name, found, expected in zip(names, rounded, exact, strict=True):
        if name != "global_key.bias":  # its gradient is zero but for rounding
            assert (found - expected).norm() < 0.05 * expected.norm(), name


def test_bfloat16_keeps_gradients_of_nearly_even_weights() -> None:
    """Where all keys are about alike, the gradient of a logit is a small difference, which must not be rounded away."""
    made, lengths = attention(), [60, 30]
    tokens = torch.randn(WIDTH) + 0.1 * torch.randn(sum(lengths), WIDTH)
    weight = torch.randn_like(tokens)

    def of_queries_and_keys() -> Tensor:
        (found,) = torch.autograd.grad(
            (run(made, tokens, lengths, 8).float() * weight).sum(), [made.query_key_value.weight]
        )
        return found[: 2 * WIDTH]

    exact = of_queries_and_keys()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = of_queries_and_keys()
    assert (rounded - exact).norm() < 0.4 * exact.norm()


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token in each"):
        WindowLayout.of(torch.tensor([0, 3, 3]), 2)


def test_what_a_gpu_runs_gives_what_the_chunks_of_a_cpu_give() -> None:
    made, lengths = attention(), [17, 9, 40]
    layout = WindowLayout.of(torch.tensor([0, *lengths]).cumsum(0), 3)
    assert layout.windows is not None
    parts = torch.randn(sum(lengths), 3, HEADS, WIDTH // HEADS, requires_grad=True)
    weight = torch.randn(sum(lengths), WIDTH)
    expected, found = made._in_windows(parts, layout.windows), attend_near(parts, layout.windows, 0.0).flatten(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((states * weight).sum(), parts)[0] for states in (expected, found)]
    assert gradients[0].norm() > 1
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_gradients_with_dropout_are_those_of_the_same_draws() -> None:
    """Along a direction, the gradient is the slope that the outputs show when the same weights are dropped."""
    made, lengths = attention(dropout=0.3).train(), [19, 40, 7]
    tokens = torch.randn(sum(lengths), WIDTH)
    weight, direction = torch.randn_like(tokens), torch.randn_like(tokens)

    def value(at: Tensor) -> Tensor:
        torch.manual_seed(7)
        return (run(made, at, lengths, 3) * weight).sum()

    moved = tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(moved), moved)
    with torch.no_grad():
        slope = (value(tokens + 1e-2 * direction) - value(tokens - 1e-2 * direction)) / 2e-2
        torch.testing.assert_close(value(tokens), value(moved.detach()))
    torch.testing.assert_close((gradient * direction).sum(), slope, atol=0.02, rtol=5e-3)
