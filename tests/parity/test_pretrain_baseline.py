"""The padded pre-training that `bench/` measures against computes what the released code computes."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.07


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


def released(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs, and the weights."""
    stored = torch.load(folder / "official.pth", weights_only=True)
    return load_file(folder / "io.safetensors"), stored["state_dict"]


def encoder_with(baseline: ModuleType, weights: dict[str, Tensor]) -> torch.nn.Module:
    """The baseline's sequence encoder with released weights."""
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
    encoder = baseline.SequenceEncoder(hidden=32, heads=2, inner=64, layers=2)
    state = {
        f"layers.{layer}.{ours}.{kind}": weights[f"trm_encoder.layer.{layer}.{theirs}.{kind}"]
        for layer in range(2)
        for ours, theirs in parts.items()
        for kind in ("weight", "bias")
    }
    state |= {f"norm.{kind}": weights[f"LayerNorm.{kind}"] for kind in ("weight", "bias")}
    state["positions.weight"] = functional.pad(weights["position_embedding.weight"], (0, 0, 0, baseline.WINDOW - 20))
    encoder.load_state_dict(state)
    return encoder


def masked_as_one(queries: Tensor, keys: Tensor, same: Tensor, extra: Tensor | None = None) -> Tensor:
    """The released loss, where each masked pair adds exp(0)."""
    scores = queries @ keys.T / TEMPERATURE
    others = torch.where(same & ~torch.eye(len(same), dtype=torch.bool), 0.0, scores).exp().sum(dim=1)
    if extra is not None:
        others = others + (extra / TEMPERATURE).exp().sum(dim=1)
    return (others.log() - scores.diagonal()).mean()


@torch.no_grad()
def test_unisrec(baseline: ModuleType, shared: Path) -> None:
    found, weights = released(shared / "fixtures/unisrec_pretrain")
    model = baseline.UniSRec(found["plm_embedding"], found["plm_embedding"], hidden=32)
    model.encoder = encoder_with(baseline, weights)
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
    torch.testing.assert_close(masked_as_one(queries, items, same), found["loss_seq_item"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(masked_as_one(queries, views, same), found["loss_seq_seq"][0], atol=1e-4, rtol=0)
    # Ours leaves masked pairs out: with none masked both are one.
    torch.testing.assert_close(
        baseline.contrast(queries[:4], items[:4], torch.eye(4, dtype=torch.bool)),
        masked_as_one(queries[:4], items[:4], torch.eye(4, dtype=torch.bool)),
    )


@torch.no_grad()
def test_vqrec(baseline: ModuleType, shared: Path) -> None:
    found, weights = released(shared / "fixtures/vqrec_pretrain")
    flat = found["pq_codes"]
    codes = (flat - torch.arange(4) * 17 - 1).clamp(min=0)
    model = baseline.VQRec(codes, centroids=16, hidden=32)
    assert torch.equal(model.rows_of, flat)
    model.encoder = encoder_with(baseline, weights)
    model.embedding.weight.copy_(weights["pq_code_embedding.weight"])
    model.eval()
    queries = model.encoder(found["item_seq"], found["item_seq_len"], model.embedding(flat[found["item_seq"]]).mean(-2))
    torch.testing.assert_close(queries, functional.normalize(found["seq_output"], dim=-1), atol=1e-5, rtol=0)
    items, mixed = (
        functional.normalize(model.embedding(of).mean(-2), dim=-1)
        for of in (flat[found["pos_items"]], found["fake_codes"])
    )
    same = found["pos_items"][:, None] == found["pos_items"]
    negatives = (queries * mixed).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(masked_as_one(queries, items, same, negatives), found["loss"][0], atol=1e-4, rtol=0)


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
