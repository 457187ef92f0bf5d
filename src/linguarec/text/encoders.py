"""Encodes texts to vectors with a pre-trained language model, on this machine only.

For speed, all texts are tokenised at once and equal texts are encoded once; batches hold texts of about the same length up to
a budget of tokens (little padding), the longest first (so that memory runs out in the first batch or never); matrix products
run in bfloat16 if the processor supports it natively.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.devices import device_for, multiplies_bf16
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.progress import progress_bar
from linguarec.text.references import (
    DEFAULT_ENCODER,
    LONGEST_DEFAULT,
    EncoderDescription,
    EncoderReference,
    Pooling,
    check_encoder_sizes,
    fast_tokenizer,
    find_encoder,
    folder_settings,
    not_loaded,
    weights_fingerprint,
)

Precision = Literal["auto", "bf16", "fp32"]
Vectors = npt.NDArray[np.float32]

_LOADING = threading.Lock()  # transformers changes settings of the whole process while it loads
TEXTS_AT_ONCE = 1 << 14  # that are tokenised; as lists of Python they take several times their memory
TOKENS_A_BATCH = {"cpu": 1024, "cuda": 65_536}  # with padding; on a CPU small enough for its caches


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of N texts (flat `ids`, `offsets` [N+1]) and how many texts were cut at the limit."""

    ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    num_cut: int

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text, special ones included, [N]."""
        return np.diff(self.offsets)


class TextEncoder:
    """A language model with its tokenizer and pooling.

    In fp32 a text's vector does not depend on the other texts of the batch (to 1e-5); in bf16 it varies by rounding,
    about 1e-3 (the cosine to the fp32 vector stays above 0.999). The vector of an empty text is that of the special tokens
    alone.
    """

    def __init__(
        self,
        reference: EncoderReference,
        tokenizer: Any,
        forward: Callable[[Tensor, Tensor], Tensor],
        device: torch.device,
        precision: Literal["bf16", "fp32"],
    ) -> None:
        self.reference = reference
        self.device = device
        self.precision = precision
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()  # a tokenizer keeps the limit of a call as its own state
        self._forward = forward

    @classmethod
    def load(
        cls,
        encoder: str | EncoderDescription = DEFAULT_ENCODER,
        pooling: Literal["auto", "cls", "mean"] = "auto",
        precision: Precision = "fp32",
        max_tokens: int | None = None,
        text_rules: str = "default",
        device: str | None = None,
        near: Sequence[Path] = (),
    ) -> Self:
        """Load an encoder by name or folder, or by a description (for example that of stored vectors).

        A description fixes pooling, limit and text rules, and its weights are checked.

        Args:
            encoder: A name, a folder, or a description.
            pooling: How token vectors become one; "auto" = as its folder declares, else the first token's (CLS).
            precision: "auto" is bf16 if the processor supports it natively.
            max_tokens: Longer texts are cut to this length; None = the encoder's own limit.
            text_rules: Cleaning of the texts it will read; only recorded.
            device: "cpu", "cuda"; None = a GPU if there is one.
            near: Folders in or beside which the folder of a description is searched too.

        Raises:
            SettingsError: this machine has no such encoder, or it does not support the settings.
            StaleFeaturesError: the encoder on this machine has other weights than the description.
        """
        with _LOADING:
            return cls._load(encoder, pooling, precision, max_tokens, text_rules, device, near)

    @classmethod
    def _load(
        cls,
        encoder: str | EncoderDescription,
        pooling: Literal["auto", "cls", "mean"],
        precision: Precision,
        max_tokens: int | None,
        text_rules: str,
        device: str | None,
        near: Sequence[Path],
    ) -> Self:
        name = encoder if isinstance(encoder, str) else encoder.encoder
        folder = find_encoder(name, near, None if isinstance(encoder, str) else encoder.weights_sha256)
        declared = folder_settings(folder)
        normalised, chosen = declared.normalised, declared.pooling or "cls"
        if not isinstance(encoder, str):
            chosen, normalised = _known_pooling(encoder.pooling), encoder.normalised
            max_tokens, text_rules = encoder.max_tokens, encoder.text_rules
        elif pooling != "auto":
            chosen = pooling
        target = device_for(device)
        used = choose_precision(precision, target)
        tokenizer, forward, width, limit = _load_model(folder, chosen, normalised, target, used)
        longest = limit if declared.max_tokens is None else min(limit, declared.max_tokens)
        if max_tokens is not None and max_tokens > longest:
            raise SettingsError([f"--max-tokens {max_tokens}: the encoder {name} reads {longest} at most"])
        reference = EncoderReference(
            encoder=name,
            width=width,
            pooling=chosen,
            weights_sha256=weights_fingerprint(folder),
            max_tokens=longest if max_tokens is None else max_tokens,
            normalised=normalised,
            text_rules=text_rules,
        )
        if not isinstance(encoder, str):
            reference.check(encoder)
        return cls(reference, tokenizer, forward, target, used)

    def __repr__(self) -> str:
        return f"TextEncoder({self.reference.encoder}, {self.reference.width} wide, {self.precision} on {self.device})"

    def encode(self, texts: Sequence[str], tokens_a_batch: int | None = None, show_progress: bool = False) -> Vectors:
        """Vectors [N, D] float32 of N texts.

        Args:
            texts: Cleaned texts.
            tokens_a_batch: Token budget of a batch, padding included; None = the default of the device.
            show_progress: Draw a progress bar.
        """
        if not len(texts):
            return np.empty((0, self.reference.width), np.float32)
        row_of: dict[str, int] = {}
        rows = [row_of.setdefault(text, len(row_of)) for text in texts]
        distinct = list(row_of)
        tokens = self.tokenize(distinct)
        vectors = np.empty((len(distinct), self.reference.width), np.float32)
        shown = "Encoding" if show_progress else None
        with _maybe_bar(shown, len(distinct)) as advance:
            for batch in batches_by_length(tokens.lengths, tokens_a_batch or TOKENS_A_BATCH[self.device.type]):
                vectors[batch] = self.encode_tokens(tokens, batch)
                advance(len(batch))
        return vectors[rows]

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids of the texts, cut at the encoder's limit."""
        # A tokenizer without special tokens gives no token for an empty text, but the model needs at least one.
        blank = [self._tokenizer.pad_token_id or 0]
        flat, lengths, cut = [np.empty(0, np.int64)], [0], 0
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            block = list(texts[first : first + TEXTS_AT_ONCE])
            with self._tokenizing:
                found = self._tokenizer(block, truncation=True, max_length=self.reference.max_tokens)
            ids = [row or blank for row in found["input_ids"]]
            flat.append(np.fromiter(itertools.chain.from_iterable(ids), np.int64))
            lengths += [len(row) for row in ids]
            cut += sum(bool(encoding.overflowing) for encoding in found.encodings or [])
        return Tokens(np.concatenate(flat), np.cumsum(lengths, dtype=np.int64), cut)

    def encode_tokens(self, tokens: Tokens, rows: npt.NDArray[np.int64]) -> Vectors:
        """Vectors [n, D] of the texts at `rows`, in one batch.

        Raises:
            CheckpointMismatchError: the model returns NaN or infinities.
        """
        lengths = tokens.lengths[rows]
        cells = np.arange(lengths.max())
        mask = cells < lengths[:, None]
        ids = np.full(mask.shape, self._tokenizer.pad_token_id or 0, dtype=np.int64)
        ids[mask] = tokens.ids[(tokens.offsets[rows][:, None] + cells)[mask]]
        with torch.inference_mode():
            pooled = self._forward(torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device))
            vectors: Vectors = pooled.float().cpu().numpy()
        bad = int((~np.isfinite(vectors)).any(axis=1).sum())
        if bad:
            raise CheckpointMismatchError(
                f"The encoder {self.reference.encoder} gives NaN or infinities for {bad} of {len(rows)} texts of a batch "
                f"(computed in {self.precision}): its weights are damaged. Fetch it again, or take another encoder."
            )
        return vectors


