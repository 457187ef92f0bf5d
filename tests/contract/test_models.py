"""What every model of the table must do, unasked, with either sequence encoder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.negatives import StepClasses
from linguarec.batching.windows import history_pairs
from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases, evaluation_cases, leave_one_out, training_sequences
from linguarec.data.synthetic import TINY, Shop, WorldSize, generate_world, word_vectors
from linguarec.evaluation.baselines import popularity
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.evaluation.slices import training_counts
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription, Steps
from linguarec.families.opening import open_model
from linguarec.families.weights import save_model
from linguarec.nn.encoders import EncoderConfig, GRUConfig, PoolingConfig, TransformerConfig
from linguarec.nn.shape import CatalogueShape

WIDTH, CODE_BOOKS, CENTROIDS = 32, 4, 16
ENCODERS: dict[str, EncoderConfig] = {
    "transformer": TransformerConfig(hidden_size=32, inner_size=32, dropout=0.2, max_length=20),
    "gru": GRUConfig(hidden_size=32, inner_size=32, dropout=0.2, max_length=20),
    "pooling": PoolingConfig(hidden_size=32, inner_size=32, dropout=0.2, max_length=20),
    "no-positions": TransformerConfig(hidden_size=32, inner_size=32, dropout=0.2, max_length=20, positions="none"),
}
# Models of tokens have a suite of their own, test_token_models.py: no sequence encoder, one query a history.
NAMES = [name for name, family in FAMILIES.items() if family.encoders]
TRANSFORMERS = [name for name in NAMES if "transformer" in FAMILIES[name].encoders]
EVERY_MODEL = [(name, encoder) for name in NAMES for encoder in FAMILIES[name].encoders]
EVERY_MODEL += [(name, "no-positions") for name in TRANSFORMERS]
CAUSAL = [pair for pair in EVERY_MODEL if not FAMILIES[pair[0]].both_ways]
BOTH_WAYS = [pair for pair in EVERY_MODEL if FAMILIES[pair[0]].both_ways]
each_of = pytest.mark.parametrize  # description: of these models alone


@dataclass(frozen=True)
class World:
    """The tiny synthetic world as tensors."""

    domain: Shop
    items: ItemBatch
    train: Ragged
    test: EvaluationCases


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(TINY)


@pytest.fixture(scope="module")
def wide_world() -> World:
    """More users of the same tiny world."""
    return make_world(replace(TINY, users=1000))


def make_world(size: WorldSize) -> World:
    domain = generate_world(seed=0, domains=1, size=size)[0]
    vectors = torch.from_numpy(word_vectors([item.text for item in domain.items], WIDTH))
    # A code for each sub-vector: the sign pattern of four random projections, so that like texts have like codes.
    planes = torch.randn(CODE_BOOKS, WIDTH, 4, generator=torch.Generator().manual_seed(0))
    codes = ((torch.einsum("nw,mwp->nmp", vectors, planes) > 0) * 2 ** torch.arange(4)).sum(-1)
    number = len(domain.items)
    items = ItemBatch(torch.arange(number), torch.zeros(number, dtype=torch.int64), vectors, codes)
    roles = leave_one_out(domain.sequences.offsets)
    return World(
        domain,
        items,
        training_sequences(domain.sequences, roles),
        evaluation_cases(domain.sequences, roles, "test"),
    )


def describe(name: str, encoder: str, world: World) -> ModelDescription:
    shape = CatalogueShape(len(world.items), WIDTH, CODE_BOOKS, CENTROIDS)
    return ModelDescription(FAMILIES[name], FAMILIES[name].config(), ENCODERS[encoder], shape)


@pytest.fixture(params=EVERY_MODEL, ids=lambda pair: "-".join(pair))
def description(request: pytest.FixtureRequest, world: World) -> ModelDescription:
    return describe(*request.param, world)


@pytest.fixture
def model(description: ModelDescription) -> nn.Module:
    torch.manual_seed(0)
    return description.build().eval()


def ragged_batch(lengths: list[int], num_items: int) -> SequenceBatch:
    """Random histories of the given lengths, in that order."""
    generator = torch.Generator().manual_seed(1)
    offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])
    total = int(offsets[-1])
    positions = torch.cat([torch.arange(length) for length in lengths])
    items = torch.randint(num_items, (total,), generator=generator)
    targets = torch.randint(num_items, (total,), generator=generator)
    zeros = torch.zeros(len(lengths), dtype=torch.int64)
    return SequenceBatch(items, offsets, positions, targets, zeros, zeros)


def training_batch(description: ModelDescription, lengths: list[int], num_items: int) -> SequenceBatch:
    """One step over random sequences of the given lengths, shortest first, as the family trains them."""
    drawn = np.random.default_rng(1).integers(num_items, size=sum(lengths)).astype(np.int32)
    sequences = Ragged(drawn, np.cumsum([0, *lengths]))
    steps = Steps(description.encoder.max_length, 10**6, None, seed=0)
    (batch,) = description.family.loader(sequences, steps, description.config)
    return batch.sequences


def row_of(queries: Tensor, batch: SequenceBatch, row: int) -> Tensor:
    """The queries of one row: one a position, or one a history."""
    if len(queries) == len(batch):
        return queries[row : row + 1]
    return queries[batch.offsets[row] : batch.offsets[row + 1]]


def one_row(batch: SequenceBatch, row: int) -> SequenceBatch:
    part = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
    offsets = torch.tensor([0, part.stop - part.start])
    zero = torch.zeros(1, dtype=torch.int64)
    return SequenceBatch(batch.items[part], offsets, batch.positions[part], batch.targets[part], zero, zero)


@torch.no_grad()
def test_a_row_alone_equals_the_row_in_its_batch(model: nn.Module, world: World) -> None:
    batch = ragged_batch([5, 1, 20, 3, 5], len(world.items))
    inputs = model.item_inputs(world.items)
    together = model.queries(batch, inputs)
    for row in range(len(batch)):
        alone = model.queries(one_row(batch, row), inputs)
        torch.testing.assert_close(alone, row_of(together, batch, row), atol=1e-5, rtol=1e-5)


@each_of("description", CAUSAL, ids="-".join, indirect=True)
@torch.no_grad()
def test_no_position_sees_what_comes_after_it(model: nn.Module, world: World) -> None:
    batch = ragged_batch([12], len(world.items))
    inputs = model.item_inputs(world.items)
    before = model.queries(batch, inputs)
    batch.items[7:] = (batch.items[7:] + 1) % len(world.items)
    after = model.queries(batch, inputs)
    torch.testing.assert_close(after[:7], before[:7], atol=1e-6, rtol=1e-6)
    assert (after[7:] - before[7:]).abs().amax(dim=-1).min() > 1e-4


@each_of("description", BOTH_WAYS, ids="-".join, indirect=True)
@torch.no_grad()
def test_a_hidden_place_sees_what_comes_after_it(model: nn.Module, world: World) -> None:
    batch = ragged_batch([12], len(world.items))
    target = int(batch.items[4])
    batch.targets[:] = -1
    batch.items[4], batch.targets[4] = -1, target
    before = model.finetune_loss(batch, world.items)
    for place in (0, 3, 5, 11):
        changed = batch.items.clone()
        changed[place] = (changed[place] + 1) % len(world.items)
        assert (model.finetune_loss(replace(batch, items=changed), world.items) - before).abs() > 1e-6
    of_all = model.queries(batch, model.item_inputs(world.items))
    assert len(of_all) == len(batch)  # one a history, from behind it


def test_every_parameter_gets_a_gradient(model: nn.Module, description: ModelDescription, world: World) -> None:
    model.train()
    model.finetune_loss(training_batch(description, [4, 9, 20], len(world.items)), world.items).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.abs().sum() > 0)
    ]
    assert without == []


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(FAMILIES[n].finetuning.options, "history_in_softmax")])
def test_pairs_that_are_left_out_of_the_softmax_are_no_classes(name: str, world: World) -> None:
    """The loss equals a softmax under a dense mask, in value and gradient, in every family that has the option."""
    torch.manual_seed(0)
    model = describe(name, "transformer", world).build().eval()
    batch = ragged_batch([6, 1, 9], len(world.items))
    batch.items[2], batch.items[7:9] = batch.items[0], batch.items[8]  # repeats
    batch.targets[4], batch.targets[9] = batch.items[1], -1  # a target from its history, a position without one
    pairs = torch.from_numpy(history_pairs(batch.items.numpy(), batch.positions.numpy(), batch.targets.numpy()))
    logits = model.queries(batch, model.item_inputs(world.items)) @ model.item_keys(world.items).T
    mask = torch.zeros_like(logits, dtype=torch.bool)
    mask[pairs[:, 0], pairs[:, 1]] = True
    rows = (batch.targets >= 0).nonzero().squeeze(1)
    mask[rows, batch.targets[rows]] = False
    expected = F.cross_entropy(logits.masked_fill(mask, -torch.inf), batch.targets, ignore_index=-1)
    assert mask.any(1).tolist() == [position != 9 for position in range(16)]
    found = model.finetune_loss(replace(batch, excluded=pairs), world.items)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = [
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        for loss in (found, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def sampled_step(
    batch: SequenceBatch, world: World, negatives: int, step: int, t: float | None
) -> tuple[SequenceBatch, ItemBatch]:
    """The batch over a sample of the items, and these items."""
    own = torch.cat([batch.items, batch.targets]).unique()
    chosen = StepClasses.draw(own[own >= 0].numpy(), len(world.items), negatives, 0, step)
    return chosen.as_items_of(batch, t), world.items.select(torch.from_numpy(chosen.classes))


SAMPLED = [name for name in NAMES if hasattr(FAMILIES[name].finetuning.options, "softmax")]


def test_every_family_of_next_items_can_sample_its_softmax() -> None:
    assert set(SAMPLED) == {name for name in NAMES if FAMILIES[name].trained}


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_of_all_items_is_the_full_softmax(name: str, world: World) -> None:
    torch.manual_seed(0)
    description = describe(name, "transformer", world)
    model = description.build().eval()
    batch = training_batch(description, [4, 9, 20], len(world.items))
    numbered, items = sampled_step(batch, world, len(world.items), 0, None)
    losses = [model.finetune_loss(batch, world.items), model.finetune_loss(numbered, items)]
    full, sampled = (torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in losses)
    assert torch.equal(losses[0], losses[1])
    assert all(one is other or torch.equal(one, other) for one, other in zip(full, sampled, strict=True))


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_stands_for_all_items(name: str, world: World) -> None:
    """The mean loss over draws is that over the catalogue; without the weights of the sample it is another."""
    torch.manual_seed(0)
    description = describe(name, "transformer", world)
    model = description.build().eval()
    batch = training_batch(description, [4, 9], len(world.items))
    with torch.no_grad():
        full = float(model.finetune_loss(batch, world.items))
        draws = [sampled_step(batch, world, len(world.items) // 8, step, None) for step in range(60)]
        mean = np.mean([float(model.finetune_loss(*draw)) for draw in draws])
        unweighted = np.mean([float(model.finetune_loss(replace(one, sample=None), items)) for one, items in draws])
    assert abs(mean - full) < 0.3 * (full - unweighted), (
        f"{mean:.4f} weighted, {unweighted:.4f} not, {full:.4f} over all"
    )


def test_positions_without_target_take_no_part_in_the_loss(
    model: nn.Module, description: ModelDescription, world: World
) -> None:
    batch = training_batch(description, [4, 6], len(world.items))
    batch.targets[: batch.offsets[1]] = -1
    assert bool((batch.targets >= 0).any())
    alone = model.finetune_loss(one_row(batch, 1), world.items)
    torch.testing.assert_close(model.finetune_loss(batch, world.items), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_saved_and_loaded_gives_identical_scores(
    model: nn.Module, description: ModelDescription, world: World, tmp_path: Path
) -> None:
    save_model(model, description, tmp_path)
    loaded, read = open_model(tmp_path)
    assert read == description
    batch = ragged_batch([7, 3], len(world.items))
    for each in (model, loaded):
        each.eval()
    scores, again = (
        each.queries(batch, each.item_inputs(world.items)) @ each.item_keys(world.items).T for each in (model, loaded)
    )
    assert torch.equal(scores, again)


@torch.no_grad()
def test_reordering_the_catalogue_reorders_the_scores(model: nn.Module, world: World) -> None:
    order = torch.randperm(len(world.items), generator=torch.Generator().manual_seed(2))
    place = torch.argsort(order)
    moved_items = world.items.select(order)  # rows move along, so an ID model still knows its items
    batch = ragged_batch([7, 3], len(world.items))
    scores = model.queries(batch, model.item_inputs(world.items)) @ model.item_keys(world.items).T
    moved_batch = SequenceBatch(
        place[batch.items], batch.offsets, batch.positions, batch.targets, batch.users, batch.domain
    )
    moved = model.queries(moved_batch, model.item_inputs(moved_items)) @ model.item_keys(moved_items).T
    torch.testing.assert_close(moved, scores[:, order], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_new_item_needs_no_row(model: nn.Module, description: ModelDescription, world: World) -> None:
    """Text alone gives a new item the key it would have had; an ID adds nothing for it."""
    new = world.items.select(torch.tensor([3]))
    new.rows[:] = -1
    key = model.item_keys(new)[0]
    known = model.item_keys(world.items)[3]
    family = description.family
    if not family.ranks_new:
        assert torch.equal(key, torch.zeros_like(key))
    elif family.per_item:
        model.item.weight[3] = 0
        torch.testing.assert_close(key, model.item_keys(world.items)[3], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(key, known, atol=1e-3)
    else:
        torch.testing.assert_close(key, known, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("positions", ["learned", "none"])
@torch.no_grad()
def test_without_positions_the_order_of_earlier_items_says_nothing(name: str, positions: str, world: World) -> None:
    """With one layer: with several, causal attention tells a later layer which items came before which."""
    encoder = replace(ENCODERS["transformer"], layers=1, positions=positions, initializer_range=0.3)
    description = replace(describe(name, "transformer", world), encoder=encoder)
    torch.manual_seed(0)
    model = description.build().eval()
    batch = ragged_batch([7, 9], len(world.items))
    inputs = model.item_inputs(world.items)
    turned = batch.items.clone()
    turned[:6], turned[7:15] = batch.items[:6].flip(0), batch.items[7:15].roll(3)
    before, after = (model.queries(replace(batch, items=items), inputs) for items in (batch.items, turned))
    if len(before) == len(batch.items):
        before, after = before[batch.last], after[batch.last]
    tables = [key for key in model.state_dict() if key.endswith("position.weight")]
    if positions == "none":
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
        assert tables == []
    else:
        assert (after - before).abs().amax(dim=-1).min() > 1e-3
        assert tables != []


@pytest.mark.parametrize("name", [name for name, encoder in EVERY_MODEL if encoder == "pooling"])
def test_pooling_learns_baskets(name: str, world: World) -> None:
    """Baskets of five of the eight items of a group, in any order: after three items, the other five should come first."""
    rng, groups = np.random.default_rng(0), len(world.items) // 8
    group_of = rng.permutation(8 * groups).reshape(groups, 8)
    baskets = [rng.permutation(group_of[user % groups]) for user in range(300)]
    sequences = Ragged.from_lists([basket[:5].tolist() for basket in baskets])
    histories = Ragged.from_lists([basket[:3].tolist() for basket in baskets])
    targets = np.array([basket[5] for basket in baskets], dtype=np.int32)
    cases = EvaluationCases(histories, targets, np.arange(300))
    torch.manual_seed(0)
    description = describe(name, "pooling", world)
    model = description.build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loader = FAMILIES[name].loader(sequences, Steps(20, 200, None, 0, True), description.config)
    for _ in range(240 // len(loader)):
        for batch in loader:
            optimizer.zero_grad()
            model.finetune_loss(batch.sequences, world.items).backward()
            optimizer.step()
    best = float(np.mean(1 / np.log2(np.arange(2, 7))))  # five items of the group are left, in any order
    reached = evaluate_model(model.eval(), world.items, cases, exclude_history=True).mean("ndcg@10")
    assert reached > 0.8 * best, f"{reached:.3f} against the best possible {best:.3f}"


@pytest.mark.parametrize(("name", "encoder"), [each for each in EVERY_MODEL if each[1] in ("transformer", "gru")])
def test_learns_the_synthetic_world(name: str, encoder: str, request: pytest.FixtureRequest) -> None:
    """Beats popularity by a quarter and comes near the best score that the world's law allows.

    Masked items need more sequences and more updates: a step asks for a few places, and where they are has to be learned, too.
    """
    reached, baseline, best = learned(name, encoder, request)
    assert reached > 1.25 * baseline, f"{reached:.3f} against popularity {baseline:.3f}"
    assert reached > 0.6 * best, f"{reached:.3f} against the best possible {best:.3f}"


def a_quarter(t: float | None) -> Callable[..., Any]:
    """Steps over a draw of a quarter of the items."""
    return lambda batch, world, step: sampled_step(batch, world, len(world.items) // 4, step, t)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_learns_the_synthetic_world_by_a_sampled_softmax(name: str, request: pytest.FixtureRequest) -> None:
    reached, baseline, best = learned(name, "transformer", request, a_quarter(None))
    assert reached > 1.25 * baseline, f"{reached:.3f} against popularity {baseline:.3f}"
    assert reached > 0.6 * best, f"{reached:.3f} against the best possible {best:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "longer"), [("sasrec", 1), ("unisrec", 4)])
def test_learns_the_synthetic_world_by_gbce(name: str, longer: int, request: pytest.FixtureRequest) -> None:
    """SASRec in as many updates as by a softmax; the cosines of text vectors start high and have to come down first."""
    reached, baseline, _ = learned(name, "transformer", request, a_quarter(0.75), longer)
    assert reached > 1.2 * baseline, f"{reached:.3f} against popularity {baseline:.3f}"


@pytest.mark.parametrize("name", SAMPLED)
def test_every_family_lowers_its_gbce(name: str, world: World) -> None:
    torch.manual_seed(0)
    description = describe(name, "transformer", world)
    model = description.build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loader = FAMILIES[name].loader(world.train, Steps(20, 200, None, seed=0), description.config)
    losses = []
    while len(losses) < 40:
        for batch in loader:
            optimizer.zero_grad()
            loss = model.finetune_loss(*a_quarter(0.75)(batch.sequences, world, batch.step))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.97 * losses[0]  # it starts at the loss of equally likely items


def learned(
    name: str,
    encoder: str,
    request: pytest.FixtureRequest,
    sample: Callable[..., Any] = lambda batch, world, _: (batch, world.items),
    longer: int = 1,
) -> tuple[float, float, float]:
    """The ndcg@10 of a trained model, of popularity, and the best possible one."""
    both_ways = FAMILIES[name].both_ways
    world: World = request.getfixturevalue("wide_world" if both_ways else "world")
    updates = longer * (600 if both_ways else 240)
    torch.manual_seed(0)
    description = describe(name, encoder, world)
    model = description.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loader = FAMILIES[name].loader(world.train, Steps(20, 200, None, seed=0), description.config)
    model.train()
    for _ in range(updates // len(loader)):
        for batch in loader:
            optimizer.zero_grad()
            model.finetune_loss(*sample(batch.sequences, world, batch.step)).backward()
            optimizer.step()
    counts = training_counts(world.train.values, len(world.items))
    baseline = popularity(world.test, counts)["kept"].mean("ndcg@10")
    reached = evaluate_model(model.eval(), world.items, world.test).mean("ndcg@10")
    return reached, baseline, world.domain.best_possible()["ndcg@10"]
