"""Converts a file of the released code to its model, and back.

Sizes are read from the tensors. Other settings (heads, temperature, dropout, epsilon) come from the pickled settings in the
file or from settings that the user passes. Both use the released code's names; tables translate them.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import UNKNOWN, FeatureInfo
from linguarec.data.item_files import read_ids
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError
from linguarec.families.family import ConversionRequest, Converted, Family, ModelDescription, ModelFolder, ReleasedFile
from linguarec.families.flags import refuse
from linguarec.families.recbole import BIAS, FORMS, PADDING, VECTORS, ReleasedWeights, from_released, to_released
from linguarec.files import writing_file
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.ids import IdSource
from linguarec.sources.source import Asked, ItemSource
from linguarec.unpickling import Record

log = logging.getLogger(__name__)

# Released setting -> linguarec's field.
ENCODER_FIELDS = {
    "hidden_size": "hidden_size",
    "n_layers": "layers",
    "n_heads": "heads",
    "inner_size": "inner_size",
    "hidden_dropout_prob": "dropout",
    "attn_dropout_prob": "attention_dropout",
    "MAX_ITEM_LIST_LENGTH": "max_length",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
MODEL_FIELDS = {
    "n_exps": "experts",
    "adaptor_dropout_prob": "adaptor_dropout",
    "temperature": "temperature",
    "lambda": "sequence_contrast",
    "hidden_dropout_prob": "dropout",
    "layer_norm_eps": "layer_norm_eps",
    "mask_ratio": "mask_share",
    "ft_ratio": "last_share",
}
SHAPE_FIELDS = {"plm_size": "feature_width", "code_dim": "code_books", "code_cap": "centroids"}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """The content of a file of the released code.

    `settings`: those that are plain values, under their released names. `not_made`: classes in its pickle that were not built
    (see `linguarec.unpickling`). `epoch`: of its training, None = not recorded.
    """

    file: Path
    weights: ReleasedWeights
    settings: dict[str, Any]
    not_made: list[str]
    epoch: int | None


def recbole_checkpoint(released: ReleasedFile) -> ReleasedCheckpoint:
    """Interpret a file that has been read.

    Raises:
        CheckpointMismatchError: it is not a RecBole checkpoint.
    """
    settings = _plain_settings(released.content.get("config"))
    try:
        weights = from_released(released.state)
    except CheckpointMismatchError as error:
        raise CheckpointMismatchError(f"{released.file}: {error}") from error
    epoch = released.content.get("epoch")
    return ReleasedCheckpoint(
        released.file, weights, settings, released.not_made, epoch if isinstance(epoch, int) else None
    )


def describe(
    checkpoint: ReleasedCheckpoint, given: Mapping[str, Any], families: Mapping[str, Family]
) -> tuple[ModelDescription, dict[str, Any]]:
    """The model of a checkpoint without a catalogue (`num_items` is that of its own items, or 0), and the assumed settings.

    Args:
        checkpoint: as read.
        given: released settings that the user passes; they override those of the file.
        families: by name.

    Returns:
        The description, and the settings that are not known, by their released names, with the published values assumed.

    Raises:
        CheckpointMismatchError: settings contradict the tensors, are missing or impossible; all of them are named.
    """
    weights, settings = checkpoint.weights, {**checkpoint.settings, **given}
    if settings.get("model") == "BERT4Rec" and PADDING + BIAS not in weights.carried:
        raise CheckpointMismatchError(
            f"{checkpoint.file} is a BERT4Rec of RecBole 1.1 or earlier, which has no output layer and no {BIAS} and asks at a "
            "place that it never trained; train it with RecBole 1.2, or here: linguarec finetune bert4rec."
        )
    problems = [
        f"{name}: the tensors say {size}, the settings {settings[name]!r}"
        for name, size in weights.sizes.items()
        if settings.get(name) not in (None, size)
    ]
    if settings.get("n_heads") is None:
        problems.append(
            "n_heads: no tensor tells the number of attention heads; give it by --heads or --released-config"
        )
    if settings.get("hidden_act", "gelu") != "gelu":
        problems.append(f"hidden_act: {settings['hidden_act']!r}; the Transformer here has gelu only")
    config = families[weights.form.model].config
    known = {field.name for field in fields(config)}
    model_fields = {theirs: ours for theirs, ours in MODEL_FIELDS.items() if ours in known}
    told = {**settings, **weights.sizes}
    for name in (*ENCODER_FIELDS, *model_fields):
        value = told.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            problems.append(f"{name}: expected a number, found {value!r}")
        elif name == "n_heads" and isinstance(value, float):
            problems.append(f"n_heads: expected a whole number, found {value!r}")
        elif name in ("n_heads", "temperature") and value is not None and value <= 0:
            problems.append(f"{name}: expected more than 0, found {value!r}")
        elif name == "n_heads" and value is not None and told["hidden_size"] % value:
            problems.append(f"n_heads: {value!r} does not divide the hidden size {told['hidden_size']}")
    if problems:
        raise CheckpointMismatchError(f"{checkpoint.file} cannot be converted:\n" + "\n".join(problems))

    def chosen(names: Mapping[str, str]) -> dict[str, Any]:
        return {ours: told[theirs] for theirs, ours in names.items() if told.get(theirs) is not None}

    description = ModelDescription(
        families[weights.form.model],
        config(**chosen(model_fields)),
        TransformerConfig(**chosen(ENCODER_FIELDS)),
        CatalogueShape(
            weights.num_items or 0, **{ours: weights.sizes.get(name) for name, ours in SHAPE_FIELDS.items()}
        ),
    )
    assumed = {
        name: value
        for name, value in released_settings(description).items()
        if told.get(name) is None and name in (*ENCODER_FIELDS, *model_fields)
    }
    return description, assumed


def released_settings(description: ModelDescription) -> dict[str, Any]:
    """The settings of a model under their released names."""
    assert description.encoder is not None
    ours = asdict(description.shape) | asdict(description.config) | asdict(description.encoder)
    names = {**ENCODER_FIELDS, **MODEL_FIELDS, **SHAPE_FIELDS}
    settings = {theirs: ours[name] for theirs, name in names.items() if ours.get(name) is not None}
    return {"attn_dropout_prob": settings.get("hidden_dropout_prob"), **settings}


class RecBoleCheckpoints:
    """Checkpoints of SASRec and BERT4Rec of RecBole, of UniSRec and its FDSA, and of VQ-Rec."""

    marks = ", ".join(sorted({mark for form in FORMS for mark in form.marks}))

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a state dict has one of the forms."""
        names = list(keys)
        # A fine-tuned checkpoint of a BERT or Longformer may have an item table too.
        if any(".attention.self." in name for name in names):
            return False
        return any(all(mark in names for mark in form.marks) for form in FORMS)

    def read(self, released: ReleasedFile, request: ConversionRequest) -> Converted:
        """Convert to a model with its own items, or with those of the request's folder."""
        refuse("a checkpoint of RecBole", {"tokens": request.asked.get("tokens"), **_not_recbole(request)})
        checkpoint = recbole_checkpoint(released)
        weights, dataset = checkpoint.weights, request.dataset
        description, assumed = describe(checkpoint, request.told, request.families)
        if dataset is not None:
            _check_flags(checkpoint, dataset, request.asked, description.family)
        elif weights.num_items is None and request.item_ids is not None:
            raise SettingsError([f"--item-ids: {checkpoint.file} holds no items of its own to be named"])
        items = None
        if weights.num_items is not None or dataset is not None:
            items = _items(checkpoint, dataset, request.item_ids)
            description = replace(description, shape=replace(description.shape, num_items=len(items)))
        source = _source(checkpoint, description, request, items)
        model = description.build()
        model.load_state_dict(weights.tensors)
        book = source.book if isinstance(source, CodeSource) else None
        return Converted(
            title=weights.form.title,
            description=description,
            network=model.eval(),
            source=source,
            items=items,
            attributes=[] if dataset is None else dataset.manifest.attributes,
            text_rules="released" if dataset is None else dataset.manifest.text_rules,
            carried=weights.carried,
            settings={
                "released_as": weights.form.title,
                "released_epoch": checkpoint.epoch,
                "released_settings": {**checkpoint.settings, **request.told},
                "assumed": assumed,
                "features": request.asked.get("features"),
                "codes": request.asked.get("codes"),
            },
            told={
                "released_as": weights.form.title,
                "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
                **weights.sizes,
                "n_heads": None if description.encoder is None else asdict(description.encoder).get("heads"),
                "code_book": None if book is None else book.fingerprint,
                "assumed": assumed,
                "carried_along": sorted(weights.carried),
            },
        )

    def write(self, model: ModelFolder, output: Path, overwrite: bool) -> dict[str, Any]:
        """Write the model with plain settings, so that `torch.load(weights_only=True)` reads it."""
        description, stored = model.description, model.settings
        released = {"dataset": stored.get("data_name"), **(stored.get("released_settings") or {})}
        tensors = with_position_tables(model.network.state_dict(), description)
        state = to_released(description.name, tensors, model.carried, description.shape.code_books)
        config = {"hidden_act": "gelu", "loss_type": "CE", **released, **released_settings(description)}
        content = {
            "config": config,
            "epoch": stored.get("released_epoch") or 0,
            "state_dict": state,
            "optimizer": {},
        }
        with writing_file(output) as temporary:
            torch.save(content, temporary)
        return {
            "tensors": len(state),
            "parameters": sum(tensor.numel() for tensor in state.values()),
            "carried_along": sorted(model.carried),
        }


