"""What every model of tokens must do, unasked: the contract of test_models.py, one query a history."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_processes import join, leave, made_by_two

from linguarec.batching.batches import SequenceBatch, TokenPairs
from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import Mixing
from linguarec.batching.tokens import token_batches
from linguarec.data.ragged import Ragged
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.families.opening import open_model
from linguarec.families.recformer.loaders import HistoryLoader, JoinedTokens, TokenPairsLoader
from linguarec.families.recformer.masking import WordMasking
from linguarec.families.recformer.model import Recformer, RecformerConfig
from linguarec.families.recformer.scorer import SentenceScorer, encode_tokens
from linguarec.families.weights import save_model
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.tokens import TokenSource
from linguarec.text.attributes import ItemTokens

NAMES = [name for name, family in FAMILIES.items() if family.source is TokenSource]
CPU = torch.device("cpu")
CONFIGS = {
    "recformer": RecformerConfig(
        vocabulary=90, hidden_size=24, layers=2, heads=3, inner_size=32, window=6, max_tokens=40, max_items=5,
        positions=40, first_position=0, initializer_range=0.2,
    )
}  # fmt: skip
HISTORIES = Ragged.from_lists([[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [8, 9]])


@pytest.fixture
def tokens() -> ItemTokens:
    """Twelve items of 1 to 12 tokens."""
    generator = np.random.default_rng(0)
    offsets = np.cumsum([0, *range(1, 13)])
    return ItemTokens(
        generator.integers(5, 90, offsets[-1]), generator.integers(1, 3, offsets[-1]).astype(np.uint8), offsets, 2
    )


@pytest.fixture(params=NAMES)
def description(request: pytest.FixtureRequest) -> ModelDescription:
    return ModelDescription(FAMILIES[request.param], CONFIGS[request.param], None, CatalogueShape(12))


@pytest.fixture
def model(description: ModelDescription) -> nn.Module:
    torch.manual_seed(0)
    return description.build().eval()


def scores(model: nn.Module, tokens: ItemTokens, histories: Ragged, budget: int = 1000) -> Tensor:
    """[B, N], of all histories."""
    scorer = SentenceScorer(model)
    inputs, keys = scorer.encode(TokenSource(Path("nowhere"), tokens, None))
    found = torch.empty(len(histories), len(keys))
    for index, queries in scorer.queries(inputs, histories, tokens_per_batch=budget):
        found[torch.from_numpy(index)] = queries @ keys.T
    return found


@torch.no_grad()
def test_a_row_alone_equals_the_row_in_its_batch(model: nn.Module, tokens: ItemTokens) -> None:
    together = scores(model, tokens, HISTORIES)
    torch.testing.assert_close(scores(model, tokens, HISTORIES, budget=1), together, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_reordering_the_catalogue_reorders_the_scores(model: nn.Module, tokens: ItemTokens) -> None:
    order = np.random.default_rng(2).permutation(12)
    moved = Ragged(np.argsort(order)[HISTORIES.values], HISTORIES.offsets)
    expected = scores(model, tokens, HISTORIES)[:, order]
    torch.testing.assert_close(scores(model, tokens.select(order), moved), expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_new_item_is_as_if_it_had_been_there(model: nn.Module, tokens: ItemTokens) -> None:
    grown = ItemTokens.join([tokens.select(np.arange(11)), tokens.select(np.array([11]))])
    torch.testing.assert_close(encode_tokens(model, grown, CPU), encode_tokens(model, tokens, CPU))
    alone = encode_tokens(model, tokens.select(np.array([11])), CPU)[0]
    torch.testing.assert_close(alone, encode_tokens(model, tokens, CPU)[11], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_saved_and_loaded_gives_identical_scores(
    model: nn.Module, description: ModelDescription, tokens: ItemTokens, tmp_path: Path
) -> None:
    save_model(model, description, tmp_path)
    loaded, read = open_model(tmp_path)
    assert read == description
    assert torch.equal(scores(loaded, tokens, HISTORIES), scores(model, tokens, HISTORIES))


@torch.no_grad()
def test_only_the_items_and_tokens_that_fit_are_read(model: nn.Module, tokens: ItemTokens) -> None:
    long = Ragged.from_lists([[11, 10, 7, 5, 9, 2, 6, 5], [5, 9, 2, 6, 5]])
    first, second = scores(model, tokens, long)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-5)
    ((_, batch),) = token_batches(tokens, long, 5, 12)
    assert batch.tokens is not None
    assert batch.tokens.lengths.tolist() == [12, 12]


def test_every_tuned_parameter_gets_a_gradient(model: nn.Module, tokens: ItemTokens) -> None:
    model.train()
    keys = encode_tokens(model, tokens, CPU)
    ((_, batch),) = token_batches(tokens, HISTORIES, 5, 40)
    targets = torch.tensor([3, 0, 7, 1])
    model.finetune_loss(replace(batch, targets=targets), keys).backward()
    reached = list(model.finetuned_parameters())
    assert len(reached) > 30
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in reached)


def test_recomputing_the_layers_changes_no_gradient(
    model: nn.Module, description: ModelDescription, tokens: ItemTokens
) -> None:
    thrifty = replace(description, config=replace(description.config, recompute=True)).build()
    thrifty.load_state_dict(model.state_dict())
    keys = encode_tokens(model, tokens, CPU)
    ((_, batch),) = token_batches(tokens, HISTORIES, 5, 40)
    batch = replace(batch, targets=torch.tensor([3, 0, 7, 1]))
    gradients, passes = [], []
    for each in (model, thrifty):
        calls: list[None] = []
        each.layers[0].register_forward_pre_hook(lambda *_, seen=calls: seen.append(None))  # type: ignore[index,union-attr]
        passes.append(calls)
        torch.manual_seed(1)
        each.train().finetune_loss(batch, keys).backward()
        gradients.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    assert [len(calls) for calls in passes] == [1, 2]
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def loader(tokens: ItemTokens, per_step: int = 3, second_half: bool = True) -> HistoryLoader:
    generator = np.random.default_rng(1)
    rows = [generator.integers(0, 12, length).tolist() for length in (2, 7, 3, 1, 9, 4, 2)]
    both = [TrainingLog("a", Ragged.from_lists(rows), 12), TrainingLog("b", Ragged.from_lists(rows[:3]), 12)]
    joined = JoinedTokens([tokens, tokens])
    return HistoryLoader(TrainingLogs(both), joined, 5, 40, per_step, Mixing(), second_half, seed=0)


def history_of(batch: SequenceBatch, row: int) -> list[int]:
    return batch.items[batch.offsets[row] : batch.offsets[row + 1]].tolist()


@pytest.mark.parametrize("second_half", [True, False])
def test_each_user_has_one_target_an_epoch(second_half: bool, tokens: ItemTokens) -> None:
    steps, seen = loader(tokens, second_half=second_half), set()
    sequences = steps.logs.sequences
    for _ in range(20):
        users = []
        for batch in steps:
            found = batch.sequences
            assert found.tokens is not None
            assert len(found.tokens) == len(found.targets) == len(found)
            for row, user in enumerate(found.users.tolist()):
                whole, history = sequences[user].tolist(), history_of(found, row)
                target = int(found.targets[row])
                ends = [n for n in range(1, len(whole)) if whole[n] == target and whole[max(0, n - 5) : n] == history]
                assert any(n >= max(1, (len(whole) - 1) // 2) for n in ends) or not second_half
                seen |= {(user, ends[0])} if len(ends) == 1 else set()
                users.append(user)
        assert sorted(users) == [user for user in range(10) if len(sequences[user]) > 1]
    assert any(user == 4 and end < 4 for user, end in seen) != second_half  # user 4 has nine items


def test_processes_share_the_steps_of_one(tokens: ItemTokens) -> None:
    alone = [sorted(zip(b.sequences.users.tolist(), b.sequences.targets.tolist(), strict=True)) for b in loader(tokens)]
    shared: list[list[tuple[int, int]]] = [[] for _ in alone]
    for rank in range(2):
        part = loader(tokens)
        part.shard(rank, 2)
        for number, batch in enumerate(part):
            shared[number] += zip(batch.sequences.users.tolist(), batch.sequences.targets.tolist(), strict=True)
    assert [sorted(step) for step in shared] == alone


class PretrainingLoss(nn.Module):
    """DDP wraps what `forward` computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pairs: TokenPairs) -> Tensor:
        loss: Tensor = self.model.pretrain_loss(pairs)  # type: ignore[operator]
        return loss


