"""The four tasks of S3-Rec: what they read, that they are learned, and that the losses of processes add up."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch
from linguarec.batching.self_supervised import PrefixLoader, SelfSupervisedBatch, SelfSupervisedLoader
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError
from linguarec.families.s3rec.model import S3Rec, S3RecConfig, S3RecLearner, TaskWeights
from linguarec.families.s3rec.self_supervision import SelfSupervisionSettings
from linguarec.nn.encoders import TransformerConfig, build_encoder
from linguarec.nn.losses import contrastive_cross_entropy
from linguarec.nn.shape import CatalogueShape

NUM_ITEMS, WIDTH, LONGEST = 30, 12, 10
ALL = TaskWeights(1, 1, 0.2, 0.5)


@pytest.fixture
def items() -> ItemBatch:
    features = torch.randn(NUM_ITEMS, WIDTH, generator=torch.Generator().manual_seed(3))
    return ItemBatch(torch.arange(NUM_ITEMS), torch.zeros(NUM_ITEMS, dtype=torch.int64), features)


def learner_of(weights: TaskWeights, dropout: float = 0.0) -> S3RecLearner:
    torch.manual_seed(0)
    encoder = TransformerConfig(32, 2, 2, 32, dropout=dropout, max_length=LONGEST)
    model = S3Rec(S3RecConfig(), CatalogueShape(NUM_ITEMS), build_encoder(encoder))
    return S3RecLearner(model, WIDTH, weights)


def loader_of(users: int = 60, seed: int = 0) -> SelfSupervisedLoader:
    """Sequences of 2 to 10 items, in which item i is followed by i + 1, mostly."""
    rng = np.random.default_rng(seed)
    sequences = []
    for length in rng.integers(2, LONGEST + 1, size=users):
        steps = np.where(rng.random(length) < 0.8, 1, rng.integers(NUM_ITEMS, size=length))
        sequences.append(((rng.integers(NUM_ITEMS) + np.cumsum(steps)) % NUM_ITEMS).tolist())
    read = Ragged.from_lists(sequences)
    return SelfSupervisedLoader(
        PrefixLoader(Ragged(read.values.astype(np.int32), read.offsets), LONGEST, 40, 0.2, seed)
    )


def batches(loader: SelfSupervisedLoader, epochs: int) -> Iterator[SelfSupervisedBatch]:
    for _ in range(epochs):
        yield from loader


def trained(weights: TaskWeights, items: ItemBatch, epochs: int = 60) -> S3RecLearner:
    learner = learner_of(weights)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    for batch in batches(loader_of(), epochs):
        optimizer.zero_grad()
        learner.loss(batch, items).backward()
        optimizer.step()
    return learner.eval()


def test_every_part_of_the_learner_gets_a_gradient(items: ItemBatch) -> None:
    learner = learner_of(ALL, dropout=0.3)
    learner.loss(next(iter(loader_of())), items).backward()
    without = [
        name for name, value in learner.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert without == []


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_four_means(items: ItemBatch) -> None:
    learner, batch = learner_of(ALL).eval(), next(iter(loader_of()))
    inputs, attributes = learner.model.item_inputs(items), learner.attributes(items)
    states, masked = learner.states(batch.masked, inputs), batch.masked
    hidden, shown = masked.targets >= 0, masked.items >= 0
    heads = learner.heads
    expected = (
        F.cross_entropy(heads["item"](states[hidden]) @ inputs.T, masked.targets[hidden])
        + F.cross_entropy(heads["masked_attribute"](states[hidden]) @ attributes.T, masked.targets[hidden])
        + 0.2 * F.cross_entropy(heads["attribute"](states[shown]) @ attributes.T, masked.items[shown])
    )
    last = masked.last
    queries = heads["segment"](learner.states(batch.context, inputs)[last])
    keys = learner.states(batch.segment, inputs)[last]
    expected += 0.5 * F.cross_entropy(queries @ keys.T, torch.arange(len(keys)))
    torch.testing.assert_close(learner.loss(batch, items), expected, atol=1e-5, rtol=1e-5)


def test_each_place_reads_the_whole_sequence(items: ItemBatch) -> None:
    learner, batch = learner_of(ALL).eval(), next(iter(loader_of()))
    with torch.no_grad():
        inputs = learner.model.item_inputs(items)
        before = learner.states(batch.masked, inputs)
        inputs = inputs.clone()
        start, stop = batch.masked.offsets.tolist()[-2:]
        late = batch.masked.items[start:stop].tolist()
        place = max(place for place, item in enumerate(late) if item >= 0 and late.count(item) == 1)
        inputs[late[place]] = torch.randn(32)
        after = learner.states(batch.masked, inputs)
    assert place > 0
    assert (after[start] - before[start]).abs().max() > 1e-4


@torch.no_grad()
def accuracy_by_length(learner: S3RecLearner, items: ItemBatch, head: str) -> dict[int, float]:
    """How often the best of all attributes is that of the place's own item, by the length of the sequence."""
    found: dict[int, list[Tensor]] = {}
    attributes, inputs = learner.attributes(items), learner.model.item_inputs(items)
    for batch in batches(loader_of(users=200, seed=1), 2):
        states = learner.states(batch.masked, inputs)
        right = (learner.heads[head](states) @ attributes.T).argmax(-1) == batch.masked.items
        for start, stop in pairwise(batch.masked.offsets.tolist()):
            shown = batch.masked.items[start:stop] >= 0
            found.setdefault(stop - start, []).append(right[start:stop][shown])
    return {length: float(torch.cat(parts).float().mean()) for length, parts in found.items()}


def test_a_shown_item_finds_its_own_text_among_all_at_every_length(items: ItemBatch) -> None:
    """In the released code most labels are padding, because labels and sequences are padded on different sides."""
    accuracy = accuracy_by_length(trained(ALL, items), items, "attribute")
    assert accuracy.keys() == set(range(2, LONGEST + 1))
    assert min(accuracy.values()) > 10 / NUM_ITEMS


def test_segments_find_the_rest_of_their_sequences(items: ItemBatch) -> None:
    learner = trained(TaskWeights(0, 0, 0, 1), items, epochs=40)
    with torch.no_grad():
        batch = next(iter(loader_of()))
        pairs = learner.segments(batch, learner.model.item_inputs(items))
        loss = contrastive_cross_entropy(pairs)
    assert loss < 0.8 * np.log(len(pairs.queries))


def test_a_row_without_targets_and_users_adds_nothing(items: ItemBatch) -> None:
    learner, batch = learner_of(ALL).eval(), next(iter(loader_of()))
    nothing = torch.full_like(batch.masked.items, -1)
    idle = replace(
        batch,
        masked=replace(batch.masked, items=nothing, targets=nothing, users=torch.full_like(batch.masked.users, -1)),
        context=replace(batch.context, items=nothing),
        segment=replace(batch.segment, items=nothing),
    )
    loss = learner.loss(idle, items)
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None for parameter in learner.parameters())


def test_settings_out_of_range_are_all_named() -> None:
    with pytest.raises(SettingsError) as error:
        SelfSupervisionSettings(epochs=0, learning_rate=0, mask_share=1, item=-1).check()
    assert [line.split(" ")[0] for line in error.value.problems] == [
        f"self_supervision.{name}" for name in ("epochs", "item", "learning_rate", "mask_share")
    ]
    with pytest.raises(SettingsError, match="are all 0"):
        SelfSupervisionSettings(item=0, masked_attribute=0, attribute=0, segment=0).check()
