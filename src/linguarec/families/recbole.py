"""Renames weights of the released code (RecBole's SASRec and BERT4Rec, UniSRec and its FDSA, VQ-Rec), and back.

Forms, keys and shapes are tables. Tensors that linguarec's models do not have are kept under names of their own, so that the
conversion back gives the same tensors bit by bit: the padding row of an item table, slot 0 of each codebook, the item vectors
of a fine-tuned UniSRec, and VQ-Rec's `trans_matrix`.

`trans_matrix` is not applied. It holds the logits from which the released trainer draws a mapping of codes in its first epochs;
the code table already contains that mapping afterwards, and the released model reads the table unchanged.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from linguarec.errors import CheckpointMismatchError

# Released key -> linguarec's name, or several of them, which get the same tensor; {i} is a layer, {e} an expert. Several
# released tensors with one target are joined along dim 0, in this order; experts are stacked.
_LAYER = "trm_encoder.layer.{i}."
TRANSFORMER: dict[str, str] = {
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
}
ADAPTOR: dict[str, str] = {
    "moe_adaptor.w_gate": "adaptor.gate",
    "moe_adaptor.w_noise": "adaptor.noise",
    "moe_adaptor.experts.{e}.bias": "adaptor.shift",
    "moe_adaptor.experts.{e}.lin.weight": "adaptor.weight",
}
# FDSA reads IDs and texts by two Transformers with one table of positions. One LayerNorm serves both inputs and the output.
FDSA_TRANSFORMERS: dict[str, str | tuple[str, ...]] = {
    "position_embedding.weight": ("encoder.position.weight", "feature_encoder.position.weight"),
    **{
        f"LayerNorm.{kind}": (f"encoder.input_norm.{kind}", f"feature_encoder.input_norm.{kind}", f"output_norm.{kind}")
        for kind in ("weight", "bias")
    },
    **{
        f"{stream}_{theirs}": f"{prefix}{ours}"
        for stream, prefix in (("item", ""), ("feature", "feature_"))
        for theirs, ours in TRANSFORMER.items()
        if theirs.startswith("trm_encoder.")
    },
}
LINEAR_ADAPTOR: dict[str, str] = {f"adapter.mlp_layers.1.{kind}": f"adaptor.{kind}" for kind in ("weight", "bias")}
MERGE: dict[str, str] = {f"concat_layer.{kind}": f"merge.{kind}" for kind in ("weight", "bias")}
HEAD: dict[str, str] = {  # of BERT4Rec
    "output_ffn.weight": "head.dense.weight",
    "output_ffn.bias": "head.dense.bias",
    "output_ln.weight": "head.norm.weight",
    "output_ln.bias": "head.norm.bias",
}
ITEMS, CODES = "item_embedding.weight", "pq_code_embedding.weight"
BIAS = "output_bias"  # a row for each item and the padding
# Of S3-Rec's self-supervision; the model that is used has none of them.
ATTRIBUTES = "feature_embedding.weight"
TASKS: dict[str, str] = {  # released key -> shape
    ATTRIBUTES: "NF",
    "adapter.mlp_layers.1.weight": "DF",
    "adapter.mlp_layers.1.bias": "D",
    **{
        f"{task}_norm.{kind}": "DD" if kind == "weight" else "D"
        for task in ("aap", "mip", "map", "sp")
        for kind in ("weight", "bias")
    },
}
VECTORS, TRANS_MATRIX = "plm_embedding.weight", "trans_matrix"  # not parameters in linguarec: item vectors are data
KEYS: dict[str, str] = {
    **ADAPTOR, **LINEAR_ADAPTOR, **MERGE, **HEAD, ITEMS: "item.weight", BIAS: "bias", CODES: "codes.weight"
}  # fmt: skip

# Letters of shapes: D width, I inner width, L longest history, F width of the text vectors, E experts, N items + padding,
# R rows of an item table with one for the mask = N + 1, M codebooks, P centroids + slot 0, C rows of the code table = M * P,
# S width of two states = 2 * D.
_SHAPES: dict[str, str] = {
    "position_embedding.weight": "LD",
    **{key: "DD" if key.endswith("weight") else "D" for key in TRANSFORMER if "multi_head_attention" in key},
    **{key: "D" for key in TRANSFORMER if "LayerNorm" in key},
    f"{_LAYER}feed_forward.dense_1.weight": "ID",
    f"{_LAYER}feed_forward.dense_1.bias": "I",
    f"{_LAYER}feed_forward.dense_2.weight": "DI",
    f"{_LAYER}feed_forward.dense_2.bias": "D",
    "moe_adaptor.w_gate": "FE",
    "moe_adaptor.w_noise": "FE",
    "moe_adaptor.experts.{e}.bias": "F",
    "moe_adaptor.experts.{e}.lin.weight": "DF",
    **{key: "DD" if key == "output_ffn.weight" else "D" for key in HEAD},
    ITEMS: "ND",
    BIAS: "N",
    **TASKS,
    VECTORS: "NF",
    TRANS_MATRIX: "MPP",
    CODES: "CD",
    "adapter.mlp_layers.1.weight": "DF",
    "adapter.mlp_layers.1.bias": "D",
    "concat_layer.weight": "DS",
    "concat_layer.bias": "D",
}
SHAPES: dict[str, str] = _SHAPES | {
    f"{stream}_{key}": shape
    for stream in ("item", "feature")
    for key, shape in _SHAPES.items()
    if key.startswith("trm_encoder.")
}
SETTING_OF_LETTER = {
    "D": "hidden_size",
    "I": "inner_size",
    "L": "MAX_ITEM_LIST_LENGTH",
    "F": "plm_size",
    "E": "n_exps",
    "M": "code_dim",
}
PADDING = "padding of "  # + released key: the name under which a padding row is kept
MASK = f"mask of {ITEMS}"  # the name under which the row of the mask is kept, for a model that has no such tensor


@dataclass(frozen=True)
class ReleasedForm:
    """A type of released checkpoint: linguarec's model, the keys beside the Transformer's, and the keys that identify it.

    `transformer`: names of the tensors of the Transformer, or of two. `mask`: name of the tensor that is the last row of its
    item table, the input of masked places; `MASK` = it is no tensor of the model, None = no such row. `carried`: keys of
    tensors that are no part of the model, although another form has a name for them.
    """

    title: str
    model: str
    keys: tuple[str, ...]
    marks: tuple[str, ...]
    transformer: Mapping[str, str | tuple[str, ...]] = field(default_factory=lambda: TRANSFORMER)
    mask: str | None = None
    carried: tuple[str, ...] = ()

    def names(self, pattern: str) -> tuple[str, ...]:
        """linguarec's names of a released tensor; none = it is carried."""
        if pattern in self.carried:
            return ()
        found: str | tuple[str, ...] = self.transformer.get(pattern, KEYS.get(pattern, ()))
        return (found,) if isinstance(found, str) else found

    def shape(self, pattern: str) -> str:
        """The letters of the shape of a tensor."""
        return "RD" if pattern == ITEMS and self.mask else SHAPES[pattern]


