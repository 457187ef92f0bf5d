"""Open model folders (run, pre-training run or converted checkpoint), and look up families by name."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from linguarec.bounds import check_sizes
from linguarec.checks import sizes_of_weights
from linguarec.data.dataset import prepared_instead
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families import FAMILIES
from linguarec.families.family import Family, ModelDescription, Start
from linguarec.families.start import warn_if_unfinished
from linguarec.families.weights import (
    CONFIG_FILE,
    SETTINGS_FILE,
    SETTINGS_PATHS,
    WEIGHTS_FILE,
    check_tensors,
    load_weights,
    reading_tensors,
)
from linguarec.files import absence
from linguarec.nn.shape import CatalogueShape
from linguarec.portable import located_values
from linguarec.records import misfit, record_of
from linguarec.seals import check_seal
from linguarec.stored import AGAIN, read_json
from linguarec.training.record import CURVE_FILE


def family_named(name: str) -> Family:
    """The family of that name.

    Raises:
        SettingsError: there is no such family.
    """
    if name not in FAMILIES:
        raise SettingsError([unknown_model(name)])
    return FAMILIES[name]


def family_problems(names: Sequence[str], flag: str) -> list[str]:
    """A line for each name that is not a family, or one if there are no names."""
    if not names:
        return [f"{flag} names none. There are: {', '.join(_trained(FAMILIES))}."]
    return [unknown_model(name) for name in names if name not in FAMILIES]


def unknown_model(name: str, among: Iterable[str] = FAMILIES) -> str:
    """What to say of a name that is no family: the name nearest to it, and all names `among` these that can be trained."""
    able = _trained(among)
    near = difflib.get_close_matches(name, able, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"unknown model {name!r}{hint} There are: {', '.join(able)}."


def _trained(names: Iterable[str]) -> list[str]:
    return [name for name in names if FAMILIES[name].trained]


def read_description(folder: Path) -> ModelDescription:
    """What `folder/config.json` describes.

    Raises:
        CheckpointMismatchError: there is no such file, or linguarec did not write it.
    """
    file = folder / CONFIG_FILE
    if folder.is_file():
        raise CheckpointMismatchError(
            f"{folder} is a file, expected a model folder of linguarec; `linguarec convert {folder} -o FOLDER` makes one of "
            "a released checkpoint."
        )
    if not file.is_file():
        raise CheckpointMismatchError(prepared_instead(folder) or _without_model(folder))
    return description_of(read_json(file, CheckpointMismatchError, AGAIN), file)


def _without_model(folder: Path) -> str:
    """Why a folder holds no model: `config.json` is written with the first weights, at the end of an epoch."""
    file = folder / SETTINGS_FILE
    if file.is_file() and "training" in read_json(file, CheckpointMismatchError, AGAIN):
        epoch = "the first epoch of its last stage" if any(folder.glob(f"*/{CURVE_FILE}")) else "its first epoch"
        return (
            f"{folder} holds no model yet: its training was stopped before {epoch} ended; go on with the command that began "
            "it and --resume."
        )
    reason = f"{CONFIG_FILE} is missing" if folder.exists() else absence(folder)
    return f"{folder} holds no model: {reason}. Expected a run folder of linguarec."


def description_of(content: dict[str, Any], file: Path) -> ModelDescription:
    """Inverse of `ModelDescription.to_dict`; `file` is named in errors.

    Raises:
        CheckpointMismatchError: this version of linguarec has no such model.
    """

    def part(key: str) -> dict[str, Any]:
        if wrong := misfit(content[key], dict[str, Any]):
            raise ValueError(f"its {key} is {wrong}")
        return dict(content[key])

    try:
        name = content["model"]
        if not isinstance(name, str) or name not in FAMILIES:
            raise CheckpointMismatchError(f"{file}: unknown model {name!r}; this linguarec has: {', '.join(FAMILIES)}.")
        family = FAMILIES[name]
        shape = record_of(CatalogueShape, part("shape"))
        config = record_of(family.config, part("config"))
        if not family.encoders:
            return ModelDescription(family, config, None, shape)
        encoder = part("encoder")
        kind = encoder.pop("kind")
        if not isinstance(kind, str) or kind not in family.encoders:
            raise CheckpointMismatchError(
                f"{file}: unknown sequence encoder {kind!r}; known: {', '.join(family.encoders)}."
            )
        return ModelDescription(family, config, record_of(family.encoders[kind], encoder), shape)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        if "model_type" in content:
            reason += (
                f"; it is of a {content['model_type']!r} model of transformers, which `linguarec encode --encoder` and "
                "the flag --backbone read"
            )
        raise CheckpointMismatchError(f"{file} does not describe a model of this linguarec: {reason}.") from error


def open_model(folder: Path) -> tuple[nn.Module, ModelDescription]:
    """The network in evaluation mode, with its description.

    Raises:
        CheckpointMismatchError: the folder holds no model, its files do not belong together (see `linguarec.seals`), or its
            tensors do not fit its description.
    """
    description = read_description(folder)
    check_seal(folder, CheckpointMismatchError, AGAIN)
    check_buildable(description, folder)
    model = description.build()
    load_weights(model, folder / WEIGHTS_FILE)
    return model.eval(), description


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are instead of drawing their values.

    On the meta device torch draws by a Python implementation that imports its compiler: seconds for nothing.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call every function but those that draw, or scale what was drawn by a number."""
        named = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in ("normal_", "uniform_", "kaiming_uniform_"):  # of tensors, and of torch.nn.init
            return args[0] if args else named["tensor"]
        if name == "mul" and isinstance(args[1], int | float):
            return args[0]
        if function in (torch.randn, torch.rand):
            return torch.empty(*args, **named)
        return function(*args, **named)


def check_buildable(description: ModelDescription, folder: Path) -> None:
    """Refuse weights that do not fit the description, before memory for a network of that size is taken.

    Raises:
        CheckpointMismatchError: the sizes are impossible, or the weights do not fit.
    """
    file = folder / WEIGHTS_FILE
    for settings in (description.config, description.encoder):
        if settings is not None:
            sizes = {name: getattr(settings, name) for name in sizes_of_weights(settings)}
            with reading_tensors(file):
                check_sizes(sizes, folder / CONFIG_FILE, [file], CheckpointMismatchError)
    try:
        with torch.device("meta"), _Undrawn():  # tensors without memory
            expected = description.build().state_dict()
    except (RuntimeError, ValueError, SettingsError) as error:
        raise CheckpointMismatchError(
            f"{folder / CONFIG_FILE} describes a network that cannot be built: {str(error).splitlines()[0]}. {AGAIN}"
        ) from error
    check_tensors(expected, file)


def open_start(folder: Path) -> Start:
    """Open the model that a training or a zero-shot evaluation starts from; warns if its own training has not finished.

    Raises:
        CheckpointMismatchError: the folder holds no model, or its parts do not fit together.
    """
    network, description = open_model(folder)
    source = description.family.source.load(folder, description.shape)
    file = folder / SETTINGS_FILE
    settings = read_json(file, CheckpointMismatchError, AGAIN) if file.exists() else {}
    settings = located_values(settings, folder, SETTINGS_PATHS)
    warn_if_unfinished(folder)
    return Start(folder, network, description, source, settings)