RECBOLE = RecBoleCheckpoints()


def with_position_tables(tensors: Mapping[str, Tensor], description: ModelDescription) -> dict[str, Tensor]:
    """The tensors of a model, with tables of zeros if it has no positions: the released code, which always has them, then
    gives the same scores."""
    encoder = description.encoder
    if not isinstance(encoder, TransformerConfig) or encoder.positions == "learned":
        return dict(tensors)
    zeros = torch.zeros(encoder.max_length, encoder.hidden_size)
    norms = [name for name in tensors if name.endswith("encoder.input_norm.weight")]
    return {**tensors, **{name.replace("input_norm", "position"): zeros for name in norms}}


def _not_recbole(request: ConversionRequest) -> dict[str, Any]:
    return {"word-embeddings": request.word_embeddings, "window": request.window}


def _source(
    checkpoint: ReleasedCheckpoint, description: ModelDescription, request: ConversionRequest, items: pa.Table | None
) -> ItemSource:
    """The source of the catalogue: the folder's items, the checkpoint's own vectors or rows, or no items."""
    dataset, kind = request.dataset, description.family.source
    features, codes = request.asked.get("features"), request.asked.get("codes")
    own = checkpoint.weights.carried.get(VECTORS)
    if issubclass(kind, EmbeddingSource):
        width = description.shape.needs_features()
        info = FeatureInfo(UNKNOWN, width, UNKNOWN, None, None, UNKNOWN)
        if dataset is not None and features is not None:
            info = dataset.feature_info(features)
            if info.width != width:
                raise CheckpointMismatchError(
                    f"{checkpoint.file} reads vectors of width {width}, the vectors {features} of {dataset.path} are "
                    f"{info.width} wide; take the encoder that the model was trained with."
                )
        if own is not None:
            vectors = own[1:].numpy()
            if dataset is not None and features is not None and items is not None:
                rows = [dataset.item_row[raw_id] for raw_id in items["raw_id"].to_pylist()]
                _warn_if_other(checkpoint, vectors, dataset, features, rows)
        elif dataset is not None and features is not None:
            vectors = dataset.load_features(features)
        else:
            vectors = np.zeros((0, width), np.float32)
        return EmbeddingSource(checkpoint.file, info, vectors, (), features)
    if issubclass(kind, CodeSource):
        if dataset is None or codes is None:
            code_books, centroids = description.shape.needs_codes()
            return CodeSource(checkpoint.file, np.zeros((0, code_books), np.uint8), None, None, None, centroids)
        found, sizes = CodeSource.stored(dataset, codes), checkpoint.weights.sizes
        book = found.known_book()
        if (book.subvectors, book.num_centroids) != (sizes["code_dim"], sizes["code_cap"]):
            raise CheckpointMismatchError(
                f"{checkpoint.file} reads {sizes['code_dim']} codes of {sizes['code_cap']} values, the codes {codes} of "
                f"{dataset.path} are {book.subvectors} of {book.num_centroids}; quantize with those numbers."
            )
        return found
    return IdSource(checkpoint.file, 0 if items is None else len(items))


