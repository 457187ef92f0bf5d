"""Recformer: its contract, on random weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from linguarec.batching.batches import ItemBatch, MaskedPairs, SequenceBatch, TokenBatch, TokenPairs
from linguarec.families.recformer.model import Recformer, RecformerConfig

CONFIG = RecformerConfig(
    vocabulary=50, hidden_size=24, layers=2, heads=3, inner_size=32, window=6, max_tokens=60, max_items=5, positions=60,
    first_position=0, dropout=0.0, attention_dropout=0.0, language_head=True,
)  # fmt: skip


@pytest.fixture
def model() -> Recformer:
    torch.manual_seed(0)
    made = Recformer(CONFIG)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def tokens(lengths: list[int], seed: int = 0) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    total = int(offsets[-1])
    ids = torch.randint(3, 50, (total,), generator=generator)
    types, positions = (
        torch.randint(1, 3, (total,), generator=generator),
        torch.randint(1, 6, (total,), generator=generator),
    )
    ids[offsets[:-1]] = types[offsets[:-1]] = positions[offsets[:-1]] = 0
    return TokenBatch(ids, types, positions, offsets)


def items(batch: TokenBatch) -> ItemBatch:
    return ItemBatch(torch.arange(len(batch)), torch.zeros(len(batch)).long(), tokens=batch)


def histories(batch: TokenBatch, targets: Tensor) -> SequenceBatch:
    none, people = torch.empty(0).long(), torch.zeros(len(batch)).long()
    return SequenceBatch(none, people, none, targets, people, people, batch)


def one(batch: TokenBatch, row: int) -> TokenBatch:
    part = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
    length = part.stop - part.start
    return TokenBatch(batch.ids[part], batch.types[part], batch.item_positions[part], torch.tensor([0, length]))


@torch.no_grad()
def test_a_sequence_alone_is_as_in_its_batch(model: Recformer) -> None:
    batch = tokens([30, 1, 7, 60, 4, 7, 5])
    together = model.encode(batch)
    for row in range(len(batch)):
        torch.testing.assert_close(model.encode(one(batch, row))[0], together[row], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, model.states(batch)[batch.offsets[:-1]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model.encode(TokenBatch.join([batch, batch])), torch.cat([together] * 2), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_keys_do_not_need_a_catalogue_and_are_zero_without_text(model: Recformer) -> None:
    batch = tokens([9, 1, 14])
    keys = model.item_keys(items(batch))
    torch.testing.assert_close(keys.norm(dim=-1), torch.tensor([20.0, 0.0, 20.0]))
    new = ItemBatch(torch.tensor([-1]), torch.zeros(1).long(), tokens=one(batch, 2))
    torch.testing.assert_close(model.item_keys(new)[0], keys[2], atol=1e-5, rtol=1e-5)
    empty = model.queries(histories(tokens([1]), torch.tensor([0])))
    torch.testing.assert_close(empty.norm(dim=-1), torch.ones(1))


@pytest.mark.parametrize("part", ["ids", "types", "item_positions"])
@torch.no_grad()
def test_every_part_of_the_input_counts(model: Recformer, part: str) -> None:
    batch = tokens([40])
    before = model.encode(batch)
    getattr(batch, part)[33] = 1 if getattr(batch, part)[33] != 1 else 2
    assert (model.encode(batch) - before).abs().max() > 1e-4


def pairs(model: Recformer) -> TokenPairs:
    left, right = tokens([20, 5, 33], 1), tokens([6, 9, 4], 2)
    sides = []
    for batch in (left, right):
        labels = torch.full_like(batch.ids, -1)
        labels[2::5] = batch.ids[2::5]
        ids = batch.ids.where(labels < 0, 2)
        sides.append((TokenBatch(ids, batch.types, batch.item_positions, batch.offsets), labels))
    (masked_left, left_labels), (masked_right, right_labels) = sides
    same, users = torch.tensor([0, 1, 0]), torch.arange(3)
    return TokenPairs(left, right, same, users, MaskedPairs(masked_left, masked_right, left_labels, right_labels))


@torch.no_grad()
def test_the_losses_of_pre_training_are_those_of_separate_passes(model: Recformer) -> None:
    given = pairs(model)
    contrast, words = model.pretrain_losses(given)
    left = torch.nn.functional.normalize(model.encode(given.histories), dim=-1)
    right = torch.nn.functional.normalize(model.encode(given.targets), dim=-1)
    logits = left @ right.T / CONFIG.temperature
    logits[0, 2] = logits[2, 0] = -torch.inf  # the same item
    torch.testing.assert_close(contrast, torch.nn.functional.cross_entropy(logits, torch.arange(3)))
    assert model.language_head is not None
    assert given.masked is not None
    expected, masked = torch.zeros(()), given.masked
    for batch, labels in ((masked.histories, masked.history_labels), (masked.targets, masked.target_labels)):
        states = model.language_head(model.states(batch))
        expected = expected + torch.nn.functional.cross_entropy(states, labels, ignore_index=-1)
    torch.testing.assert_close(words, expected, atol=1e-5, rtol=1e-5)


def test_pre_training_without_masked_words_or_without_a_head(model: Recformer) -> None:
    given = pairs(model)
    assert given.masked is not None
    none = torch.full_like(given.masked.history_labels, -1), torch.full_like(given.masked.target_labels, -1)
    nothing_masked = replace(given, masked=MaskedPairs(given.histories, given.targets, *none))
    contrast, words = model.pretrain_losses(nothing_masked)
    assert words is not None
    assert words.item() == 0
    model.language_head = None
    with pytest.raises(ValueError, match="language_head = True"):
        model.pretrain_loss(given)
    alone, no_words = model.pretrain_losses(replace(given, masked=None))
    assert no_words is None
    torch.testing.assert_close(alone, contrast)
    model.pretrain_loss(replace(given, masked=None)).backward()
    reached = {id(parameter) for parameter in model.finetuned_parameters()}
    assert {id(parameter) for parameter in model.parameters() if parameter.grad is not None} == reached


def test_every_parameter_gets_a_gradient_from_pre_training(model: Recformer) -> None:
    model.train()
    model.pretrain_loss(pairs(model)).backward()
    # The gradient of a bias of keys is rounding only: it shifts all logits of a softmax alike.
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    of_biases = {
        name: parameter.grad.abs().max() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    assert min(of_biases, key=of_biases.__getitem__).endswith("global_key.bias")
    assert sorted(of_biases.values())[3] > 1e-5


def test_fine_tuning_reaches_all_but_the_head_and_the_local_attention_of_the_last_layer(model: Recformer) -> None:
    model.train()
    keys = model.item_keys(items(tokens([6, 9, 4]))).detach()
    model.finetune_loss(histories(tokens([20, 1, 33]), torch.tensor([0, 2, -1])), keys).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    unused = {
        name
        for name, parameter in model.named_parameters()
        if all(parameter is not p for p in model.finetuned_parameters())
    }
    assert without == unused
    assert {name.rsplit(".", 2)[0] for name in without} == {
        "layers.1.attention", "language_head",
    }  # fmt: skip


def test_the_loss_falls_when_trained(model: Recformer) -> None:
    catalogue, given = items(tokens([6, 9, 4])), histories(tokens([20, 8, 33]), torch.tensor([0, 2, 1]))
    keys = model.item_keys(catalogue).detach()
    optimiser = torch.optim.Adam(model.finetuned_parameters(), lr=1e-3)
    first = model.finetune_loss(given, keys)
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.finetune_loss(given, keys)
        loss.backward()
        optimiser.step()
    assert loss < first / 10


@torch.no_grad()
def test_saved_and_loaded_weights_give_the_same(model: Recformer, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = Recformer(CONFIG).eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    batch = tokens([30, 4])
    assert torch.equal(other.encode(batch), model.encode(batch))


@torch.no_grad()
def test_bfloat16_is_close_to_float32(model: Recformer) -> None:
    batch = tokens([30, 4, 60, 17])
    exact = model.encode(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.encode(batch)
    assert torch.nn.functional.cosine_similarity(rounded.float(), exact).min() > 0.999


def test_bad_sizes_and_batches_without_tokens_are_refused(model: Recformer) -> None:
    with pytest.raises(ValueError, match=r"not divisible by heads 5; window is 7; .*; max_tokens is 9"):
        RecformerConfig(hidden_size=24, heads=5, window=7, max_tokens=9, positions=10)
    zero = torch.zeros(1).long()
    with pytest.raises(ValueError, match="reads item tokens"):
        model.item_keys(ItemBatch(zero, zero))
    with pytest.raises(ValueError, match="histories as tokens"):
        model.queries(SequenceBatch(zero, torch.tensor([0, 1]), zero, zero, zero, zero))
