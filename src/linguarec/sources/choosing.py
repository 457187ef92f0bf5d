"""Selects stored item vectors, codes or tokens of a prepared folder, by name or because there is only one."""

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError

FLAGS = {"vectors": "--features", "codes": "--codes", "tokens": "--tokens"}


def choose(
    kind: str, asked: str | None, stored: list[str], dataset: PreparedDataset, command: str, flags: str = ""
) -> str:
    """The name of the vectors, codes or tokens to read: the requested one, or the only one.

    Args:
        kind: "vectors", "codes" or "tokens".
        asked: the requested name, or None.
        stored: names in the folder.
        dataset: the folder.
        command: the linguarec command that makes them, for messages.
        flags: of that command, if its defaults would not make what is needed.

    Raises:
        SettingsError: the folder has none of that name, or several and no name was requested.
    """
    flag = FLAGS[kind]
    if asked is not None:
        if asked not in stored:
            known = ", ".join(stored) or "none"
            raise SettingsError([f"{flag} {asked}: {dataset.path} has no item {kind} of that name; it has: {known}"])
        return asked
    if len(stored) == 1:
        return stored[0]
    if not stored:
        borrowed = ", ".join(dataset.code_names) if kind == "codes" else ""
        none = f"none of its own (but {borrowed}, of the codebook of a model, for --codes)" if borrowed else "none"
        raise SettingsError(
            [
                f"this model reads item {kind} and {dataset.path} has {none}; make them with "
                f"{_command(command, dataset, flags)}"
            ]
        )
    raise SettingsError([f"{dataset.path} has several item {kind}: {', '.join(stored)}; choose one with {flag}"])


def choose_for_all(
    kind: str, asked: str | None, datasets: list[PreparedDataset], stored: list[list[str]], command: str
) -> str:
    """The name of vectors or codes that all folders have; `stored`: names in each folder.

    Raises:
        SettingsError: as in `choose`, or no name is in all folders.
    """
    for dataset, names in zip(datasets, stored, strict=True):
        if not names or (asked is not None and asked not in names):
            choose(kind, asked, names, dataset, command)  # its error says what is missing
    common = [name for name in stored[0] if all(name in names for names in stored)]
    if not common:
        listed = "; ".join(
            f"{dataset.path} has {', '.join(names)}" for dataset, names in zip(datasets, stored, strict=True)
        )
        raise SettingsError([f"no item {kind} are of one name in all folders: {listed}"])
    return choose(kind, asked, common, datasets[0], command)


def _command(name: str, dataset: PreparedDataset, flags: str) -> str:
    """The full command that makes the missing vectors, codes or tokens; codes need vectors first."""
    command = f"`linguarec {name} {dataset.path}{flags}`"
    if name != "quantize":
        return command
    vectors = dataset.feature_names
    first = "" if vectors else f"`linguarec encode {dataset.path}`, then "
    return f"{first}`linguarec quantize {dataset.path} --features {vectors[0] if vectors else 'all-MiniLM-L6-v2'}`"
