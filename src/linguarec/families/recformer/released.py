"""Converts checkpoints of the released Recformer to model folders, and back."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from linguarec.errors import CheckpointMismatchError, OutputError, SettingsError
from linguarec.families.family import ConversionRequest, Converted, ModelDescription, ModelFolder, ReleasedFile
from linguarec.families.flags import refuse
from linguarec.families.recformer.backbone import check_vocabulary
from linguarec.families.recformer.model import RecformerConfig
from linguarec.families.recformer.released_tensors import (
    OWN_WINDOW,
    from_released_recformer,
    is_recformer,
    is_whole,
    recformer_config,
    released_settings,
    to_released_recformer,
)
from linguarec.families.recformer.scorer import ITEM_WEIGHTS_FILE, SentenceScorer
from linguarec.families.released import read_released, state_problems
from linguarec.files import write_json, writing_file
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.scorer import KEYS_FILE
from linguarec.sources.source import ItemSource
from linguarec.sources.tokens import TokenSource
from linguarec.stored import AGAIN, read_array

NAME = "recformer"
# Settings of the released code, under its names; assumed, and shown to the user, if they are not known.
PUBLISHED = {
    "model_type": "longformer",
    "pad_token_id": 1,
    "attention_window": 64,
    "max_token_num": 1024,
    "temp": 0.05,
    "mlm_weight": 0.1,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
ITEM_VECTORS = "item_embedding.weight"
log = logging.getLogger(__name__)
WORDS = "embeddings.word_embeddings.weight"


class RecformerCheckpoints:
    """Pre-trained and fine-tuned checkpoints of the released Recformer; it never saves its settings."""

    marks = "...encoder.layer.0.attention.self.query.weight"

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a state dict has the keys of a Recformer or Longformer."""
        return is_recformer(keys)

    def read(self, released: ReleasedFile, request: ConversionRequest) -> Converted:
        """Convert to a model with the items of the request's folder; their keys are encoded or the checkpoint's own."""
        refuse(
            NAME,
            {
                "item-ids": request.item_ids,
                "features": request.asked.get("features"),
                "codes": request.asked.get("codes"),
            },
        )
        told = {("num_attention_heads" if name == "n_heads" else name): value for name, value in request.told.items()}
        words = None if request.word_embeddings is None else _read_words(request.word_embeddings)
        try:
            found = from_released_recformer(released.state, words)
        except CheckpointMismatchError as error:
            raise CheckpointMismatchError(f"{released.file}: {error}") from error
        window = _window(released, told, request.window)
        assumed = {name: value for name, value in PUBLISHED.items() if name not in told}
        if window is not None:
            assumed.pop("attention_window", None)
        config = recformer_config(PUBLISHED | dict(told), found.tensors, str(released.file), window)
        dataset = request.dataset
        source: ItemSource = TokenSource.load(released.file.parent / released.file.stem, CatalogueShape(0))
        if dataset is not None:
            source = TokenSource.choose(dataset, request.asked)
        description = ModelDescription(request.families[NAME], config, None, source.shape)
        model = description.build()
        if "item_position.weight" not in found.tensors:
            raise CheckpointMismatchError(
                f"{released.file} has no item positions: it is a language model, which a Recformer starts from by --backbone."
            )
        if problems := state_problems(found.tensors, model.state_dict()):
            raise CheckpointMismatchError(f"{released.file} does not fit its settings:\n" + "\n".join(problems))
        model.load_state_dict(found.tensors)
        model.eval()
        keys = None
        if dataset is not None:
            assert isinstance(source, TokenSource)
            check_vocabulary(source.known_form(), config)
            keys = _known_keys(released, source, SentenceScorer(model), config)
        left_out = [key for key in found.left_out if keys is None or not key.endswith(ITEM_VECTORS)]
        return Converted(
            title="a Recformer",
            description=description,
            network=model,
            source=source,
            items=None if dataset is None else dataset.items(),
            attributes=[] if dataset is None else dataset.manifest.attributes,
            text_rules="default" if dataset is None else dataset.manifest.text_rules,
            keys=keys,
            settings={"released_settings": dict(told), "assumed": assumed},
            told={
                "parameters": sum(tensor.numel() for tensor in found.tensors.values()),
                "layers": config.layers,
                "heads": config.heads,
                "window": config.window,
                "assumed": assumed,
                "left_out": left_out,
            },
        )

    def write(self, model: ModelFolder, output: Path, overwrite: bool) -> dict[str, Any]:
        """Write a model folder as the released code saves a model: a state dict, which `torch.load(weights_only=True)` reads.

        The item vectors of a run are written as the released second stage stores them. That format has no entry for the weights
        that encode new items, which differ from the others after two stages. Settings that do not follow from the tensors are
        written to a file beside it, for --released-config.
        """
        told, source, config = output.with_name(f"{output.stem}.config.json"), model.folder, model.description.config
        if told.exists() and not overwrite:
            raise OutputError(f"{told} exists already; choose another name, or pass --overwrite.")
        state = to_released_recformer(model.network.state_dict())
        if (source / KEYS_FILE).exists():
            keys = read_array(source / KEYS_FILE, CheckpointMismatchError, AGAIN)
            state[ITEM_VECTORS] = torch.from_numpy(keys) * config.temperature
        elif (source / ITEM_WEIGHTS_FILE).exists():
            log.warning(
                "%s is of a training that has not finished; its best weights so far are taken, without item vectors",
                source,
            )
        if (source / ITEM_WEIGHTS_FILE).exists():
            log.warning(
                "the weights of %s that read new items (%s) are not written: the released form has one set, that of the "
                "histories",
                source,
                ITEM_WEIGHTS_FILE,
            )
        with writing_file(output) as temporary:
            torch.save(state, temporary)
        write_json(told, released_settings(config))
        return {
            "released_config": str(told),
            "tensors": len(state),
            "parameters": sum(tensor.numel() for tensor in state.values()),
            "item_vectors": len(state.get(ITEM_VECTORS, ())),
        }


