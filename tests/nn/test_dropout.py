"""The cheap dropout has the law of the stock one."""

import pytest
import torch

from linguarec.nn.dropout import Dropout


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_drops_that_share_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    out = Dropout(probability)(torch.ones(1000, 1003))
    assert (out == 0).double().mean().item() == pytest.approx(probability, abs=2e-3)
    assert out.mean().item() == pytest.approx(1, abs=5e-3)
    kept = out[out > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - probability)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_nearly_everything_can_be_dropped(kind: torch.dtype) -> None:
    out = Dropout(0.9999999)(torch.ones(400_000, dtype=kind))
    assert 0 < (out > 0).sum() < 40
    assert out.max() == 65536


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(1_000_000)) > 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 64):
        assert abs(float((kept[lag:] * kept[:-lag]).mean())) < 1e-3


def test_repeats_with_the_seed_and_draws_anew_without() -> None:
    ones = torch.ones(1000)
    torch.manual_seed(1)
    first, second = Dropout(0.5)(ones), Dropout(0.5)(ones)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.5)(ones), first)
    assert not torch.equal(first, second)


def test_passes_the_gradient_of_what_was_kept() -> None:
    inputs = torch.ones(64, 7, requires_grad=True)
    out = Dropout(0.5)(inputs)
    out.sum().backward()
    assert torch.equal(inputs.grad, out.detach())


def test_does_nothing_when_evaluating() -> None:
    inputs = torch.randn(5, 3)
    assert Dropout(0.5).eval()(inputs) is inputs


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_refuses_what_is_no_probability(probability: float) -> None:
    with pytest.raises(ValueError, match="dropout probability"):
        Dropout(probability)