def batches_by_length(lengths: npt.NDArray[np.int64], budget: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows in batches of at most `budget` tokens (padding included; at least one row), the longest texts first."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, budget // max(int(lengths[order[start]]), 1))
        yield order[start : start + count]
        start += count


def choose_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """Resolve "auto": bf16 if the processor supports it natively, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16(device.type) else "fp32"


def _known_pooling(pooling: str) -> Pooling:
    known: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "pipeline": "pipeline"}
    if pooling not in known:
        raise SettingsError(
            [f"The vectors were pooled by {pooling!r}, which cannot be repeated; encode the texts again."]
        )
    return known[pooling]


def _load_model(
    folder: Path, pooling: Pooling, normalised: bool, device: torch.device, precision: Literal["bf16", "fp32"]
) -> tuple[Any, Callable[[Tensor, Tensor], Tensor], int, int]:
    """Tokenizer, the function from ids and mask [n, L] to vectors [n, D], the width D, the longest input."""
    from transformers import AutoModel
    from transformers.utils import logging as their_logging

    their_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    check_encoder_sizes(folder)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    tokenizer = fast_tokenizer(folder)
    if pooling == "pipeline":
        from sentence_transformers import SentenceTransformer

        try:
            # A folder may name code of its own; it is never run, nor is the user asked on stdin whether to.
            pipeline = SentenceTransformer(
                str(folder), device=str(device), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # as below
            raise SettingsError([not_loaded("an encoder", folder, error)]) from error
        pipeline = pipeline.to(kind).eval()
        width = int(pipeline.encode(["width"], show_progress_bar=False).shape[1])
        limit = int(pipeline.max_seq_length or LONGEST_DEFAULT)
        return tokenizer, functools.partial(_by_pipeline, pipeline), width, limit
    their_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # missing weights are reported below, or harmless
    try:
        model, info = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            dtype=kind,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # also classes of transformers, and whatever impossible sizes and pickles end in
        raise SettingsError([not_loaded("an encoder", folder, error)]) from error
    _check_loaded(folder, model, tokenizer, [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    model = model.to(device).eval()
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST_DEFAULT
    for value in (positions, tokenizer.model_max_length):
        if not isinstance(value, int | float) or not value >= 1:
            raise SettingsError([f"{folder} names {value!r} as its longest text, expected a number. Fetch it again."])
    if model.config.model_type in ("roberta", "xlm-roberta", "mpnet", "camembert"):
        positions -= 2  # the positions of these models begin at 2
    limit = min(positions, tokenizer.model_max_length, LONGEST_DEFAULT if positions > LONGEST_DEFAULT else positions)
    forward = functools.partial(_by_transformer, model, pooling, normalised)
    return tokenizer, forward, int(model.config.hidden_size), int(limit)


def _check_loaded(folder: Path, model: Any, tokenizer: Any, not_filled: Iterable[str]) -> None:
    """Refuse weights that lack tensors of the model (except the unused pooler), and a tokenizer with too many words."""
    lacking = sorted(name for name in not_filled if not name.startswith("pooler."))
    if lacking:
        raise CheckpointMismatchError(
            f"The weights in {folder} lack {len(lacking)} tensors of the shape that its config.json asks for, such as "
            f"{lacking[0]}: they are cut short, or of another model. Fetch it again."
        )
    words, known = len(tokenizer), model.get_input_embeddings().num_embeddings
    if words > known:
        raise CheckpointMismatchError(
            f"The tokenizer in {folder} has {words:,} tokens, the model beside it {known:,} word embeddings: they do not "
            "belong together. Fetch both again."
        )


def _by_transformer(model: Any, pooling: Pooling, normalised: bool, ids: Tensor, mask: Tensor) -> Tensor:
    states: Tensor = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    if pooling == "cls":
        pooled = states[:, 0].float()
    else:
        weights = mask.unsqueeze(-1).float()
        pooled = (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
    return torch.nn.functional.normalize(pooled, dim=-1) if normalised else pooled


def _by_pipeline(pipeline: Any, ids: Tensor, mask: Tensor) -> Tensor:
    vectors: Tensor = pipeline({"input_ids": ids, "attention_mask": mask.long()})["sentence_embedding"]
    return vectors


def _maybe_bar(description: str | None, total: int) -> Any:
    import contextlib

    if description is None:
        return contextlib.nullcontext(lambda amount=1: None)
    return progress_bar(description, total, "items")
