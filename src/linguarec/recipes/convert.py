"""Convert: a checkpoint of the released code to a model folder, and a model folder to such a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from linguarec.errors import CheckpointMismatchError, DataFormatError, OutputError, SettingsError
from linguarec.recipes.runs import SETTINGS_MARKER, refuse

if TYPE_CHECKING:
    import pyarrow as pa

    from linguarec.codes.codebook import ItemCodes
    from linguarec.data.dataset import FeatureInfo, PreparedDataset
    from linguarec.hub.conversion import ReleasedCheckpoint
    from linguarec.hub.pretrained import ModelDescription
    from linguarec.recommender import Recommender

CARRIED_FILE, SETTINGS_FILE = "released.safetensors", "settings.json"
RELEASED_CONFIG = "Give the file with the settings that the model was trained with, as an object of names and values."


def convert(
    source: Path,
    output: Path,
    released_config: Path | None = None,
    heads: int | None = None,
    items: Path | None = None,
    item_ids: Path | None = None,
    features: str | None = None,
    codes: str | None = None,
    tokens: str | None = None,
    word_embeddings: Path | None = None,
    window: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Turn a checkpoint of RecBole's SASRec, UniSRec, VQ-Rec or Recformer into a model folder, or a folder into a checkpoint.

    Nothing in the file is run, and RecBole is not needed. The folder is opened by `load_model`, and fine-tuned with
    `finetune --from`. It has a catalogue if the checkpoint has items (ID embeddings or text vectors) or --items gives
    some. A folder given as SOURCE is written as a checkpoint again: the same keys, the same tensors.

    Args:
        source: checkpoint (.pth), or a model folder to be written as one
        output: model folder to write, or the checkpoint if SOURCE is a folder
        released_config: JSON file with settings of the released code, where the checkpoint carries none
        heads: number of attention heads, where no settings tell it
        items: prepared folder whose items become the catalogue
        item_ids: file with the raw ids of the checkpoint's own items in its numbering, from 1, one a line; without it
            their numbers are their ids
        features: name of the vectors of the prepared folder that the model reads
        codes: name of the codes of the prepared folder that the model reads
        tokens: name of the tokens of the prepared folder that the model reads
        word_embeddings: Recformer: file with the word embeddings, which its released pre-training does not save: the
            checkpoint of the language model that it started from
        window: Recformer: tokens that a token sees, where no settings tell it
        overwrite: replace the output if it exists
    """
    from safetensors.torch import save_file

    from linguarec.data.dataset import PreparedDataset
    from linguarec.files import write_json, writing_file, writing_folder
    from linguarec.hub.conversion import describe, read_released, recbole_checkpoint
    from linguarec.hub.pretrained import save_pretrained
    from linguarec.hub.released_recformer import is_recformer
    from linguarec.recipes.convert_recformer import convert_recformer
    from linguarec.stored import read_json

    given = {"--released-config": released_config, "--heads": heads, "--items": items, "--item-ids": item_ids}
    given |= {"--word-embeddings": word_embeddings, "--window": window}
    in_folder = {"--features": features, "--codes": codes, "--tokens": tokens}
    if source.is_dir():
        unused = [flag for flag, value in (given | in_folder).items() if value is not None]
        if unused:
            raise SettingsError([f"{flag} is for reading a checkpoint, and {source} is a folder" for flag in unused])
        return _write_released(source, output, overwrite)
    homeless = [f"{flag} {name}" for flag, name in in_folder.items() if name is not None and items is None]
    if homeless:
        raise SettingsError([f"{flag} names something in a prepared folder; give it by --items" for flag in homeless])

    released = read_released(source)
    told = {} if released_config is None else read_json(released_config, DataFormatError, RELEASED_CONFIG)
    if is_recformer(released.state):
        refuse("recformer", {"item-ids": item_ids, "features": features, "codes": codes})
        of_heads = {} if heads is None else {"num_attention_heads": heads}
        result = convert_recformer(released, output, told | of_heads, word_embeddings, window, items, tokens, overwrite)
        _show(f"{source.name}: a Recformer", result)
        return result
    refuse("a checkpoint of RecBole", {"tokens": tokens, "word-embeddings": word_embeddings, "window": window})
    checkpoint = recbole_checkpoint(released)
    weights = checkpoint.weights
    description, assumed = describe(checkpoint, told if heads is None else {**told, "n_heads": heads})
    dataset = None if items is None else PreparedDataset.open(items)
    recommender = _recommender(checkpoint, description, dataset, item_ids, features, codes)
    with writing_folder(output, overwrite, SETTINGS_MARKER) as folder:
        if recommender is None:
            model = description.build()
            model.load_state_dict(weights.tensors)
            save_pretrained(model, description, folder)
        else:
            description = recommender.description
            recommender.save(folder)
        if weights.carried:
            with writing_file(folder / CARRIED_FILE) as temporary:
                save_file(weights.carried, temporary)
        settings = {
            **description.to_dict(),
            "source": source.name,
            "released_as": weights.form.title,
            "released_epoch": checkpoint.epoch,
            "released_settings": {**checkpoint.settings, **told},
            "assumed": assumed,
            "not_made": checkpoint.not_made,
            "split": "leave-one-out",
            "features": features,
            "codes": codes,
        }
        if dataset is not None:
            settings |= {"data": str(items), "data_name": dataset.name, "data_fingerprint": dataset.fingerprint}
        write_json(folder / SETTINGS_FILE, settings)
    result = {
        "output": str(output),
        "model": description.name,
        "released_as": weights.form.title,
        "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
        "items": 0 if recommender is None else len(recommender.catalogue),
        **weights.sizes,
        "n_heads": settings["encoder"]["heads"],
        "code_book": None if recommender is None or recommender.codes is None else recommender.codes.book.fingerprint,
        "assumed": assumed,
        "carried_along": sorted(weights.carried),
        "not_made": checkpoint.not_made,
    }
    _show(f"{source.name}: {weights.form.title}, as {description.name}", result)
    return result


