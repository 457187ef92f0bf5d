"""Pre-training in the released shape of computation, as the yardstick of ours: padded, every cell by itself, pure PyTorch.

    python bench/pretrain_baseline.py unisrec --rows 256 --steps 3        on sequences drawn here
    from pretrain_baseline import measure                                  on sequences and item vectors or codes of your own

Each training row is one prefix of a user, padded to 50 cells. UniSRec's adaptor (8 experts, 768 -> 300) runs on every
cell of the history and of its augmented view, [B, 50, 768]; VQ-Rec looks up 32 code embeddings for every cell. The Transformer
runs on [B, 50, 300] with a causal and padding mask, and only the last real position of a row is used. Losses: those of
the papers (temperature 0.07, in-batch negatives, equal targets masked; UniSRec adds 1e-3 of the sequence-sequence
contrast, VQ-Rec one semi-synthetic negative a row). Adam, float32.

Kinder than the release in two ways: masked pairs are left out rather than counted as exp(0), and the table of item vectors
lies on the device, where the release gathers on the CPU and sends [B, 50, 768] to the device twice a step.

A step keeps 14 MiB of activations a row for UniSRec, 4 for VQ-Rec (28 and 8 GiB at 2,048 rows); `rows` may be smaller.
It depends on nothing of linguarec.
"""

import argparse
import json
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

ITEM_DROP, ITEM_DROP_SHARE = 0.2, 0.9  # ratio of the items; how often the view is by item drop, else by word drop

Model = Literal["unisrec", "vqrec"]


@dataclass(frozen=True)
class Sizes:
    """Sizes and settings of a model, by default those of the published pre-training.

    `window`: cells of a row. `sequence_weight` of UniSRec's sequence-sequence contrast. `replaced_codes`: fraction of the codes
    of VQ-Rec's semi-synthetic negatives that are drawn at random.
    """

    hidden: int = 300
    heads: int = 2
    inner: int = 256
    layers: int = 2
    window: int = 50
    dropout: float = 0.5
    temperature: float = 0.07
    experts: int = 8
    adaptor_dropout: float = 0.2
    sequence_weight: float = 1e-3
    centroids: int = 256
    replaced_codes: float = 0.75

    @classmethod
    def of_released(cls, settings: Mapping[str, Any]) -> "Sizes":
        """Those of a released checkpoint's settings; a model without an adaptor or codes keeps the defaults of those."""
        found = {ours: settings[theirs] for ours, theirs in RELEASED_NAMES.items() if theirs in settings}
        return cls(**found)


RELEASED_NAMES = {
    "hidden": "hidden_size",
    "heads": "n_heads",
    "inner": "inner_size",
    "layers": "n_layers",
    "window": "MAX_ITEM_LIST_LENGTH",
    "dropout": "hidden_dropout_prob",
    "temperature": "temperature",
    "experts": "n_exps",
    "adaptor_dropout": "adaptor_dropout_prob",
    "sequence_weight": "lambda",
    "centroids": "code_cap",
    "replaced_codes": "fake_idx_ratio",
}


@dataclass(frozen=True)
class Speed:
    """What was measured: medians over the steps; `peak_memory_gib` of the device, on a CPU of the whole process."""

    model: str
    device: str
    rows_per_step: int
    steps: int
    seconds_per_step: float
    rows_per_second: float
    peak_memory_gib: float
    last_loss: float


@dataclass(frozen=True)
class Rows:
    """Padded rows: `histories` [B, L] (item + 1 from the left, 0 = padding), `lengths` [B], `targets` [B] (item + 1)."""

    histories: Tensor
    lengths: Tensor
    targets: Tensor


class Prefixes:
    """All (history, target) pairs of the sequences `items` [T], `offsets` [U + 1]: every prefix is a row of `window` cells."""

    def __init__(self, items: npt.NDArray[Any], offsets: npt.NDArray[Any], window: int = 50) -> None:
        self.items = np.asarray(items)
        self.window = window
        self.starts = np.repeat(offsets[:-1], np.diff(offsets))
        self.targets = np.flatnonzero(np.arange(len(self.items)) > self.starts)

    def draw(self, generator: np.random.Generator, rows: int, device: torch.device) -> Rows:
        """Random rows, each with the last `window` items before its target."""
        targets = self.targets[generator.integers(len(self.targets), size=rows)]
        lengths = np.minimum(targets - self.starts[targets], self.window)
        cells = (targets - lengths)[:, None] + np.arange(self.window)
        inside = np.arange(self.window) < lengths[:, None]
        histories = np.where(inside, self.items[np.minimum(cells, len(self.items) - 1)].astype(np.int64) + 1, 0)
        arrays = (histories, lengths, self.items[targets].astype(np.int64) + 1)
        return Rows(*(torch.from_numpy(array).to(device) for array in arrays))