FORMS = (  # the first form whose `marks` are all in the file is used
    ReleasedForm("VQ-Rec", "vqrec", (TRANS_MATRIX, CODES), (CODES,)),
    ReleasedForm(
        "transductive UniSRec", "unisrec-transductive", (ITEMS, VECTORS, *ADAPTOR), ("moe_adaptor.w_gate", ITEMS)
    ),
    ReleasedForm("inductive UniSRec", "unisrec", (VECTORS, *ADAPTOR), ("moe_adaptor.w_gate", VECTORS)),
    ReleasedForm("pre-trained UniSRec", "unisrec", tuple(ADAPTOR), ("moe_adaptor.w_gate",)),
    ReleasedForm(
        "FDSA of UniSRec",
        "fdsa",
        (ITEMS, VECTORS, *LINEAR_ADAPTOR, *MERGE),
        ("concat_layer.weight", "adapter.mlp_layers.1.weight"),
        FDSA_TRANSFORMERS,
    ),
    ReleasedForm("BERT4Rec of RecBole", "bert4rec", (ITEMS, BIAS, *HEAD), ("output_ffn.weight", BIAS), mask="mask"),
    ReleasedForm(
        "S3-Rec of UniSRec",
        "s3rec",
        (ITEMS, *TASKS),
        ("aap_norm.weight", ATTRIBUTES),
        mask=MASK,
        carried=tuple(TASKS),
    ),
    ReleasedForm("SASRec of RecBole", "sasrec", (ITEMS,), (ITEMS,)),
)
# Models that have marks of a form above and are none: a key that begins like this -> what the checkpoint is.
NO_FORM = {
    "feature_embed_layer.": "an FDSA of RecBole, which reads tags of items; the FDSA here reads text vectors, as the one "
    "among UniSRec's baselines",
}