def _recommender(
    checkpoint: "ReleasedCheckpoint",
    description: "ModelDescription",
    dataset: "PreparedDataset | None",
    item_ids: Path | None,
    features: str | None,
    codes: str | None,
) -> "Recommender | None":
    """The converted model with a catalogue: the checkpoint's own items or those of `dataset`; None = there are none."""
    from dataclasses import replace

    import torch

    from linguarec.batching.batches import ItemBatch
    from linguarec.batching.catalogue import vectors_of_book
    from linguarec.catalogue import Catalogue
    from linguarec.hub.released import VECTORS
    from linguarec.recommender import Recommender
    from linguarec.text.cleaning import TextRules

    weights = checkpoint.weights
    if weights.num_items is None and item_ids is not None:
        raise SettingsError([f"--item-ids: {checkpoint.file} holds no items of its own to be named"])
    if weights.num_items is None and dataset is None:
        return None
    vectors = weights.carried[VECTORS][1:] if VECTORS in weights.carried else None
    encoder, stored = None, None
    attributes, rules = [], "released"
    if dataset is not None:
        _check_flags(checkpoint, dataset, features, codes)
        stored = None if codes is None else _fitting_codes(checkpoint, dataset, codes)
        encoder = None if features is None else _fitting_encoder(checkpoint, dataset, features)
        if stored is not None and (of_book := vectors_of_book(dataset, stored.book)) is not None:
            encoder = dataset.feature_info(of_book)
        if vectors is None and features is not None:
            vectors = torch.from_numpy(dataset.load_features(features))
        attributes, rules = dataset.manifest.attributes, dataset.manifest.text_rules
    table = _table(checkpoint, dataset, item_ids)
    description = replace(description, shape=replace(description.shape, num_items=len(table)))
    model = description.build()
    model.load_state_dict(weights.tensors)
    batch = ItemBatch(
        rows=torch.arange(len(table)),
        domain=torch.zeros(len(table), dtype=torch.int64),
        features=vectors,
        codes=None if stored is None else torch.tensor(stored.codes, dtype=torch.int64),
    )
    catalogue = Catalogue.of(table, attributes, cast(TextRules, rules))
    return Recommender.of_items(model.eval(), description, catalogue, batch, encoder, stored)


