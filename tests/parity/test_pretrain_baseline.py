"""The padded pre-training that `bench/` measures against computes what the released code computes."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Released:
    """A released model: its settings as the baseline takes them, inputs and outputs, weights."""

    sizes: Any
    io: dict[str, Tensor]
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def baseline() -> Iterator[ModuleType]:
    file = Path(__file__).parents[2] / "bench" / "pretrain_baseline.py"
    spec = importlib.util.spec_from_file_location("pretrain_baseline", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["pretrain_baseline"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pretrain_baseline"]


def read(baseline: ModuleType, folder: Path) -> Released:
    stored = torch.load(folder / "official.pth", weights_only=True)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Released(baseline.Sizes.of_released(settings), load_file(folder / "io.safetensors"), stored["state_dict"])


def load_encoder(encoder: torch.nn.Module, released: Released) -> None:
    """Give the baseline's sequence encoder the released weights."""
    parts = {
        "query": "multi_head_attention.query",
        "key": "multi_head_attention.key",
        "value": "multi_head_attention.value",
        "out": "multi_head_attention.dense",
        "attention_norm": "multi_head_attention.LayerNorm",
        "widen": "feed_forward.dense_1",
        "narrow": "feed_forward.dense_2",
        "inner_norm": "feed_forward.LayerNorm",
    }
    weights = released.weights
    state = {
        f"layers.{layer}.{ours}.{kind}": weights[f"trm_encoder.layer.{layer}.{theirs}.{kind}"]
        for layer in range(released.sizes.layers)
        for ours, theirs in parts.items()
        for kind in ("weight", "bias")
    }
    state |= {f"norm.{kind}": weights[f"LayerNorm.{kind}"] for kind in ("weight", "bias")}
    state["positions.weight"] = weights["position_embedding.weight"]
    encoder.load_state_dict(state)


def masked_as_one(
    queries: Tensor, keys: Tensor, same: Tensor, temperature: float, extra: Tensor | None = None
) -> Tensor:
    """The released loss, where each masked pair adds exp(0)."""
    scores = queries @ keys.T / temperature
    others = torch.where(same & ~torch.eye(len(same), dtype=torch.bool), 0.0, scores).exp().sum(dim=1)
    if extra is not None:
        others = others + (extra / temperature).exp().sum(dim=1)
    return (others.log() - scores.diagonal()).mean()


