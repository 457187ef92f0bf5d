"""A codebook whose codes were renumbered: the permutation that undoes it is found by the loss of the next items alone."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingLoader
from linguarec.codes.quantisation import QuantisationSettings, fit_code_book
from linguarec.data.splits import evaluation_cases, leave_one_out, training_sequences
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.families import FAMILIES
from linguarec.families.family import Request
from linguarec.families.next_item import NextItemData
from linguarec.families.vqrec.code_permutation import reorder
from linguarec.families.vqrec.model import VQRec, VQRecConfig
from linguarec.families.vqrec.permutation import PermutationSettings, permutation_stage
from linguarec.nn.encoders import TransformerConfig, build_encoder
from linguarec.nn.shape import CatalogueShape
from linguarec.training.module import FineTuning, Stage
from linguarec.training.settings import TrainingSettings

BOOKS, CENTROIDS = 4, 8


class World:
    """The tiny world in codes, and a VQ-Rec that has learned it."""

    def __init__(self) -> None:
        domain = generate_world(seed=0, domains=1, size=TINY)[0]
        vectors = word_vectors([item.text for item in domain.items], 32)
        book = fit_code_book(vectors, QuantisationSettings("opq", BOOKS, CENTROIDS, 0), "words", None)
        number = len(domain.items)
        codes = torch.from_numpy(book.encode(vectors).astype(np.int64))
        self.items = ItemBatch(torch.arange(number), torch.zeros(number).long(), None, codes)
        roles = leave_one_out(domain.sequences.offsets)
        self.train = training_sequences(domain.sequences, roles)
        self.valid = evaluation_cases(domain.sequences, roles, "valid")
        torch.manual_seed(0)
        encoder = TransformerConfig(hidden_size=32, inner_size=32, layers=1, dropout=0.2, max_length=20)
        self.model = VQRec(VQRecConfig(), CatalogueShape(number, None, BOOKS, CENTROIDS), build_encoder(encoder))
        optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-3)
        loader = self.loader()
        for _ in range(30):
            for batch in loader:
                optimizer.zero_grad()
                self.model.finetune_loss(batch.sequences, self.items).backward()
                optimizer.step()

    def loader(self, targets_per_step: int = 200) -> TrainingLoader:
        return TrainingLoader(np.asarray(self.train.values), self.train.offsets, 20, targets_per_step, None, seed=0)

    @torch.no_grad()
    def loss(self, model: VQRec, items: ItemBatch) -> float:
        """Of all training targets, in evaluation mode."""
        [batch] = self.loader(100_000)
        return float(model.eval().finetune_loss(batch.sequences, items))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


class RenumberedData:
    """What the stage asks of a fine-tuning's data, for items with other codes."""

    def __init__(self, world: World, items: ItemBatch) -> None:
        self.world, self.candidates = world, items

    def validate(self, model: nn.Module) -> dict[str, float]:
        return evaluate_model(model, self.candidates, self.world.valid).means()

    def stage(self, model: nn.Module, steps: TrainingLoader, training: TrainingSettings, seed: int) -> Stage:
        return FineTuning(model, self.candidates, steps, training, seed)

    def loader(self, training: TrainingSettings, seed: int) -> TrainingLoader:
        return self.world.loader()


def test_renumbered_codes_get_their_embeddings_back(world: World, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    renumbered = torch.arange(CENTROIDS).repeat(BOOKS, 1)
    for book in (0, 1):
        renumbered[book] = torch.randperm(CENTROIDS, generator=generator)
    assert world.items.codes is not None
    items = replace(world.items, codes=renumbered[torch.arange(BOOKS), world.items.codes])
    known, lost = world.loss(world.model, world.items), world.loss(world.model, items)
    assert lost > known + 0.4
    before = world.model.codes.weight.detach().clone()

    data = RenumberedData(world, items)
    request = Request(
        FAMILIES["vqrec"], [], None, None, None,
        TrainingSettings(accelerator="cpu", precision="fp32"), "leave-one-out", 1.0, 0, tmp_path,
    )  # fmt: skip
    stage = permutation_stage(request, PermutationSettings(epochs=20, learning_rate=0.02))
    found = copy.deepcopy(world.model)
    learning = stage(found, cast(NextItemData, data)).begin([])
    summary = learning.run(tmp_path / "permutation", resume=False)
    order = torch.from_numpy(np.load(tmp_path / "permutation" / "order.npy"))
    assert order.sort(dim=1).values.tolist() == [list(range(CENTROIDS))] * BOOKS
    assert torch.equal(found.codes.weight, before)  # what is learned is the order alone
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert summary.before == data.validate(found)["ndcg@10"]
    assert summary.valid["ndcg@10"] > summary.before

    stage(found, cast(NextItemData, data)).take_over(tmp_path / "permutation")
    assert torch.equal(found.codes.weight, reorder(before, order))
    reached = world.loss(found, items)
    assert reached < known + 0.5 * (lost - known), f"{known:.3f} known, {lost:.3f} renumbered, {reached:.3f} reached"
    undone = torch.argsort(renumbered, dim=1)
    for book in (0, 1):  # the others were right from the start
        assert (order[book] == undone[book]).float().mean() > 0.4, book
