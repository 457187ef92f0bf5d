"""Sinkhorn as released, true permutations, a gradient that flows, and what re-ordering does to a code table."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from linguarec.families.vqrec.code_embedding import CodeEmbedding
from linguarec.families.vqrec.code_permutation import CodePermutation, assign, reorder, sinkhorn


def test_sinkhorn_is_the_released_one(released_outputs: Path) -> None:
    recorded = load_file(released_outputs / "vqrec_inductive_ft" / "io.safetensors")
    torch.testing.assert_close(sinkhorn(recorded["sinkhorn_in"], 3), recorded["sinkhorn_out"], atol=1e-5, rtol=1e-5)


def test_sinkhorn_comes_near_a_doubly_stochastic_matrix() -> None:
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = sinkhorn(logits, 50)
    torch.testing.assert_close(found.sum(1), torch.ones(3, 8), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.sum(2), torch.ones(3, 8), atol=1e-5, rtol=1e-5)


def test_the_assignment_is_the_best_permutation_of_each_book() -> None:
    logits = torch.tensor([[[3.0, 2.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    assert assign(logits).tolist() == [[1, 0], [0, 1]]  # 2 + 2 beats 3 + 0, though row 0 likes column 0 best
    large = torch.randn(5, 40, 40, generator=torch.Generator().manual_seed(1))
    assert assign(large).sort(dim=1).values.tolist() == [list(range(40))] * 5
    normalised = assign(sinkhorn(large, 3).log())
    assert torch.equal(assign(large), normalised)  # scaling rows and columns changes no assignment


def test_reordering_the_table_is_renumbering_the_codes() -> None:
    torch.manual_seed(0)
    codes, embedding = torch.randint(6, (20, 3)), CodeEmbedding(3, 6, 4, 1.0)
    order = torch.stack([torch.randperm(6) for _ in range(3)])
    renumbered = order[torch.arange(3), codes]
    expected = embedding(renumbered)
    with torch.no_grad():
        embedding.weight.copy_(reorder(embedding.weight, order))
    torch.testing.assert_close(embedding(codes), expected)


def test_forward_is_a_permutation_and_the_gradient_flows_to_every_book() -> None:
    torch.manual_seed(0)
    permutation, table = CodePermutation(3, 6, temperature=1.0, rounds=3), torch.randn(18, 4)
    with torch.no_grad():
        permutation.logits.copy_(torch.randn(3, 6, 6))
    moved = permutation(table)
    torch.testing.assert_close(moved, reorder(table, permutation.order()), atol=1e-6, rtol=1e-6)
    assert torch.equal(permutation.eval()(table), reorder(table, permutation.order()))
    (moved * torch.randn_like(moved)).sum().backward()
    assert permutation.logits.grad is not None
    assert permutation.logits.grad.abs().amax(dim=(1, 2)).min() > 1e-3


def test_it_begins_as_the_identity() -> None:
    assert CodePermutation(2, 4, 1.0, 3).order().tolist() == [[0, 1, 2, 3]] * 2
