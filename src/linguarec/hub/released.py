"""Weights of the released code (RecBole's SASRec, UniSRec, VQ-Rec) under our names.

The key maps are tables. Released embeddings carry a padding row 0 that the released fine-tuning scores as one more class; it is
returned apart as the null class, for parity with released losses only.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from linguarec.errors import CheckpointMismatchError

# released pattern -> our name; {i} is a layer, {e} an expert. Several released tensors with one target are joined along dim 0.
_LAYER = "trm_encoder.layer.{i}."
KEYS: dict[str, str] = {
    "position_embedding.weight": "encoder.position.weight",
    "LayerNorm.weight": "encoder.input_norm.weight",
    "LayerNorm.bias": "encoder.input_norm.bias",
    **{
        f"{_LAYER}multi_head_attention.{part}.{kind}": f"encoder.layers.{{i}}.attention.query_key_value.{kind}"
        for kind in ("weight", "bias")
        for part in ("query", "key", "value")
    },
    **{
        f"{_LAYER}{theirs}.{kind}": f"encoder.layers.{{i}}.{ours}.{kind}"
        for kind in ("weight", "bias")
        for theirs, ours in (
            ("multi_head_attention.dense", "attention.output"),
            ("multi_head_attention.LayerNorm", "attention_norm"),
            ("feed_forward.dense_1", "inner"),
            ("feed_forward.dense_2", "outer"),
            ("feed_forward.LayerNorm", "outer_norm"),
        )
    },
    "item_embedding.weight": "item.weight",
    "moe_adaptor.w_gate": "adaptor.gate",
    "moe_adaptor.w_noise": "adaptor.noise",
    "moe_adaptor.experts.{e}.bias": "adaptor.shift",
    "moe_adaptor.experts.{e}.lin.weight": "adaptor.weight",
    "pq_code_embedding.weight": "codes.weight",
}
# Released tensors without a counterpart: item vectors are data, the permutation matrix belongs to transfer.
DATA_KEYS = ("plm_embedding.weight", "trans_matrix")


@dataclass(frozen=True)
class ReleasedWeights:
    """`tensors` under our names; `null_item` [D]: the padding row of an item table; `left_out`: released keys without use."""

    tensors: dict[str, Tensor]
    null_item: Tensor | None
    left_out: list[str]


def from_released(state: dict[str, Tensor], centroids: int | None = None) -> ReleasedWeights:
    """Rename and reshape a released state dict.

    Args:
        state: released names -> tensors.
        centroids: K, needed where the state holds a code table [M*(K+1), D].

    Raises:
        CheckpointMismatchError: a key that no table row explains, or a code table that K does not divide.
    """
    patterns = [(re.compile(_as_regex(theirs)), ours) for theirs, ours in KEYS.items()]
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    left_out, unknown = [], []
    for key, tensor in state.items():
        if key in DATA_KEYS:
            left_out.append(key)
            continue
        found = next(
            ((match, ours, rank) for rank, (regex, ours) in enumerate(patterns) if (match := regex.fullmatch(key))),
            None,
        )
        if found is None:
            unknown.append(key)
            continue
        match, ours, rank = found
        groups = match.groupdict()
        name = ours.format(i=groups.get("i", ""))
        parts.setdefault(name, []).append((int(groups["e"]) if "e" in groups else rank, tensor))
    if unknown:
        raise CheckpointMismatchError("keys that no released SASRec, UniSRec or VQ-Rec has:\n" + "\n".join(unknown))
    tensors = {}
    for name, pieces in parts.items():
        ordered = [tensor for _, tensor in sorted(pieces, key=lambda piece: piece[0])]
        join = torch.stack if name in ("adaptor.shift", "adaptor.weight") else torch.cat
        tensors[name] = join(ordered) if len(ordered) > 1 else ordered[0]
    null_item = None
    if "item.weight" in tensors:
        null_item, tensors["item.weight"] = tensors["item.weight"][0], tensors["item.weight"][1:]
    if "codes.weight" in tensors:
        table = tensors["codes.weight"]
        if centroids is None or len(table) % (centroids + 1):
            raise CheckpointMismatchError(
                f"pq_code_embedding.weight has {len(table)} rows, which is no multiple of "
                f"centroids + 1 = {(centroids or 0) + 1}"
            )
        null_item = table[0]
        tensors["codes.weight"] = table.view(-1, centroids + 1, table.shape[1])[:, 1:].flatten(0, 1)
    return ReleasedWeights(tensors, null_item, left_out)


def _as_regex(pattern: str) -> str:
    escaped = re.escape(pattern)
    return escaped.replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