@dataclass(frozen=True)
class ReleasedWeights:
    """A released state dict under linguarec's names.

    `tensors`: of linguarec's model. `carried`: other tensors, by released key (padding rows: `PADDING` + key). `sizes`:
    released settings that follow from the tensors. `num_items`: rows of the item table or vectors without padding, None =
    neither.
    """

    form: ReleasedForm
    tensors: dict[str, Tensor]
    carried: dict[str, Tensor]
    sizes: dict[str, int]
    num_items: int | None

    @property
    def null_item(self) -> Tensor | None:
        """Vector [D] of padding, which the released fine-tuning scores as one more class; None if it has no vector.

        VQ-Rec gives padding code 0 in all sub-spaces without an offset, so it is slot 0 of the first codebook. BERT4Rec has a
        bias of padding, too, which is the last coordinate of its key [D + 1].
        """
        if PADDING + BIAS in self.carried:
            return torch.cat([self.carried[PADDING + ITEMS], self.carried[PADDING + BIAS]])
        if PADDING + CODES in self.carried:
            return self.carried[PADDING + CODES][0]
        return self.carried.get(PADDING + ITEMS)


def recognise(keys: Iterable[str]) -> ReleasedForm:
    """The form of the checkpoint with these keys.

    Raises:
        CheckpointMismatchError: it is none of the released models.
    """
    keys = list(keys)
    for beginning, title in NO_FORM.items():
        if found := next((key for key in keys if key.startswith(beginning)), None):
            raise CheckpointMismatchError(f"it cannot be converted: its {found} says that it is {title}.")
    if "aap_norm.weight" in keys and "adapter.mlp_layers.1.weight" not in keys:
        raise CheckpointMismatchError(
            "it is RecBole's own S3-Rec, whose attributes are tags; the S3-Rec that is read here is that of UniSRec's release, "
            "whose attributes are texts. Train it here: linguarec finetune s3rec."
        )
    for form in FORMS:
        if all(mark in keys for mark in form.marks):
            return form
    marks = sorted({mark for form in FORMS for mark in form.marks})
    named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    raise CheckpointMismatchError(
        f"no released SASRec, BERT4Rec, FDSA, S3-Rec, UniSRec or VQ-Rec: it has none of the keys {', '.join(marks)}; it has: "
        f"{named or 'none'}."
    )


