"""ZESRec: scores and losses of a world of two items, worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.pretraining import PretrainingBatch
from linguarec.families.zesrec.model import ZESRec, ZESRecConfig
from linguarec.nn.encoders import TransformerConfig, TransformerEncoder
from linguarec.nn.shape import CatalogueShape

# Two items with the text vectors (2, 0) and (0, 1), which the linear map leaves as they are.
ITEMS = ItemBatch(torch.arange(2), torch.zeros(2, dtype=torch.int64), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
# Two users: the first took item 0 and then item 1, the second item 1 and then item 0.
HISTORIES = SequenceBatch(
    items=torch.tensor([0, 1]),
    offsets=torch.tensor([0, 1, 2]),
    positions=torch.zeros(2, dtype=torch.int64),
    targets=torch.tensor([1, 0]),
    users=torch.tensor([0, 1]),
    domain=torch.zeros(2, dtype=torch.int64),
)
STEP = PretrainingBatch(ITEMS, HISTORIES, None, None, 0, 2)


@pytest.fixture
def model() -> ZESRec:
    """A model whose attention and feed-forward layers add nothing, so that a state is the normalised vector of its item."""
    encoder = TransformerEncoder(TransformerConfig(hidden_size=2, layers=1, heads=1, inner_size=2, max_length=3))
    made = ZESRec(ZESRecConfig(), CatalogueShape(2, feature_width=2), encoder).eval()
    silent = [encoder.position.weight, encoder.layers[0].attention.output.weight, encoder.layers[0].outer.weight]
    for weight in silent:
        nn.init.zeros_(weight)
    nn.init.eye_(made.adaptor.weight)
    return made


@torch.no_grad()
def test_scores_are_dot_products_without_temperature(model: ZESRec) -> None:
    """LayerNorm makes (2, 0) to (1, -1) and (0, 1) to (-1, 1): the scores are 2 and -1, and -2 and 1."""
    queries = model.queries(HISTORIES, model.item_inputs(ITEMS))
    torch.testing.assert_close(queries, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=1e-5, rtol=0)
    scores = queries @ model.item_keys(ITEMS).T
    torch.testing.assert_close(scores, torch.tensor([[2.0, -1.0], [-2.0, 1.0]]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_losses(model: ZESRec) -> None:
    """Each target scores 3 less than the other item: the cross-entropy is log(1 + e^3), over catalogue or targets alike."""
    expected = math.log(1 + math.exp(3))
    assert model.finetune_loss(HISTORIES, ITEMS).item() == pytest.approx(expected, abs=1e-5)
    assert model.pretrain_loss(STEP).item() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_targets_of_one_user_are_no_negatives_of_each_other(model: ZESRec) -> None:
    of_one = replace(STEP, sequences=replace(HISTORIES, users=torch.zeros(2, dtype=torch.int64)))
    assert model.pretrain_loss(of_one).item() == 0


@torch.no_grad()
def test_equal_rows_of_two_domains_are_different_items(model: ZESRec) -> None:
    """Both pairs have the row 0 as target: of one domain it is one item and no negative, of two domains it is two."""
    targets = replace(HISTORIES, targets=torch.tensor([1, 0]))
    one = replace(ITEMS, rows=torch.zeros(2, dtype=torch.int64))
    assert model.pretrain_loss(replace(STEP, items=one, sequences=targets)).item() == 0
    two = replace(one, domain=torch.tensor([0, 1]))
    loss = model.pretrain_loss(replace(STEP, items=two, sequences=targets)).item()
    assert loss == pytest.approx(math.log(1 + math.exp(3)), abs=1e-5)