def _warn_if_other(
    checkpoint: ReleasedCheckpoint, own: npt.NDArray[Any], dataset: PreparedDataset, features: str, rows: list[int]
) -> None:
    """Warn if the vectors that a checkpoint carries are not those of the folder, as in the released code's FDSA."""
    theirs = np.asarray(dataset.features(features)[np.asarray(rows)], dtype=np.float32)
    different = int((~np.isclose(own, theirs, rtol=1e-3, atol=1e-4)).any(axis=1).sum())
    if different:
        log.warning(
            "%s carries vectors of its own, and those of %d of the %d items are not the vectors %s of %s: its own are read, "
            "as the model was trained with them. With the others it would give other scores",
            checkpoint.file, different, len(own), features, dataset.path,
        )  # fmt: skip


def _check_flags(checkpoint: ReleasedCheckpoint, dataset: PreparedDataset, asked: Asked, family: Family) -> None:
    title = checkpoint.weights.form.title
    needed = {EmbeddingSource: ("features", "text vectors"), CodeSource: ("codes", "item codes")}.get(family.source)
    stored = {"features": dataset.feature_names, "codes": dataset.code_names}
    problems = []
    for flag in ("features", "codes"):
        if needed is not None and flag == needed[0]:
            if asked.get(flag) is None and not (flag == "features" and VECTORS in checkpoint.weights.carried):
                has = ", ".join(stored[flag]) or "none"
                problems.append(f"--{flag} is missing: {title} reads {needed[1]}; {dataset.path} has: {has}")
        elif asked.get(flag) is not None:
            problems.append(f"--{flag} {asked[flag]}: {title} reads no {flag}")
    if problems:
        raise SettingsError(problems)