def from_released(state: Mapping[str, Tensor]) -> ReleasedWeights:
    """Check, rename and reshape a released state dict.

    Raises:
        CheckpointMismatchError: it is not a released model, or tensors are missing, unexpected, or of another shape or type;
            all of them are named.
    """
    form = recognise(state)
    layers, experts = (
        _count(state, part)
        for part in (r"(?:item_|feature_)?trm_encoder\.layer\.(\d+)\.", r"moe_adaptor\.experts\.(\d+)\.")
    )
    rows = list(_expand(form, layers, experts))
    letters = _sizes(state, form, [(pattern, key) for pattern, _, key in rows], experts)
    pieces: dict[str, list[Tensor]] = {}
    for pattern, names, key in rows:
        for name in names:
            pieces.setdefault(name, []).append(state[key][None] if "{e}" in pattern else state[key])
    tensors = {name: torch.cat(parts) for name, parts in pieces.items()}
    carried = {key: state[key] for _, names, key in rows if not names}
    sizes = {setting: letters[letter] for letter, setting in SETTING_OF_LETTER.items() if letter in letters}
    sizes["n_layers"] = layers
    if ITEMS in state:
        last = letters["N"]
        carried[PADDING + ITEMS], tensors["item.weight"] = state[ITEMS][0].clone(), state[ITEMS][1:last].clone()
        if form.mask is not None:
            (carried if form.mask == MASK else tensors)[form.mask] = state[ITEMS][last].clone()
    if BIAS in state:
        carried[PADDING + BIAS], tensors["bias"] = state[BIAS][:1].clone(), state[BIAS][1:].clone()
    if CODES in state:
        table = state[CODES].unflatten(0, (letters["M"], letters["P"]))
        carried[PADDING + CODES], tensors["codes.weight"] = table[:, 0].clone(), table[:, 1:].flatten(0, 1)
        sizes["code_cap"] = letters["P"] - 1
    return ReleasedWeights(form, tensors, carried, sizes, letters["N"] - 1 if "N" in letters else None)


def to_released(
    model: str, tensors: Mapping[str, Tensor], carried: Mapping[str, Tensor], code_books: int | None = None
) -> dict[str, Tensor]:
    """The inverse of `from_released`.

    Tensors that are not in `carried` are filled: padding rows and slots with zeros, `trans_matrix` with an identity. Item
    vectors cannot be filled; without them an inductive UniSRec is written as a pre-trained one.

    Args:
        model: linguarec's name of the model.
        tensors: its state dict.
        carried: as `from_released` returned it, or empty.
        code_books: M, for models of codes.

    Raises:
        CheckpointMismatchError: the released code has no such model, or none with these tensors; or it has one tensor for
            several that differ here.
    """
    forms = [form for form in FORMS if form.model == model]
    if not forms:
        known = ", ".join(dict.fromkeys(form.model for form in FORMS))
        raise CheckpointMismatchError(f"the released code has no form of {model}; it has {known}.")
    form = next((form for form in forms if VECTORS in form.keys and VECTORS in carried), forms[-1])
    layers, experts = _count(tensors, r"encoder\.layers\.(\d+)\."), len(tensors.get("adaptor.shift", ()))
    rows = list(_expand(form, layers, experts))
    expected = dict.fromkeys(name for _, names, _ in rows for name in names)
    expected |= {form.mask: None} if form.mask and form.mask != MASK else {}
    problems = [f"the released code has no place for: {name}" for name in tensors if name not in expected]
    problems += [f"missing: {name}" for name in expected if name not in tensors]
    for _, names, key in rows:
        same = [tensors[name] for name in names if name in tensors]
        if not all(torch.equal(same[0], other) for other in same[1:]):
            problems.append(f"{', '.join(names)} differ, and the released code has one tensor for them, {key}")
    if VECTORS in form.keys and VECTORS not in carried:
        problems.append(
            f"missing: {VECTORS}, the text vectors of its items, which only a converted checkpoint carries along"
        )
    problems += [
        f"missing: {key}, which only a converted checkpoint carries along"
        for key in (*form.carried, *([MASK] if form.mask == MASK else []))
        if key not in carried
    ]
    if problems:
        raise CheckpointMismatchError(f"this {model} cannot be written as {form.title}:\n" + "\n".join(problems))
    parts: dict[str, Iterator[Tensor]] = {}
    state: dict[str, Tensor] = {}
    for pattern, names, key in rows:
        if not names:
            continue
        name = names[0]
        if name not in parts:
            number = sum(name in others for _, others, _ in rows)
            parts[name] = iter(tensors[name].unbind() if "{e}" in pattern else tensors[name].chunk(number))
        state[key] = next(parts[name]).clone()
    if ITEMS in state:
        padding = carried.get(PADDING + ITEMS, torch.zeros_like(state[ITEMS][0]))
        mask = [] if form.mask is None else [(carried if form.mask == MASK else tensors)[form.mask][None]]
        state[ITEMS] = torch.cat([padding[None], state[ITEMS], *mask])
    if BIAS in state:
        state[BIAS] = torch.cat([carried.get(PADDING + BIAS, torch.zeros(1)), state[BIAS]])
    if CODES in state:
        table = state[CODES].unflatten(0, (code_books or 1, -1))
        slots = carried.get(PADDING + CODES, torch.zeros_like(table[:, 0]))
        state[CODES] = torch.cat([slots[:, None], table], dim=1).flatten(0, 1)
        state[TRANS_MATRIX] = torch.eye(table.shape[1] + 1).repeat(len(table), 1, 1)
    return state | {key: tensor for key, tensor in carried.items() if key != MASK and not key.startswith(PADDING)}


