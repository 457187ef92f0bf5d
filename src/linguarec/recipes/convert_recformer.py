"""A checkpoint of the released Recformer, or of Longformer, as a model folder, and back."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from linguarec.catalogue import Catalogue
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, OutputError, SettingsError
from linguarec.files import write_json, writing_file, writing_folder
from linguarec.hub.backbone import check_vocabulary
from linguarec.hub.conversion import ReleasedFile, read_released
from linguarec.hub.pretrained import AGAIN, ModelDescription, from_pretrained, save_pretrained
from linguarec.hub.released_recformer import (
    OWN_WINDOW,
    from_released_recformer,
    is_whole,
    recformer_config,
    released_settings,
    to_released_recformer,
)
from linguarec.models.shape import CatalogueShape
from linguarec.recipes.runs import SETTINGS_FILE, SETTINGS_MARKER
from linguarec.recipes.sentence_inputs import stored_tokens
from linguarec.recommender import KEYS_FILE, Recommender
from linguarec.sentences import ITEM_WEIGHTS_FILE, SentenceReader
from linguarec.stored import read_array
from linguarec.text.attributes import ItemTokens
from linguarec.text.cleaning import TextRules

NAME = "recformer"
# What the released code was trained with, under its names; shown as assumed where no settings tell otherwise.
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


def convert_recformer(
    released: ReleasedFile,
    output: Path,
    told: Mapping[str, Any],
    word_embeddings: Path | None,
    window: int | None,
    items: Path | None,
    tokens: str | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Write a model folder; with `items` it has that prepared folder's catalogue, read by its tokens.

    Args:
        released: the checkpoint as read.
        output: folder to write.
        told: settings of the released code, which a checkpoint of Recformer never carries.
        word_embeddings: file that holds the word embeddings, which released pre-training does not save.
        window: of the attention, where the settings do not tell it.
        items: prepared folder, or None.
        tokens: name of its tokens.
        overwrite: replace the output.
    """
    words = None if word_embeddings is None else _read_words(word_embeddings)
    try:
        found = from_released_recformer(released.state, words)
    except CheckpointMismatchError as error:
        raise CheckpointMismatchError(f"{released.file}: {error}") from error
    if "num_attention_heads" not in told:
        raise CheckpointMismatchError(
            f"{released.file}: no tensor tells the number of attention heads; give it by --heads or --released-config"
        )
    if OWN_WINDOW in told and not is_whole(told[OWN_WINDOW]):
        raise CheckpointMismatchError(f"{released.file}: {OWN_WINDOW} is {told[OWN_WINDOW]!r}; expected a whole number")
    if window is None and OWN_WINDOW in told:
        window = told[OWN_WINDOW]
    if window is None and set(_windows(told)) - {PUBLISHED["attention_window"]}:
        raise CheckpointMismatchError(
            f"{released.file}: attention_window is {told['attention_window']} in the settings of the language model, and the "
            "released Recformer sets 64 in code; tensors do not tell which one it was trained with: give --window."
        )
    assumed = {name: value for name, value in PUBLISHED.items() if name not in told}
    if window is not None:
        assumed.pop("attention_window", None)
    config = recformer_config(PUBLISHED | dict(told), found.tensors, str(released.file), window)
    dataset = None if items is None else PreparedDataset.open(items)
    description = ModelDescription(NAME, config, None, CatalogueShape(0 if dataset is None else dataset.num_items))
    model = description.build()
    if "item_position.weight" not in found.tensors:
        raise CheckpointMismatchError(
            f"{released.file} has no item positions: it is a language model, which a Recformer starts from by --backbone."
        )
    expected = model.state_dict()
    problems = [
        f"{name}: {tuple(found.tensors[name].shape) if name in found.tensors else 'missing'}, needed {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in found.tensors or found.tensors[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointMismatchError(f"{released.file} does not fit its settings:\n" + "\n".join(problems))
    model.load_state_dict(found.tensors)
    model.eval()
    vectors = _item_vectors(released)
    recommender, taken = None, False
    if dataset is not None:
        recommender, taken = _with_catalogue(model, description, dataset, tokens, vectors)
    with writing_folder(output, overwrite, SETTINGS_MARKER) as folder:
        if recommender is None:
            save_pretrained(model, description, folder)
        else:
            recommender.save(folder)
        settings = {
            **description.to_dict(),
            "source": released.file.name,
            "released_settings": dict(told),
            "assumed": assumed,
            "not_made": released.not_made,
            "split": "leave-one-out",
        }
        if dataset is not None:
            settings |= {"data": str(items), "data_name": dataset.name, "data_fingerprint": dataset.fingerprint}
        write_json(folder / SETTINGS_FILE, settings)
    return {
        "output": str(output),
        "model": NAME,
        "parameters": sum(tensor.numel() for tensor in found.tensors.values()),
        "items": 0 if recommender is None else len(recommender.catalogue),
        "layers": config.layers,
        "heads": config.heads,
        "window": config.window,
        "assumed": assumed,
        "left_out": [key for key in found.left_out if not (taken and key.endswith(ITEM_VECTORS))],
        "not_made": released.not_made,
    }


def write_recformer(source: Path, output: Path, overwrite: bool) -> dict[str, Any]:
    """Write a model folder as the released code saves a model: a state dict, which `torch.load(weights_only=True)` reads.

    The item vectors of a run are written as the released second stage keeps them; the weights that read new items, which are
    others in a run of two stages, have no place in that form. What the tensors do not tell of the model goes into a file
    beside it, for --released-config.

    Raises:
        OutputError: that file exists already, and `overwrite` is false.
    """
    told = output.with_name(f"{output.stem}.config.json")
    if told.exists() and not overwrite:
        raise OutputError(f"{told} exists already; choose another name, or pass --overwrite.")
    model, description = from_pretrained(source)
    state = to_released_recformer(model.state_dict())
    if (source / KEYS_FILE).exists():
        keys = read_array(source / KEYS_FILE, CheckpointMismatchError, AGAIN)
        state[ITEM_VECTORS] = torch.from_numpy(keys) * description.config.temperature
    elif (source / ITEM_WEIGHTS_FILE).exists():
        log.warning(
            "%s is of a training that has not finished; its best weights so far are taken, without item vectors", source
        )
    if (source / ITEM_WEIGHTS_FILE).exists():
        log.warning(
            "the weights of %s that read new items (%s) are not written: the released form has one set, that of the histories",
            source,
            ITEM_WEIGHTS_FILE,
        )
    with writing_file(output) as temporary:
        torch.save(state, temporary)
    write_json(told, released_settings(description.config))
    parameters = sum(tensor.numel() for tensor in state.values())
    return {
        "output": str(output),
        "released_config": str(told),
        "model": description.name,
        "tensors": len(state),
        "parameters": parameters,
        "item_vectors": len(state.get(ITEM_VECTORS, ())),
    }


def _item_vectors(released: ReleasedFile) -> Tensor | None:
    """The item vectors [N, D] that the second stage of fine-tuning was trained with, if the checkpoint holds any."""
    found = [tensor for key, tensor in released.state.items() if key.endswith(ITEM_VECTORS)]
    return found[0] if found and isinstance(found[0], Tensor) else None


def _windows(told: Mapping[str, Any]) -> list[Any]:
    """The attention windows of the layers, as far as the settings tell them."""
    windows = told.get("attention_window", [])
    return windows if isinstance(windows, list) else [windows]


def _with_catalogue(
    model: torch.nn.Module,
    description: ModelDescription,
    dataset: PreparedDataset,
    tokens: str | None,
    vectors: Tensor | None,
) -> tuple[Recommender, bool]:
    """The model with the folder's items, and whether these are known by the checkpoint's `vectors`; else they are encoded."""
    stored = stored_tokens(dataset, tokens)
    check_vocabulary(stored.form, description.config)
    reader = SentenceReader(stored.form, model, stored.tokenizer)
    rules = cast(TextRules, dataset.manifest.text_rules)
    catalogue = Catalogue.of(dataset.items(), dataset.manifest.attributes, rules)
    taken = vectors is not None and _are_of(vectors, stored.tokens, reader)
    if vectors is not None and taken:
        log.info("the items are known by the checkpoint's own vectors, taken in the order of %s", dataset.path)
        keys = F.normalize(vectors.float(), dim=-1) / description.config.temperature
    else:
        if vectors is not None:
            log.warning(
                "item vectors %s are not of the %d items of %s, which are encoded instead: other scores than released",
                tuple(vectors.shape),
                dataset.num_items,
                dataset.path,
            )
        keys = reader.keys(stored.tokens, torch.device("cpu"))
    return Recommender(model, description, catalogue, stored.tokens, keys, reader=reader), taken


def _are_of(vectors: Tensor, tokens: ItemTokens, reader: SentenceReader) -> bool:
    """Whether the vectors are these items', in this order: as many, and nearer to their own item than to another.

    The weights have learned on since they made them, so they are not what the items are encoded to now. Some items are tried.
    """
    rows = np.unique(np.linspace(0, len(tokens) - 1, 256).astype(np.int64))
    rows = rows[tokens.lengths[rows] > 0]
    if len(vectors) != len(tokens) or vectors.dim() != 2 or len(rows) < 2:
        return False
    encoded = F.normalize(reader.keys(tokens.select(rows), torch.device("cpu")), dim=-1)
    theirs = F.normalize(vectors[torch.from_numpy(rows)].float(), dim=-1)
    if theirs.shape != encoded.shape:
        return False
    own, other = ((encoded * each).sum(-1) for each in (theirs, theirs.roll(1, 0)))
    return float((own > other).float().mean()) > 0.75


def _read_words(file: Path) -> Tensor:
    """The word embeddings in a checkpoint of a language model, or alone in a file."""
    try:
        state = load_file(file) if file.suffix == ".safetensors" else read_released(file).state
    except (SafetensorError, OSError) as error:
        raise SettingsError([f"--word-embeddings {file}: cannot be read ({error})"]) from error
    found = [tensor for name, tensor in state.items() if name.endswith(WORDS)]
    found = found or (list(state.values()) if len(state) == 1 else [])
    if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].dim() != 2:
        raise SettingsError([f"--word-embeddings {file}: expected one tensor named ...{WORDS}, found {len(found)}"])
    return found[0]