RELEASED = RecformerCheckpoints()


def _window(released: ReleasedFile, told: Mapping[str, Any], window: int | None) -> int | None:
    """The attention window from the settings or from the user.

    Raises:
        CheckpointMismatchError: neither names the window, which the tensors do not show; or the number of heads is not known.
    """
    if "num_attention_heads" not in told:
        raise CheckpointMismatchError(
            f"{released.file}: no tensor tells the number of attention heads; give it by --heads or --released-config"
        )
    if OWN_WINDOW in told and not is_whole(told[OWN_WINDOW]):
        raise CheckpointMismatchError(f"{released.file}: {OWN_WINDOW} is {told[OWN_WINDOW]!r}; expected a whole number")
    if window is None and OWN_WINDOW in told:
        return int(told[OWN_WINDOW])
    if window is None and set(_windows(told)) - {PUBLISHED["attention_window"]}:
        raise CheckpointMismatchError(
            f"{released.file}: attention_window is {told['attention_window']} in the settings of the language model, and the "
            "released Recformer sets 64 in code; tensors do not tell which one it was trained with: give --window."
        )
    return window


def _item_vectors(released: ReleasedFile) -> Tensor | None:
    """The item vectors [N, D] of the second stage of fine-tuning, if the checkpoint holds them."""
    found = [tensor for key, tensor in released.state.items() if key.endswith(ITEM_VECTORS)]
    return found[0] if found and isinstance(found[0], Tensor) else None


def _windows(told: Mapping[str, Any]) -> list[Any]:
    """The attention windows of the layers, as far as the settings name them."""
    windows = told.get("attention_window", [])
    return windows if isinstance(windows, list) else [windows]


def _known_keys(
    released: ReleasedFile, source: TokenSource, scorer: SentenceScorer, config: RecformerConfig
) -> Tensor | None:
    """Keys [N, D] from the checkpoint's own vectors, if they belong to the items of `source`; else None."""
    vectors = _item_vectors(released)
    if vectors is None:
        return None
    if _are_of(vectors, source, scorer):
        log.info("the items are known by the checkpoint's own vectors, taken in the order of %s", source.folder)
        return F.normalize(vectors.float(), dim=-1) / config.temperature
    log.warning(
        "item vectors %s are not of the %d items of %s, which are encoded instead: other scores than released",
        tuple(vectors.shape),
        len(source),
        source.folder,
    )
    return None


def _are_of(vectors: Tensor, source: TokenSource, scorer: SentenceScorer) -> bool:
    """Whether the vectors belong to these items in this order: equal number, and each nearer to its own item than to another.

    They differ from the items' current encodings, because the weights were trained further. Only some items are tested.
    """
    rows = np.unique(np.linspace(0, len(source) - 1, 256).astype(np.int64))
    rows = rows[source.tokens.lengths[rows] > 0]
    if len(vectors) != len(source) or vectors.dim() != 2 or len(rows) < 2:
        return False
    encoded = F.normalize(scorer.encode(source.select(rows))[1], dim=-1)
    theirs = F.normalize(vectors[torch.from_numpy(rows)].float(), dim=-1)
    if theirs.shape != encoded.shape:
        return False
    own, other = ((encoded * each).sum(-1) for each in (theirs, theirs.roll(1, 0)))
    return float((own > other).float().mean()) > 0.75


def _read_words(file: Path) -> Tensor:
    """The word embeddings in a checkpoint of a language model, or in a file of their own."""
    try:
        state = load_file(file) if file.suffix == ".safetensors" else read_released(file).state
    except (SafetensorError, OSError) as error:
        raise SettingsError([f"--word-embeddings {file}: cannot be read ({error})"]) from error
    found = [tensor for name, tensor in state.items() if name.endswith(WORDS)]
    found = found or (list(state.values()) if len(state) == 1 else [])
    if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].dim() != 2:
        raise SettingsError([f"--word-embeddings {file}: expected one tensor named ...{WORDS}, found {len(found)}"])
    return found[0]