class Layer(nn.Module):
    """Post-norm Transformer layer with explicit attention scores."""

    def __init__(self, hidden: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.widen, self.narrow = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.attention_norm, self.inner_norm = (nn.LayerNorm(hidden, eps=1e-12) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, mask: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]; `mask` [B, 1, L, L] is added to the scores."""
        query, key, value = (self._split(linear(cells)) for linear in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask
        mixed = self.dropout(scores.softmax(dim=-1)) @ value
        joined = mixed.transpose(1, 2).reshape(cells.shape)
        cells = self.attention_norm(cells + self.dropout(self.out(joined)))
        inner = self.narrow(functional.gelu(self.widen(cells)))
        return self.inner_norm(cells + self.dropout(inner))

    def _split(self, cells: Tensor) -> Tensor:
        rows, length, hidden = cells.shape
        return cells.view(rows, length, self.heads, hidden // self.heads).transpose(1, 2)


class SequenceEncoder(nn.Module):
    """Positions, Transformer layers, the last real cell of each row."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.positions = nn.Embedding(sizes.window, sizes.hidden)
        self.norm = nn.LayerNorm(sizes.hidden, eps=1e-12)
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.ModuleList(
            Layer(sizes.hidden, sizes.heads, sizes.inner, sizes.dropout) for _ in range(sizes.layers)
        )

    def forward(self, histories: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """[B, L] ids, [B] lengths, [B, L, D] inputs -> [B, D], normalised."""
        length = histories.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=histories.device).tril()
        seen = causal & (histories > 0)[:, None, None, :]
        mask = torch.where(seen, 0.0, -10_000.0)
        cells = self.dropout(self.norm(inputs + self.positions.weight[:length]))
        for layer in self.layers:
            cells = layer(cells, mask)
        last = cells[torch.arange(len(cells), device=cells.device), lengths - 1]
        return functional.normalize(last, dim=-1)


class UniSRec(nn.Module):
    """`vectors` [N + 1, F] and `dropped` [N + 1, F] (texts with words left out); row 0 is the padding."""

    def __init__(self, vectors: Tensor, dropped: Tensor, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vectors, self.dropped = vectors, dropped
        width = vectors.shape[1]
        self.experts = nn.ModuleList(nn.Linear(width, sizes.hidden, bias=False) for _ in range(sizes.experts))
        self.shifts = nn.ParameterList(torch.zeros(width) for _ in range(sizes.experts))
        self.gate, self.noise = (nn.Parameter(torch.zeros(width, sizes.experts)) for _ in range(2))
        self.dropout = nn.Dropout(sizes.adaptor_dropout)
        self.encoder = SequenceEncoder(sizes)
        _initialise(self)

    def adapt(self, vectors: Tensor) -> Tensor:
        """Mixture of whitened projections, [..., F] -> [..., D]: dropout and noise of every cell are its own."""
        logits = vectors @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (functional.softplus(vectors @ self.noise) + 1e-2)
        projected = [
            expert(self.dropout(vectors) - shift) for expert, shift in zip(self.experts, self.shifts, strict=True)
        ]
        return (logits.softmax(dim=-1).unsqueeze(-1) * torch.stack(projected, dim=-2)).sum(dim=-2)

    def loss(self, rows: Rows) -> Tensor:
        """Sequence-item contrast plus weighted sequence-sequence contrast."""
        queries = self.encoder(rows.histories, rows.lengths, self.adapt(self.vectors[rows.histories]))
        items = functional.normalize(self.adapt(self.vectors[rows.targets]), dim=-1)
        histories, lengths, vectors = self._view(rows)
        views = self.encoder(histories, lengths, self.adapt(vectors))
        same, temperature = rows.targets[:, None] == rows.targets, self.sizes.temperature
        of_views = contrast(queries, views, same, temperature)
        return contrast(queries, items, same, temperature) + self.sizes.sequence_weight * of_views

    def _view(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """The augmented histories: most often some items dropped, else some items' words dropped."""
        kept = torch.rand(rows.histories.shape, device=rows.histories.device) >= ITEM_DROP
        if torch.rand(()) >= ITEM_DROP_SHARE:
            vectors = torch.where(kept.unsqueeze(-1), self.vectors[rows.histories], self.dropped[rows.histories])
            return rows.histories, rows.lengths, vectors
        kept[:, 0] = True
        kept &= rows.histories > 0
        order = kept.logical_not().to(torch.int8).argsort(dim=1, stable=True)  # kept items first, in their order
        histories = torch.where(kept, rows.histories, 0).gather(1, order)
        return histories, kept.sum(dim=1), self.vectors[histories]


class VQRec(nn.Module):
    """`codes` [N + 1, M] of 0 to K - 1; row 0 is the padding, whose embedding is 0."""

    def __init__(self, codes: Tensor, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        centroids = sizes.centroids
        # Sub-space m has rows m * (K + 1) + 1 to m * (K + 1) + K of one table; row 0 of it is the padding.
        self.first = torch.arange(codes.shape[1], device=codes.device) * (centroids + 1) + 1
        self.rows_of = codes.long() + self.first
        self.rows_of[0] = 0
        self.embedding = nn.Embedding(codes.shape[1] * (centroids + 1), sizes.hidden, padding_idx=0)
        self.encoder = SequenceEncoder(sizes)
        _initialise(self)

    def loss(self, rows: Rows) -> Tensor:
        """Sequence-item contrast with one semi-synthetic negative a row."""
        inputs = self.embedding(self.rows_of[rows.histories]).mean(dim=-2)  # [B, L, M, D] before the mean
        queries = self.encoder(rows.histories, rows.lengths, inputs)
        codes = self.rows_of[rows.targets]
        items, mixed = (functional.normalize(self.embedding(of).mean(-2), dim=-1) for of in (codes, self._mix(codes)))
        same = rows.targets[:, None] == rows.targets
        negatives = (queries * mixed).sum(dim=-1, keepdim=True)
        return contrast(queries, items, same, self.sizes.temperature, negatives)

    def _mix(self, codes: Tensor) -> Tensor:
        uniform = torch.randint_like(codes, self.sizes.centroids) + self.first
        replaced = torch.rand(codes.shape, device=codes.device) < self.sizes.replaced_codes
        return torch.where(replaced, uniform, codes)


def contrast(queries: Tensor, keys: Tensor, same: Tensor, temperature: float, extra: Tensor | None = None) -> Tensor:
    """InfoNCE of row b's query with row b's key; other rows of the same target are no negatives. `extra` [B, E]: more."""
    own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    scores = (queries @ keys.T).masked_fill(same & ~own, float("-inf"))
    if extra is not None:
        scores = torch.cat([scores, extra], dim=1)
    return functional.cross_entropy(scores / temperature, torch.arange(len(queries), device=queries.device))


def measure(
    model: Model,
    items: npt.NDArray[Any],
    offsets: npt.NDArray[Any],
    table: npt.NDArray[Any],
    steps: int,
    rows: int = 2048,
    dropped: npt.NDArray[Any] | None = None,
    warm_up: int = 1,
    device: str = "cpu",
    bfloat16: bool = False,
    seed: int = 0,
) -> Speed:
    """Time of training steps (drawing rows, forward, backward, Adam) of one model.

    Args:
        model: "unisrec" or "vqrec".
        items: [T] item numbers of the training sequences, end to end.
        offsets: [U + 1] where each sequence starts.
        table: item vectors [N, F] (unisrec) or codes [N, M] below 256 (vqrec).
        steps: how many are measured, after `warm_up` others.
        rows: prefixes a step.
        dropped: [N, F] vectors of texts with words left out; by default `table` again, at the same cost.
        device: where tables and model lie.
        bfloat16: autocast; the release trains in float32.
        seed: of rows, weights and augmentation.
    """
    torch.manual_seed(seed)
    where = torch.device(device)
    generator = np.random.default_rng(seed)
    prefixes = Prefixes(items, offsets, Sizes.window)
    sizes = Sizes()
    network: UniSRec | VQRec
    if model == "unisrec":
        vectors = _padded(table, np.float32, where)
        network = UniSRec(vectors, vectors if dropped is None else _padded(dropped, np.float32, where), sizes)
    else:
        network = VQRec(_padded(table, np.uint8, where), sizes)
    network.to(where).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    seconds, loss = [], torch.zeros(())
    for _ in range(warm_up + steps):
        _wait(where)
        started = time.perf_counter()
        drawn = prefixes.draw(generator, rows, where)
        optimiser.zero_grad()
        with torch.autocast(where.type, torch.bfloat16, enabled=bfloat16):
            loss = network.loss(drawn)
        loss.backward()
        optimiser.step()
        _wait(where)
        seconds.append(time.perf_counter() - started)
    middle = float(np.median(seconds[warm_up:]))
    if where.type == "cuda":
        peak = torch.cuda.max_memory_allocated(where) / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Speed(model, device, rows, steps, middle, rows / middle, round(peak, 2), loss.item())


def _padded(table: npt.NDArray[Any], kind: type, device: torch.device) -> Tensor:
    """The table [N + 1, ...] with a row of zeros before it."""
    padded = np.zeros((len(table) + 1, table.shape[1]), dtype=kind)
    padded[1:] = table
    return torch.from_numpy(padded).to(device)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("unisrec", "vqrec"))
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=768, help="of the item vectors")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    lengths = 2 + generator.geometric(
        1 / 6.3, size=20_000
    )  # 8.3 training items a user on average, as in the papers' corpus
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = generator.integers(arguments.items, size=offsets[-1])
    if arguments.model == "unisrec":
        table = generator.standard_normal((arguments.items, arguments.width), dtype=np.float32)
    else:
        table = generator.integers(256, size=(arguments.items, 32), dtype=np.uint8)
    speed = measure(
        arguments.model,
        items,
        offsets,
        table,
        arguments.steps,
        arguments.rows,
        device=arguments.device,
        bfloat16=arguments.bfloat16,
    )
    print(json.dumps(asdict(speed), indent=2))


if __name__ == "__main__":
    main()