def _items(checkpoint: ReleasedCheckpoint, dataset: PreparedDataset | None, item_ids: Path | None) -> pa.Table:
    """The items of the catalogue in the order of the model's rows: `raw_id`, attributes, `text`."""
    count = checkpoint.weights.num_items
    if count is None:
        assert dataset is not None
        return dataset.items()
    if item_ids is None:
        if dataset is not None:
            raise SettingsError(
                [
                    f"--item-ids is missing: {checkpoint.file} numbers its {count:,} items in an order of its own, which "
                    f"{dataset.path} does not know. RecBole has it in dataset.field2id_token[dataset.iid_field][1:]"
                ]
            )
        raw_ids = [str(number) for number in range(1, count + 1)]
    else:
        raw_ids = read_ids(item_ids)
    if len(raw_ids) != count or len(set(raw_ids)) != count:
        raise DataFormatError(
            f"{item_ids} holds {len(raw_ids):,} ids, {len(set(raw_ids)):,} different ones; {checkpoint.file} has {count:,} "
            "items. Expected one id for each, without that of padding."
        )
    if dataset is None:
        return pa.table({"raw_id": pa.array(raw_ids, pa.string()), "text": pa.array([""] * count, pa.string())})
    unknown = [raw_id for raw_id in raw_ids if raw_id not in dataset.item_row]
    if unknown:
        raise DataFormatError(
            f"{dataset.path} lacks {len(unknown):,} of the {count:,} items of {item_ids}, such as {unknown[0]!r}; give the "
            "folder of the data that the model was trained on."
        )
    return dataset.items().take([dataset.item_row[raw_id] for raw_id in raw_ids])


def _plain_settings(config: Any) -> dict[str, Any]:
    """The plain values of a pickled config: a dict, RecBole's `Config`, or another object with its settings as attributes."""
    if isinstance(config, Record):
        config = config.state
        if isinstance(config, dict):
            config = config.get("final_config_dict", config)
    if not isinstance(config, dict):
        return {}
    return {key: value for key, value in config.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, str | int | float)
