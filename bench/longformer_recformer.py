"""The released arrangement of Recformer on transformers' Longformer; run by `recformer.py` in an environment of its own.

Arguments: a folder with `weights.safetensors` (released names) and `inputs.npz` (`ids`, `types`, `item_positions` flat,
`offsets` of the sequences, `batches` bounds in sequences), then forward | train, fp32 | bf16, the repeats and the threads.
Batches are padded to their longest sequence and then to a multiple of the window, as released. Prints what
`recformer_timing.measure` does, and leaves the pooled vectors in `baseline.npy`.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from recformer_timing import measure
from safetensors.torch import load_file
from torch import nn
from transformers import LongformerConfig
from transformers.models.longformer.modeling_longformer import LongformerEncoder

folder, what, precision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
repeats = int(sys.argv[4])
torch.set_num_threads(int(sys.argv[5]))
sizes = json.loads((folder / "sizes.json").read_text())


class Embeddings(nn.Module):
    """Word + token position + token type + item position, LayerNorm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        width = sizes["hidden_size"]
        self.word_embeddings = nn.Embedding(sizes["vocabulary"], width)
        self.position_embeddings = nn.Embedding(sizes["positions"], width)
        self.token_type_embeddings = nn.Embedding(4, width)
        self.item_position_embeddings = nn.Embedding(sizes["max_items"] + 1, width)
        self.LayerNorm = nn.LayerNorm(width, eps=sizes["layer_norm_eps"])
        self.dropout = nn.Dropout(sizes["dropout"])

    def forward(self, ids: torch.Tensor, types: torch.Tensor, item_positions: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1]) + sizes["first_position"]
        vectors = self.word_embeddings(ids) + self.position_embeddings(places)
        vectors = vectors + self.token_type_embeddings(types) + self.item_position_embeddings(item_positions)
        return self.dropout(self.LayerNorm(vectors))


class Recformer(nn.Module):
    """State of the first token, which is global."""

    def __init__(self) -> None:
        super().__init__()
        config = LongformerConfig(
            attention_window=[sizes["window"]] * sizes["layers"],
            num_hidden_layers=sizes["layers"],
            hidden_size=sizes["hidden_size"],
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["inner_size"],
            hidden_dropout_prob=sizes["dropout"],
            attention_probs_dropout_prob=sizes["attention_dropout"],
            layer_norm_eps=sizes["layer_norm_eps"],
            vocab_size=sizes["vocabulary"],
        )
        self.embeddings = Embeddings()
        self.encoder = LongformerEncoder(config)

    def forward(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        ids, types, item_positions, mask = batch
        embedded = self.embeddings(ids, types, item_positions)
        additive = (1.0 - mask) * torch.finfo(embedded.dtype).min
        states = self.encoder(embedded, attention_mask=additive, return_dict=True).last_hidden_state
        return states[:, 0]


def padded(inputs: dict[str, np.ndarray], first: int, end: int) -> tuple[torch.Tensor, ...]:
    offsets = inputs["offsets"]
    lengths = np.diff(offsets[first : end + 1])
    longest = -(-int(lengths.max()) // sizes["window"]) * sizes["window"]
    there = np.arange(longest) < lengths[:, None]
    tokens = slice(offsets[first], offsets[end])
    cells = []
    for name, filling in (("ids", 1), ("types", 3), ("item_positions", 0)):
        cell = np.full(there.shape, filling, np.int64)
        cell[there] = inputs[name][tokens]
        cells.append(torch.from_numpy(cell))
    mask = torch.from_numpy(there.astype(np.float32))
    mask[:, 0] = 2.0  # global
    return (*cells, mask)


model = Recformer()
state = {name.removeprefix("longformer."): tensor for name, tensor in load_file(folder / "weights.safetensors").items()}
state.pop("embeddings.position_ids")
model.load_state_dict(state)
with np.load(folder / "inputs.npz") as stored:
    inputs = dict(stored)
bounds = inputs["batches"]
batches = [padded(inputs, first, end) for first, end in itertools.pairwise(bounds)]
cells = sum(batch[0].numel() for batch in batches)
measure(model, model, batches, what, precision, repeats, cells, folder / "baseline.npy")
