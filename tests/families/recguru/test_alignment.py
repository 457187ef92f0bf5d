"""RecGURU's alignment: the adversary makes user vectors of two shops alike, the loader shows whole sequences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import Mixing
from linguarec.data.ragged import Ragged
from linguarec.data.splits import leave_one_out, training_sequences
from linguarec.data.synthetic import TINY, generate_world
from linguarec.families.recguru.alignment import AlignmentSettings, WholeSequenceLoader
from linguarec.families.recguru.model import AlignedShops, RecGURU, RecGURUConfig, reverse_gradient
from linguarec.families.recguru.module import Alignment
from linguarec.nn.encoders import TransformerConfig, TransformerEncoder
from linguarec.nn.shape import CatalogueShape
from linguarec.training.settings import TrainingSettings

ENCODER = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.1, max_length=8)
CONFIG = RecGURUConfig(decoder_inner_size=16, decoder_dropout=0.1)


@pytest.fixture(scope="module")
def logs() -> TrainingLogs:
    """The training sequences of two shops of the tiny world."""
    made = []
    for shop in generate_world(seed=0, domains=2, size=TINY):
        sequences = training_sequences(shop.sequences, leave_one_out(shop.sequences.offsets))
        made.append(TrainingLog(shop.name, sequences, len(shop.items)))
    return TrainingLogs(made)


def aligned(logs: TrainingLogs, **settings: float) -> Alignment:
    """The stage with fresh networks."""
    torch.manual_seed(0)
    encoder = TransformerEncoder(ENCODER)
    model = RecGURU(CONFIG, CatalogueShape(logs.logs[0].num_items), encoder)
    loader = WholeSequenceLoader(logs, ENCODER.max_length, 400, None, Mixing(), seed=0)
    shops = AlignedShops(model, [log.num_items for log in logs.logs[1:]])
    return Alignment(shops, loader, AlignmentSettings(**settings), TrainingSettings(), 0)


def train(stage: Alignment, epochs: int) -> None:
    optimizer = torch.optim.Adam(stage.model.parameters(), lr=5e-3)
    stage.model.train()
    for _ in range(epochs):
        for batch in stage.loader:
            optimizer.zero_grad()
            stage.step_loss(batch).backward()
            optimizer.step()


@torch.no_grad()
def rebuilding(stage: Alignment) -> float:
    """Mean loss of rebuilding in an epoch."""
    stage.model.eval()
    return float(np.mean([stage.model.losses(*stage.of_shops(batch.sequences))[0] for batch in stage.loader]))


@torch.no_grad()
def users_of(stage: Alignment) -> tuple[Tensor, Tensor]:
    """User vectors and shop of all training sequences."""
    stage.model.eval()
    vectors, shops = [], []
    for batch in stage.loader:
        for shop, part in enumerate(stage.of_shops(batch.sequences)[0]):
            vectors.append(stage.model.users(shop, part))
            shops += [shop] * len(part)
    return torch.cat(vectors), torch.tensor(shops)


def guessed(vectors: Tensor, shops: Tensor) -> float:
    """How often a fresh classifier, trained on half of the users, tells the shop of the other half."""
    torch.manual_seed(1)
    width = vectors.shape[1]
    classifier = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    order = torch.randperm(len(shops))
    seen, unseen = order[::2], order[1::2]
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(classifier(vectors[seen]), shops[seen]).backward()
        optimizer.step()
    right: Tensor = classifier(vectors[unseen]).argmax(-1) == shops[unseen]
    return float(right.float().mean())


@pytest.mark.slow
def test_a_classifier_no_longer_tells_the_shops_apart(logs: TrainingLogs) -> None:
    """A fresh one, after the training with the adversary; without it, the same classifier does. Chance is a half."""
    found = {}
    for adversary in (0.0, 0.2):
        stage = aligned(logs, adversary=adversary, reconstruction_epochs=3)
        before, told = rebuilding(stage), []
        for epochs in (80, 10, 10):
            train(stage, epochs)
            vectors, shops = users_of(stage)
            told.append(guessed(vectors, shops))
        assert shops.float().mean() == 0.5
        assert rebuilding(stage) < 0.5 * before  # the vectors still tell the sequences
        found[adversary] = float(np.mean(told))  # the two play on; the mean is calmer
    assert found[0.0] > 0.68, found
    assert found[0.2] < 0.6, found


def test_the_gradient_is_reversed() -> None:
    values = torch.randn(3, 2, requires_grad=True)
    weights = torch.randn(3, 2)
    read = reverse_gradient(values)
    assert torch.equal(read, values)
    (read * weights).sum().backward()
    assert torch.equal(values.grad, -weights)


def test_only_the_classifier_learns_to_tell_the_shops_apart(logs: TrainingLogs) -> None:
    """The encoder's gradient of L_dis points the other way than that of a classifier's loss on its vectors."""
    stage = aligned(logs)
    parts, classes = stage.of_shops(next(iter(stage.loader)).sequences)
    shops: AlignedShops = stage.model.eval()
    _, guess = shops.losses(parts, classes)
    guess.backward()
    reversed_, own = shops.model.encoder.input_norm.weight.grad.clone(), shops.classifier[0].weight.grad.clone()
    assert all(weight.grad is None for weight in shops.model.decoder.parameters())
    shops.zero_grad()
    vectors = torch.cat([shops.users(shop, part) for shop, part in enumerate(parts)])
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor([len(part) for part in parts]))
    F.cross_entropy(shops.classifier(vectors), labels).backward()
    torch.testing.assert_close(reversed_, -shops.model.encoder.input_norm.weight.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(own, shops.classifier[0].weight.grad, atol=1e-6, rtol=1e-4)


def test_the_adversary_waits_for_the_first_epochs(logs: TrainingLogs) -> None:
    stage = aligned(logs, reconstruction_epochs=1, adversary=5.0)
    stage.model.eval()
    added = []
    for _ in range(2):
        for batch in stage.loader:
            rebuilt, guess = stage.model.losses(*stage.of_shops(batch.sequences))
            added.append(((stage.step_loss(batch) - rebuilt) / guess).item())
    steps = len(stage.loader)
    assert added[:steps] == [0.0] * steps
    assert added[steps:] == pytest.approx([5.0] * steps, abs=1e-4)


def test_two_shops_are_two_networks_with_one_encoder(logs: TrainingLogs) -> None:
    """The loss of both is the mean over targets of each shop's own; a shop's tables get no gradient of the other's."""
    stage = aligned(logs)
    parts, classes = stage.of_shops(next(iter(stage.loader)).sequences)
    shops: AlignedShops = stage.model.eval()
    none = [
        replace(part, targets=torch.full_like(part.targets, -1)) for part in parts
    ]  # the users stay, nothing is asked
    both = shops.losses(parts, classes)[0]
    counts = [(part.targets >= 0).sum() for part in parts]
    alone = [shops.losses([parts[0], none[1]], classes)[0], shops.losses([none[0], parts[1]], classes)[0]]
    torch.testing.assert_close(both, (alone[0] * counts[0] + alone[1] * counts[1]) / sum(counts))
    alone[0].backward()
    assert shops.model.item.weight.grad.abs().sum() > 0
    assert not shops.other_items[0].weight.grad.any()