def step_gradients(rank: int, processes: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of the first step of pre-training, without dropout, of one process or of several under DDP."""
    generator = np.random.default_rng(0)
    offsets = np.cumsum([0, *range(1, 13)])
    catalogue = ItemTokens(
        generator.integers(5, 90, offsets[-1]), generator.integers(1, 3, offsets[-1]).astype(np.uint8), offsets, 2
    )
    torch.manual_seed(0)
    model = Recformer(replace(CONFIGS["recformer"], language_head=True)).eval()
    pairs = TokenPairsLoader(loader(catalogue, per_step=9), WordMasking(np.arange(90) % 3 == 0, 3, seed=0, share=0.4))
    pairs.shard(rank, processes)
    trained: nn.Module = PretrainingLoss(model)
    if processes > 1:
        trained = DistributedDataParallel(trained)
    loss = trained(next(iter(pairs)).pairs)
    loss.backward()
    return loss.detach(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    loss, gradients = step_gradients(0, 1)
    losses, of_each = zip(*made_by_two(__file__, tmp_path), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss, atol=1e-4, rtol=1e-5)
    for found in of_each:
        assert found.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(
                found[key], gradient, atol=1e-4, rtol=1e-3, msg=lambda text, k=key: f"{k}: {text}"
            )


if __name__ == "__main__":
    folder, process_rank = sys.argv[1], int(sys.argv[2])
    join(folder, process_rank)
    leave(folder, process_rank, step_gradients(process_rank, 2))