def _fitting_encoder(checkpoint: "ReleasedCheckpoint", dataset: "PreparedDataset", features: str) -> "FeatureInfo":
    info, width = dataset.feature_info(features), checkpoint.weights.sizes["plm_size"]
    if info.width != width:
        raise CheckpointMismatchError(
            f"{checkpoint.file} reads vectors of width {width}, the vectors {features} of {dataset.path} are {info.width} "
            "wide; take the encoder that the model was trained with."
        )
    return info


def _fitting_codes(checkpoint: "ReleasedCheckpoint", dataset: "PreparedDataset", codes: str) -> "ItemCodes":
    from linguarec.batching.catalogue import load_codes

    stored, sizes = load_codes(dataset, codes), checkpoint.weights.sizes
    if (stored.book.subvectors, stored.book.num_centroids) != (sizes["code_dim"], sizes["code_cap"]):
        raise CheckpointMismatchError(
            f"{checkpoint.file} reads {sizes['code_dim']} codes of {sizes['code_cap']} values, the codes {codes} of "
            f"{dataset.path} are {stored.book.subvectors} of {stored.book.num_centroids}; quantize with those numbers."
        )
    return stored


def _check_flags(
    checkpoint: "ReleasedCheckpoint", dataset: "PreparedDataset", features: str | None, codes: str | None
) -> None:
    from linguarec.hub.released import VECTORS
    from linguarec.models import MODELS

    reads = MODELS[checkpoint.weights.form.model].reads
    problems = []
    if "features" in reads and features is None and VECTORS not in checkpoint.weights.carried:
        problems.append(
            f"--features is missing: {checkpoint.weights.form.title} reads text vectors; {dataset.path} has: "
            f"{', '.join(dataset.feature_names) or 'none'}"
        )
    if reads == "codes" and codes is None:
        problems.append(
            f"--codes is missing: {checkpoint.weights.form.title} reads item codes; {dataset.path} has: "
            f"{', '.join(dataset.code_names) or 'none'}"
        )
    for flag, value, word in (("--features", features, "features"), ("--codes", codes, "codes")):
        if value is not None and word not in reads:
            problems.append(f"{flag} {value}: {checkpoint.weights.form.title} reads no {word}")
    if problems:
        raise SettingsError(problems)


def _table(checkpoint: "ReleasedCheckpoint", dataset: "PreparedDataset | None", item_ids: Path | None) -> "pa.Table":
    """The items of the catalogue in the order of the model's rows: `raw_id`, attributes, `text`."""
    import pyarrow as pa

    from linguarec.recipes.recommend import read_ids

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


def _write_released(source: Path, output: Path, overwrite: bool) -> dict[str, Any]:
    from safetensors.torch import load_file

    from linguarec.hub.conversion import write_checkpoint
    from linguarec.hub.pretrained import AGAIN, from_pretrained, read_description
    from linguarec.recipes.convert_recformer import write_recformer
    from linguarec.stored import read_json

    if output.exists() and (output.is_dir() or not overwrite):
        advice = "it is a folder; name a file" if output.is_dir() else "choose another file, or pass --overwrite"
        raise OutputError(f"{output} exists already; {advice}.")
    title = f"{source.name}, as a checkpoint of the released code"
    if read_description(source).encoder is None:
        result = write_recformer(source, output, overwrite)
        _show(title, result)
        return result
    model, description = from_pretrained(source)
    carried = load_file(source / CARRIED_FILE) if (source / CARRIED_FILE).exists() else {}
    file = source / SETTINGS_FILE
    settings = read_json(file, CheckpointMismatchError, AGAIN) if file.exists() else {}
    released = {"dataset": settings.get("data_name"), **(settings.get("released_settings") or {})}
    state = write_checkpoint(output, description, model.state_dict(), carried, released, settings.get("released_epoch"))
    result = {
        "output": str(output),
        "model": description.name,
        "tensors": len(state),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "carried_along": sorted(carried),
    }
    _show(title, result)
    return result


def _show(title: str, result: dict[str, Any]) -> None:
    from linguarec.evaluation.report import Table
    from linguarec.recipes.tables import plain_console, show_table

    rows = []
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} = {each}" for key, each in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        elif isinstance(value, int):
            value = f"{value:,}"
        rows.append([name.replace("_", " "), value or "none"])
    show_table(plain_console(), Table(["what", ""], rows), title)
