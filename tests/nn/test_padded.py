"""The padded form of each encoder gives the queries of the ragged one; every family that is exported, with each encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from linguarec.batching.histories import history_batches
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import EncoderConfig, GRUConfig, PoolingConfig, TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.scorer import VectorScorer, last_queries
from linguarec.sources.inputs import VectorInputs

ITEMS, WIDTH = 30, 8
ENCODERS: dict[str, EncoderConfig] = {
    "transformer": TransformerConfig(hidden_size=16, inner_size=12, layers=2, heads=2, max_length=9),
    "no-positions": TransformerConfig(hidden_size=16, inner_size=12, heads=4, max_length=9, positions="none"),
    "pooling": PoolingConfig(hidden_size=16, inner_size=12, max_length=9),
}
NAMES = [name for name, family in FAMILIES.items() if family.padded is not None and family.encoders]
PAIRS = [(name, kind) for name in NAMES for kind in ENCODERS if kind.split("-")[0] in ("no", *FAMILIES[name].encoders)]


def scorer_of(name: str, encoder: EncoderConfig) -> tuple[VectorScorer, VectorInputs, DenseRanker]:
    """Fresh weights and random item inputs; larger weights than the initial ones, so that attention tells items apart."""
    torch.manual_seed(0)
    family = FAMILIES[name]
    network = ModelDescription(family, family.config(), encoder, CatalogueShape(ITEMS, WIDTH, 4, 16)).build().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    width = 2 * 16 if name == "fdsa" else 16
    return VectorScorer(network), VectorInputs(torch.randn(ITEMS, width)), DenseRanker(torch.randn(ITEMS, 16))


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@torch.no_grad()
def test_padded_queries_are_the_ragged_ones(name: str, kind: str) -> None:
    scorer, inputs, ranker = scorer_of(name, ENCODERS[kind])
    padded = FAMILIES[name].padded
    assert padded is not None
    model = padded(scorer, inputs, ranker)
    lengths = np.array([5, 1, 12, 9, 8, 3])
    drawn = np.random.default_rng(0).integers(ITEMS, size=lengths.sum())
    histories = Ragged(drawn, np.cumsum([0, *lengths]))
    expected = {}
    for index, batch in history_batches(histories, scorer.max_length):
        read = replace(batch, items=torch.arange(len(batch.items)), only_last=True)
        found = last_queries(scorer.network.queries(read, inputs.rows(batch.items)), batch)
        expected |= dict(zip(index.tolist(), found, strict=True))
    kept = [histories[row][-model.max_length :] for row in range(len(lengths))]
    items = torch.zeros(len(kept), max(map(len, kept)), model.inputs.shape[1])
    for row, history in enumerate(kept):
        items[row, : len(history)] = model.inputs[torch.from_numpy(history)]
    queries = model.network(items, torch.tensor([len(history) for history in kept]))
    torch.testing.assert_close(queries, torch.stack([expected[row] for row in range(len(kept))]), atol=1e-5, rtol=1e-5)
    assert (queries[0] - queries[3]).abs().max() > 1e-2  # they do depend on the history


def test_weights_are_shared_and_the_network_stays_as_it_was() -> None:
    scorer, inputs, ranker = scorer_of("sasrec", ENCODERS["transformer"])
    before = dict(scorer.network.named_modules())
    padded = FAMILIES["sasrec"].padded
    assert padded is not None
    model = padded(scorer, inputs, ranker)
    assert dict(scorer.network.named_modules()) == before
    theirs = {weight.data_ptr() for weight in scorer.network.parameters()}
    assert {weight.data_ptr() for weight in model.network.parameters()} <= theirs


def test_a_gru_is_refused() -> None:
    scorer, inputs, ranker = scorer_of("sasrec", GRUConfig(hidden_size=16, inner_size=12, max_length=9))
    padded = FAMILIES["sasrec"].padded
    assert padded is not None
    with pytest.raises(SettingsError, match="a GRU has no padded form; the Transformer and pooling have one"):
        padded(scorer, inputs, ranker)