def _expand(form: ReleasedForm, layers: int, experts: int) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(pattern, linguarec's names, released key) of every tensor of the form, in the order in which they are joined."""
    for pattern in (*form.transformer, *form.keys):
        for number in range(layers if "{i}" in pattern else experts if "{e}" in pattern else 1):
            names = tuple(name.format(i=number) for name in form.names(pattern))
            yield pattern, names, pattern.format(i=number, e=number)


def _count(keys: Iterable[str], pattern: str) -> int:
    """Number of layers or experts in the keys; at least 1, so that missing ones are found."""
    return 1 + max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=0)


def _sizes(
    state: Mapping[str, Tensor], form: ReleasedForm, expected: list[tuple[str, str]], experts: int
) -> dict[str, int]:
    """The size of each letter of `SHAPES`; `expected`: (pattern, key) of every tensor.

    Raises:
        CheckpointMismatchError: tensors are missing, unexpected or do not fit together.
    """
    letters = {"E": experts} if "moe_adaptor.w_gate" in form.keys else {}
    names = {key for _, key in expected}
    problems = [f"missing: {key}" for _, key in expected if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in names]
    for pattern, key in expected:
        if key in state:
            problems += _misfit(key, state[key], form.shape(pattern), letters)
    if not problems and letters.get("N", 2) < 2:
        problems.append("its item table has no row beside that of padding")
    if not problems and CODES in form.keys and letters["C"] != letters["M"] * letters["P"]:
        problems.append(
            f"{CODES} has {letters['C']} rows, expected {letters['M']} codebooks x ({letters['P'] - 1} centroids + 1), as "
            f"{TRANS_MATRIX} has them"
        )
    if not problems and letters.get("S", 2 * letters["D"]) != 2 * letters["D"]:
        problems.append(f"concat_layer.weight reads {letters['S']} numbers, expected two states of {letters['D']}")
    if not problems and form.mask and letters["R"] != letters["N"] + 1:
        problems.append(
            f"{ITEMS} has {letters['R']} rows, expected {letters['N'] + 1}: padding, {letters['N'] - 1} items and the mask"
        )
    if problems:
        raise CheckpointMismatchError(f"taken for {form.title} by its keys, it does not fit:\n" + "\n".join(problems))
    return letters


def _misfit(key: str, tensor: Tensor, shape: str, letters: dict[str, int]) -> list[str]:
    """Lines about a tensor of the wrong shape; adds newly found sizes to `letters`."""
    if not isinstance(tensor, Tensor):
        return [f"{key}: expected a tensor, found {tensor!r}"]
    if tensor.dtype != torch.float32:
        return [f"{key}: its numbers are {tensor.dtype}, expected torch.float32"]
    if tensor.ndim == len(shape):
        for letter, size in zip(shape, tensor.shape, strict=True):
            letters.setdefault(letter, size)
    expected = [letters.get(letter) for letter in shape]
    if list(tensor.shape) != expected:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        return [f"{key}: shape {tuple(tensor.shape)}, expected ({wanted})"]
    return []
