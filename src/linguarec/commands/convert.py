"""Convert: a checkpoint of the released code to a model folder, and a model folder to such a checkpoint."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import DataFormatError, OutputError, SettingsError

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.families.family import Converted, Family, Released, ReleasedFile

CARRIED_FILE = "released.safetensors"
RELEASED_CONFIG = "Give the file with the settings that the model was trained with, as an object of names and values."
log = logging.getLogger(__name__)


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
    """Turn a checkpoint of the released code into a model folder, or a model folder into a checkpoint.

    No code from the file is run, and RecBole is not needed. The folder can be opened with `load_model` and fine-tuned with
    `finetune --from`. It has a catalogue if the checkpoint has items (ID embeddings or text vectors) or --items adds
    them. If SOURCE is a folder, it is converted back to a checkpoint with the same keys and tensors.

    Args:
        source: checkpoint (.pth), or a model folder to be written as one
        output: model folder to write, or the checkpoint if SOURCE is a folder
        released_config: JSON file with settings of the released code, if the checkpoint holds none
        heads: number of attention heads, if the settings do not name it
        items: prepared folder whose items become the catalogue
        item_ids: file with the raw ids of the checkpoint's own items in its numbering, from 1, one per line; without it
            their numbers are their ids
        features: name of the vectors of the prepared folder that the model reads
        codes: name of the codes of the prepared folder that the model reads
        tokens: name of the tokens of the prepared folder that the model reads
        word_embeddings: file with the word embeddings, which the released pre-training does not save: the checkpoint of
            the language model that it started from
        window: tokens that a token attends to, if the settings do not name it
        overwrite: replace the output if it exists
    """
    from linguarec.data.dataset import PreparedDataset
    from linguarec.families import FAMILIES
    from linguarec.families.family import ConversionRequest
    from linguarec.families.released import read_released
    from linguarec.stored import read_json

    given = {"--released-config": released_config, "--heads": heads, "--items": items, "--item-ids": item_ids}
    given |= {"--word-embeddings": word_embeddings, "--window": window}
    asked = {"features": features, "codes": codes, "tokens": tokens}
    source, output = Path(source), Path(output)
    if source.is_dir():
        unused = [flag for flag, value in given.items() if value is not None]
        unused += [f"--{flag}" for flag, name in asked.items() if name is not None]
        if unused:
            raise SettingsError([f"{flag} is for reading a checkpoint, and {source} is a folder" for flag in unused])
        return _write_released(source, output, overwrite)
    homeless = [f"--{flag} {name}" for flag, name in asked.items() if name is not None and items is None]
    if homeless:
        raise SettingsError([f"{flag} names something in a prepared folder; give it by --items" for flag in homeless])

    released = read_released(source)
    told = {} if released_config is None else read_json(released_config, DataFormatError, RELEASED_CONFIG)
    request = ConversionRequest(
        FAMILIES,
        told if heads is None else {**told, "n_heads": heads},
        None if items is None else PreparedDataset.open(items),
        asked,
        item_ids,
        word_embeddings,
        window,
    )
    converted = _adapter_for(released, FAMILIES.values()).read(released, request)
    count = _write_folder(converted, released, request.dataset, output, overwrite)
    result = {
        "output": str(output),
        "model": converted.description.name,
        "items": count,
        **converted.told,
        "not_made": released.not_made,
    }
    _show(f"{source.name}: {converted.title}, as {converted.description.name}", result)
    return result


def _adapter_for(released: "ReleasedFile", families: "Iterable[Family]") -> "Released":
    """The adapter that recognises checkpoints with these keys.

    Raises:
        CheckpointMismatchError: no adapter does.
    """
    from linguarec.errors import CheckpointMismatchError

    adapters = list(dict.fromkeys(family.released for family in families if family.released is not None))
    for adapter in adapters:
        if adapter.recognises(released.state):
            return adapter
    keys = list(released.state)
    named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    marks = "; ".join(adapter.marks for adapter in adapters)
    raise CheckpointMismatchError(
        f"{released.file}: no released checkpoint that is known: it has none of the keys {marks}; it has: {named or 'none'}."
    )


def _write_folder(
    converted: "Converted", released: "ReleasedFile", dataset: "PreparedDataset | None", output: Path, overwrite: bool
) -> int:
    """Write the model folder, with a catalogue if there are items; returns the number of items."""
    from typing import cast

    from safetensors.torch import save_file

    from linguarec.catalogue import Catalogue
    from linguarec.families.weights import SETTINGS_FILE, SETTINGS_PATHS, save_model, seal_model
    from linguarec.files import write_json, writing_file, writing_folder
    from linguarec.portable import portable_values
    from linguarec.recommender import Recommender
    from linguarec.runs.settings import SETTINGS_MARKER
    from linguarec.text.cleaning import TextRules

    description = converted.description
    recommender = None
    if converted.items is not None:
        scorer = description.family.scorer(converted.network, description, converted.source, None)
        catalogue = Catalogue.of(converted.items, converted.attributes, cast(TextRules, converted.text_rules))
        recommender = Recommender.of_items(scorer, description, catalogue, converted.source, converted.keys)
    with writing_folder(output, overwrite, SETTINGS_MARKER) as folder:
        if recommender is None:
            save_model(converted.network, description, folder)
        else:
            recommender.save(folder)
        if converted.carried:
            with writing_file(folder / CARRIED_FILE) as temporary:
                save_file(dict(converted.carried), temporary)
        settings = {
            **description.to_dict(),
            "source": released.file.name,
            "not_made": released.not_made,
            "split": "leave-one-out",
            **converted.settings,
        }
        if dataset is not None:
            settings |= {
                "data": str(dataset.path),
                "data_name": dataset.name,
                "data_fingerprint": dataset.fingerprint,
            }
        write_json(folder / SETTINGS_FILE, portable_values(settings, folder, SETTINGS_PATHS))
        seal_model(folder)
    return 0 if recommender is None else len(recommender.catalogue)


def _write_released(source: Path, output: Path, overwrite: bool) -> dict[str, Any]:
    from linguarec.errors import CheckpointMismatchError
    from linguarec.families.family import ModelFolder
    from linguarec.families.opening import open_model
    from linguarec.families.weights import SETTINGS_FILE, SETTINGS_PATHS, read_tensors
    from linguarec.portable import located_values
    from linguarec.ranking.repeats import REPEATS_FILE
    from linguarec.recommender import CATALOGUE_FILE
    from linguarec.sources.codes import BOOK_FILE, CODES_FILE
    from linguarec.stored import AGAIN, read_json

    if output.exists() and (output.is_dir() or not overwrite):
        advice = "it is a folder; name a file" if output.is_dir() else "choose another file, or pass --overwrite"
        raise OutputError(f"{output} exists already; {advice}.")
    network, description = open_model(source)
    adapter = description.family.released
    if adapter is None:
        raise CheckpointMismatchError(f"the released code has no form of {description.name}, which {source} holds.")
    carried = read_tensors(source / CARRIED_FILE) if (source / CARRIED_FILE).exists() else {}
    file = source / SETTINGS_FILE
    settings = read_json(file, CheckpointMismatchError, AGAIN) if file.exists() else {}
    settings = located_values(settings, source, SETTINGS_PATHS)
    written = adapter.write(ModelFolder(source, description, network, carried, settings), output, overwrite)
    kept = {CATALOGUE_FILE: "items", REPEATS_FILE: "repeat term", CODES_FILE: "codes", BOOK_FILE: "codebook"}
    left_out = [what for name, what in kept.items() if (source / name).exists()]
    result = {"output": str(output), "model": description.name, **written, "left_out": left_out}
    _show(f"{source.name}, as a checkpoint of the released code", result)
    if left_out:
        log.warning(
            "a released checkpoint has no place for %s, and %s needs them to recommend; keep the folder",
            ", ".join(left_out),
            source,
        )
    return result


def _show(title: str, result: dict[str, Any]) -> None:
    from linguarec.evaluation.report import Table
    from linguarec.runs.tables import plain_console, show_table

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
