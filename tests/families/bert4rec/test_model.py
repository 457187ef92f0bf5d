"""BERT4Rec's queries, its bias, and what its loss reads."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.families.bert4rec.model import BERT4Rec, BERT4RecConfig, with_hidden_end
from linguarec.nn.encoders import GRUConfig, TransformerConfig, build_encoder
from linguarec.nn.shape import CatalogueShape

NUM_ITEMS, PLACES = 12, 6


@pytest.fixture
def model() -> BERT4Rec:
    torch.manual_seed(0)
    encoder = TransformerConfig(16, 2, 2, 16, max_length=PLACES, initializer_range=0.3)
    made = BERT4Rec(BERT4RecConfig(initializer_range=0.3), CatalogueShape(NUM_ITEMS), build_encoder(encoder))
    torch.nn.init.normal_(made.bias)
    return made.eval()


def catalogue(rows: list[int] | None = None) -> ItemBatch:
    found = torch.arange(NUM_ITEMS) if rows is None else torch.tensor(rows)
    return ItemBatch(found, torch.zeros_like(found))


def histories(*lists: list[int]) -> SequenceBatch:
    lengths = torch.tensor([len(items) for items in lists])
    items = torch.tensor([item for one in lists for item in one], dtype=torch.int64)
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    nobody = torch.zeros(len(lists), dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return SequenceBatch(items, offsets, positions, torch.full_like(items, -1), nobody, nobody)


@torch.no_grad()
def queries_of(model: BERT4Rec, *lists: list[int]) -> torch.Tensor:
    return model.queries(histories(*lists), model.item_inputs(catalogue()))


def test_one_hidden_place_stands_behind_each_history() -> None:
    asked = with_hidden_end(histories([3, 1], [], [0, 1, 2, 3, 4, 5], [7, 8, 9, 7, 8]), PLACES)
    assert asked.items.tolist() == [3, 1, -1, -1, 1, 2, 3, 4, 5, -1, 7, 8, 9, 7, 8, -1]
    assert asked.offsets.tolist() == [0, 3, 4, 10, 16]
    assert asked.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]


def test_the_first_item_of_a_short_history_is_read(model: BERT4Rec) -> None:
    """RecBole drops it whatever the length is."""
    found = queries_of(model, [3, 1, 4], [5, 1, 4], [1, 4])
    assert (found[0] - found[1]).abs().max() > 1e-2
    assert (found[0] - found[2]).abs().max() > 1e-2


def test_a_history_that_fills_all_places_loses_its_oldest_item(model: BERT4Rec) -> None:
    full, shorter = queries_of(model, [1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6])
    torch.testing.assert_close(full, shorter)


def test_an_empty_history_has_a_query(model: BERT4Rec) -> None:
    together = queries_of(model, [], [1, 2], [])
    assert bool(together.isfinite().all())
    torch.testing.assert_close(together[0], together[2])
    torch.testing.assert_close(queries_of(model, [])[0], together[0])


@torch.no_grad()
def test_the_bias_is_one_more_coordinate_and_a_new_item_has_no_key(model: BERT4Rec) -> None:
    keys, query = model.item_keys(catalogue()), queries_of(model, [3, 1, 4])[0]
    torch.testing.assert_close(keys @ query, model.item.weight @ query[:-1] + model.bias)
    assert torch.equal(model.item_keys(catalogue([-1])), torch.zeros(1, 17))


@torch.no_grad()
def test_the_loss_is_the_mean_over_hidden_places_and_equals_asking_behind_the_history(model: BERT4Rec) -> None:
    batch = histories([3, 1, -1], [7, -1])
    batch.targets[2], batch.targets[4] = 4, 9
    scores = queries_of(model, [3, 1], [7]) @ model.item_keys(catalogue()).T
    expected = F.cross_entropy(scores, torch.tensor([4, 9]))
    torch.testing.assert_close(model.finetune_loss(batch, catalogue()), expected)
    first = replace(batch, targets=torch.tensor([-1, -1, 4, -1, -1]))
    torch.testing.assert_close(model.finetune_loss(first, catalogue()), F.cross_entropy(scores[:1], torch.tensor([4])))


def test_a_batch_without_targets_has_a_loss_of_zero_with_gradients(model: BERT4Rec) -> None:
    loss = model.finetune_loss(histories([3, -1]), catalogue())
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_settings_out_of_range_and_another_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_share is 1; it must be .* below 1; last_share is 2; it must be in"):
        BERT4RecConfig(mask_share=1, last_share=2)
    with pytest.raises(ValueError, match="must be the Transformer"):
        BERT4Rec(BERT4RecConfig(), CatalogueShape(2), build_encoder(GRUConfig(8, 1, 8)))