@torch.no_grad()
def test_unisrec(baseline: ModuleType, released_outputs: Path) -> None:
    released = read(baseline, released_outputs / "unisrec_pretrain")
    found, weights, sizes = released.io, released.weights, released.sizes
    assert sizes.hidden == found["seq_output"].shape[1]
    model = baseline.UniSRec(found["plm_embedding"], found["plm_embedding"], sizes)
    load_encoder(model.encoder, released)
    model.gate.copy_(weights["moe_adaptor.w_gate"])
    for number, expert in enumerate(model.experts):
        expert.weight.copy_(weights[f"moe_adaptor.experts.{number}.lin.weight"])
        model.shifts[number].copy_(weights[f"moe_adaptor.experts.{number}.bias"])
    model.eval()
    torch.testing.assert_close(model.adapt(model.vectors), found["item_emb"], atol=1e-5, rtol=0)

    def view(sequences: Tensor, lengths: Tensor) -> Tensor:
        encoded: Tensor = model.encoder(sequences, lengths, model.adapt(model.vectors[sequences]))
        return encoded

    queries = view(found["item_seq"], found["item_seq_len"])
    views = view(found["aug_item_seq"], found["aug_item_seq_len"])
    expected = functional.normalize(found["seq_output"], dim=-1)
    torch.testing.assert_close(queries, expected, atol=1e-5, rtol=0)
    items = functional.normalize(model.adapt(model.vectors[found["pos_items"]]), dim=-1)
    same = found["pos_items"][:, None] == found["pos_items"]
    by_items, by_views = (masked_as_one(queries, keys, same, sizes.temperature) for keys in (items, views))
    torch.testing.assert_close(by_items, found["loss_seq_item"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(by_views, found["loss_seq_seq"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(by_items + sizes.sequence_weight * by_views, found["loss"][0], atol=1e-4, rtol=0)
    # Ours leaves masked pairs out: with none masked both are one.
    none = torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(
        baseline.contrast(queries[:4], items[:4], none, sizes.temperature),
        masked_as_one(queries[:4], items[:4], none, sizes.temperature),
    )


@torch.no_grad()
def test_vqrec(baseline: ModuleType, released_outputs: Path) -> None:
    released = read(baseline, released_outputs / "vqrec_pretrain")
    found, sizes = released.io, released.sizes
    flat = found["pq_codes"]
    codes = (flat - torch.arange(flat.shape[1]) * (sizes.centroids + 1) - 1).clamp(min=0)
    assert int(codes.max()) == sizes.centroids - 1
    model = baseline.VQRec(codes, sizes)
    assert torch.equal(model.rows_of, flat)
    load_encoder(model.encoder, released)
    model.embedding.weight.copy_(released.weights["pq_code_embedding.weight"])
    model.eval()
    queries = model.encoder(found["item_seq"], found["item_seq_len"], model.embedding(flat[found["item_seq"]]).mean(-2))
    torch.testing.assert_close(queries, functional.normalize(found["seq_output"], dim=-1), atol=1e-5, rtol=0)
    items, mixed = (
        functional.normalize(model.embedding(of).mean(-2), dim=-1)
        for of in (flat[found["pos_items"]], found["fake_codes"])
    )
    same = found["pos_items"][:, None] == found["pos_items"]
    negatives = (queries * mixed).sum(dim=-1, keepdim=True)
    loss = masked_as_one(queries, items, same, sizes.temperature, negatives)
    torch.testing.assert_close(loss, found["loss"][0], atol=1e-4, rtol=0)


def test_sizes_of_a_released_checkpoint(baseline: ModuleType) -> None:
    """A model without codes keeps the published number of centroids; what is renamed keeps its value."""
    settings = {"hidden_size": 32, "n_heads": 4, "inner_size": 64, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 20}
    found = baseline.Sizes.of_released({**settings, "temperature": 0.1, "lambda": 0.5, "n_exps": 3, "device": "cpu"})
    published = baseline.Sizes()
    expected = replace(
        published, hidden=32, heads=4, inner=64, layers=1, window=20, temperature=0.1, sequence_weight=0.5, experts=3
    )
    assert found == expected
    assert (published.hidden, published.window, published.centroids, published.temperature) == (300, 50, 256, 0.07)


def test_rows_are_prefixes_padded_on_the_right(baseline: ModuleType) -> None:
    import numpy as np

    items, offsets = np.array([7, 3, 5, *range(100, 160)]), np.array([0, 3, 63])
    prefixes = baseline.Prefixes(items, offsets)
    assert prefixes.targets.tolist() == [1, 2, *range(4, 63)]
    rows = prefixes.draw(np.random.default_rng(0), 500, torch.device("cpu"))
    for history, length, target in zip(rows.histories, rows.lengths, rows.targets, strict=True):
        sequence = [8, 4, 6] if target < 100 else list(range(101, 161))
        before = sequence[: sequence.index(int(target))][-50:]
        assert history.tolist() == before + [0] * (50 - int(length))


def test_a_step_of_each_model_trains(baseline: ModuleType) -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    items, offsets = generator.integers(40, size=60), np.arange(0, 61, 6)
    vectors = generator.standard_normal((40, 12), dtype=np.float32)
    codes = generator.integers(256, size=(40, 4), dtype=np.uint8)
    for model, table in (("unisrec", vectors), ("vqrec", codes)):
        speed = baseline.measure(model, items, offsets, table, steps=2, rows=16)
        assert (speed.rows_per_step, speed.steps) == (16, 2)
        assert 0 < speed.last_loss < 30
        assert speed.rows_per_second == pytest.approx(16 / speed.seconds_per_step)