def test_steps_hold_whole_sequences_of_both_shops() -> None:
    """Each item but the first of a window is asked for once an epoch, the last one of a sequence, too."""
    first = [[0, 1, 2], [3], [4, 5, 6, 7, 8, 0, 1, 2, 3, 4]]
    second = [[2, 0], [1, 2, 0, 1]]
    logs = TrainingLogs(
        [TrainingLog("a", Ragged.from_lists(first), 10), TrainingLog("b", Ragged.from_lists(second), 4)]
    )
    loader = WholeSequenceLoader(logs, 8, 16, None, Mixing(), seed=0)
    encoder = TransformerEncoder(ENCODER)
    shops = AlignedShops(RecGURU(CONFIG, CatalogueShape(10), encoder), [4])
    stage = Alignment(shops, loader, AlignmentSettings(), TrainingSettings(), 0)
    read: list[list[list[int]]] = [[], []]
    for batch in loader:
        parts, classes = stage.of_shops(batch.sequences)
        # Items that no one took are no classes: row 9 of the first shop, row 3 of the second.
        assert [rows.tolist() for rows in classes] == [list(range(9)), [0, 1, 2]]
        for shop, part in enumerate(parts):
            for start, stop in zip(part.offsets[:-1].tolist(), part.offsets[1:].tolist(), strict=True):
                items, targets = part.items[start:stop], part.targets[start:stop]
                assert targets[-1] == -1
                assert torch.equal(classes[shop][targets[:-1]], items[1:])
                assert part.positions[start:stop].tolist() == list(range(stop - start))
                read[shop].append(items.tolist())
    assert sorted(read[0]) == [[0, 1, 2], [4, 5, 6, 7, 8, 0, 1, 2], [6, 7, 8, 0, 1, 2, 3, 4]]
    assert sorted(read[1]) == [[1, 2, 0, 1], [2, 0]]


def test_a_shop_may_be_absent_from_a_step(logs: TrainingLogs) -> None:
    stage = aligned(logs)
    parts, classes = stage.of_shops(next(iter(stage.loader)).sequences)
    empty = torch.zeros(0, dtype=torch.int64)
    parts[1] = replace(
        parts[1], items=empty, offsets=torch.zeros(1, dtype=torch.int64), positions=empty, targets=empty,
        users=empty, domain=empty,
    )  # fmt: skip
    rebuilt, guess = stage.model.losses(parts, classes)
    (rebuilt + guess).backward()
    assert all(parameter.grad is not None for parameter in stage.model.parameters())
    assert not stage.model.other_items[0].weight.grad.any()
