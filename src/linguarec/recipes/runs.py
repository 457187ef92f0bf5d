"""What trainings share: the run folder with its settings, what is read of the data, the results."""

import logging
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import CheckpointMismatchError, OutputError, SettingsError
from linguarec.files import Marker

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.training.fit import FitResult
    from linguarec.training.settings import TrainingSettings

SETTINGS_FILE, METRICS_FILE, CONFIG_FILE = "settings.json", "metrics.json", "run.yaml"
SETTINGS_MARKER = Marker(SETTINGS_FILE, "model")
CURVE_FILE = "metrics.csv"  # one row an epoch, from the first one on
RECORDED_LATER = ("data_sentences", "valid_sentences")  # which runs of earlier versions were trained without telling
log = logging.getLogger(__name__)


def choose(
    kind: str, asked: str | None, stored: list[str], dataset: "PreparedDataset", command: str, flags: str = ""
) -> str:
    """The name of the vectors, codes or tokens to read: the one asked for, or the only one there is.

    `command` makes them, with `flags` where its defaults would make others than are needed.
    """
    flag = {"vectors": "--features", "codes": "--codes", "tokens": "--tokens"}[kind]
    if asked is not None:
        if asked not in stored:
            known = ", ".join(stored) or "none"
            raise SettingsError([f"{flag} {asked}: {dataset.path} has no item {kind} of that name; it has: {known}"])
        return asked
    if len(stored) == 1:
        return stored[0]
    if not stored:
        borrowed = ", ".join(dataset.code_names) if kind == "codes" else ""
        none = f"none of its own (but {borrowed}, of the code book of a model, for --codes)" if borrowed else "none"
        raise SettingsError(
            [
                f"this model reads item {kind} and {dataset.path} has {none}; make them with "
                f"{_command(command, dataset, flags)}"
            ]
        )
    raise SettingsError([f"{dataset.path} has several item {kind}: {', '.join(stored)}; choose one with {flag}"])


def _command(name: str, dataset: "PreparedDataset", flags: str) -> str:
    """The whole command that makes what is missing; codes need vectors first."""
    command = f"`linguarec {name} {dataset.path}{flags}`"
    if name != "quantize":
        return command
    vectors = dataset.feature_names
    first = "" if vectors else f"`linguarec encode {dataset.path}`, then "
    return f"{first}`linguarec quantize {dataset.path} --features {vectors[0] if vectors else 'all-MiniLM-L6-v2'}`"


def seed_problems(seed: int, flag: str = "--seed") -> list[str]:
    """What is wrong with a seed, as the lines of an error: nothing, or that it is negative."""
    return [] if seed >= 0 else [f"{flag} is {seed}; it must be at least 0."]


def name_problems(name: str) -> list[str]:
    """What is wrong with the name that vectors or tokens are to be stored under, as the lines of an error."""
    plain = name and "/" not in name and not name.startswith(".")
    return [] if plain else [f"name is {name!r}; expected a plain file name."]


def check_seed(seed: int) -> None:
    """Raise an error where `seed_problems` finds one."""
    if problems := seed_problems(seed):
        raise SettingsError(problems)


def refuse(model: str, given: dict[str, Any]) -> None:
    """Refuse flags that say nothing to the model; a group of settings at its defaults was not given."""
    named = [flag for flag, value in given.items() if value is not None and value != _default(value)]
    if named:
        raise SettingsError([f"--{flag}: this is not for {model}; leave it out" for flag in named])


def refuse_windows(model: str, training: "TrainingSettings") -> None:
    """Refuse windows of long histories for a model of tokens: an epoch asks for one item of each user."""
    refuse(model, {"training.window_stride": training.window_stride or None})


def _default(value: Any) -> Any:
    return type(value)() if is_dataclass(value) and not isinstance(value, type) else None


def read_of(data: Path, dataset: "PreparedDataset", split: str, users: float) -> dict[str, Any]:
    """What settings.json records of the folder that a fine-tuning reads."""
    return {
        "data": str(data),
        "data_name": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "split": split,
        "users": users,
    }


def read_of_domains(
    datasets: "list[PreparedDataset]", valid: "PreparedDataset | None", split: str, users: float
) -> dict[str, Any]:
    """What settings.json records of the folders that a pre-training reads."""
    return {
        "stage": "pretrain",
        "data": [str(dataset.path) for dataset in datasets],
        "data_fingerprints": [dataset.fingerprint for dataset in datasets],
        "valid": None if valid is None else str(valid.path),
        "valid_fingerprint": None if valid is None else valid.fingerprint,
        "split": split,
        "users": users,
    }


def versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("linguarec", "torch", "lightning", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def is_main_process() -> bool:
    """Whether this process writes the run folder: it is alone, or the first of those that Lightning or torchrun started."""
    import os

    from torch.distributed import is_torchelastic_launched

    # torchrun counts ranks over all machines; beside the processes that Lightning starts there is no other machine.
    return int(os.environ.get("RANK" if is_torchelastic_launched() else "LOCAL_RANK", 0)) == 0


def open_run(output: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Make the run folder with its settings, or check that it can be resumed; the results if it is finished already.

    Every process of a training runs its recipe and calls this; only the main one writes and says something.
    """
    import shutil

    from linguarec.files import check_ours, write_json
    from linguarec.hub.pretrained import AGAIN
    from linguarec.stored import read_json

    file = output / SETTINGS_FILE
    if not is_main_process():
        # torchrun starts all processes at once: where the main one finds nothing left to do, none may wait for it.
        return {} if resume and (output / METRICS_FILE).exists() else None
    if resume and file.exists():
        stored = read_json(file, CheckpointMismatchError, AGAIN)
        if not {"training", "model", "config"} <= stored.keys():
            raise CheckpointMismatchError(
                f"{file} does not stand for a training, so there is none to go on with; choose another output folder."
            )
        before, now = _compared(stored), _compared(settings)
        now = {key: value for key, value in now.items() if key in before or key not in RECORDED_LATER}
        if before["sequence_encoder"] != now["sequence_encoder"]:  # then none of its settings can be compared
            kinds = tuple(f"{each['sequence_encoder']}." for each in (before, now))
            before, now = ({k: v for k, v in each.items() if not k.startswith(kinds)} for each in (before, now))
        differing = [
            f"{key}: the run has {before.get(key)!r}, now {now.get(key)!r}"
            for key in {**now, **{key: 0 for key in before if "." in key}}
            if before.get(key) != now.get(key)
        ]
        if differing:
            title = f"{output} cannot be resumed with other settings; give those of the run, or another output folder:"
            raise SettingsError([title, *differing])
        if (output / METRICS_FILE).exists():
            metrics = read_json(output / METRICS_FILE, CheckpointMismatchError, AGAIN)
            _show(metrics, note="finished before; nothing left to do")
            return metrics
        return None
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise OutputError(
                f"{output} exists already; go on with it by --resume, replace it by --overwrite, or choose another folder."
            )
        check_ours(output, SETTINGS_MARKER)
        shutil.rmtree(output)
    write_json(file, settings)
    return None


def log_own_training(model: str) -> None:
    """Say which settings of its own a model is trained with where nothing else was asked for."""
    from linguarec.models import MODELS

    if own := MODELS[model].training:
        log.info(
            "%s: where not asked otherwise, %s", model, ", ".join(f"{name} {value}" for name, value in own.items())
        )


def check_report_folder(output: Path) -> None:
    """Refuse to write a report of several runs into a prepared folder, a run or a model.

    Raises:
        SettingsError: it is one.
    """
    from linguarec.data.dataset import MANIFEST_FILE
    from linguarec.hub import pretrained

    for name in (MANIFEST_FILE, pretrained.CONFIG_FILE, SETTINGS_FILE):
        if (output / name).exists():
            raise SettingsError(
                [f"--output {output} holds a {name}, so it is no place for a report; name another folder"]
            )


def write_config(output: Path, flags: dict[str, Any]) -> None:
    """Write `run.yaml`: the flags of a run (None = not given), as `--config` takes them to repeat it."""
    import yaml

    from linguarec.files import writing_file

    if not is_main_process():
        return
    given = {key: str(value) if isinstance(value, Path) else value for key, value in flags.items() if value is not None}
    with writing_file(output / CONFIG_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(given, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to go on, as JSON gives it back: not where folders lie, but what is in them."""
    import json
    from dataclasses import asdict

    from linguarec.models import MODELS
    from linguarec.training.settings import TrainingSettings

    flat = {key: value for key, value in settings.items() if key not in ("versions", "data", "valid", "from")}
    # A run of an earlier version was trained with the neutral values of settings that came later.
    flat["training"] = asdict(TrainingSettings()) | flat["training"]
    flat["config"] = asdict(MODELS[flat["model"]].config()) | flat["config"]
    taken = settings.get("from") or {}
    flat |= {f"from.{key}": value for key, value in taken.items() if key not in ("folder", "backbone")}
    # A folder is told by its tokenizer (`sentences`), wherever it lies.
    flat["backbone"] = settings.get("backbone") is not None
    flat["encoder"] = dict(flat.get("encoder") or {})
    flat["sequence_encoder"] = encoder = flat["encoder"].pop("kind", "encoder")
    for group, flag in {
        "training": "training",
        "config": "model",
        "encoder": encoder,
        "augmentation": "augmentation",
    }.items():
        flat |= {f"{flag}.{key}": value for key, value in (flat.pop(group, None) or {}).items()}
    same: dict[str, Any] = json.loads(json.dumps(flat))
    return same


def valid_of(history: list[dict[str, Any]], epoch: int) -> dict[str, float]:
    row = next(row for row in history if row["epoch"] == epoch)
    return {key.removeprefix("valid "): value for key, value in row.items() if key.startswith("valid ")}


def finish_pretraining(
    output: Path,
    name: str,
    datasets: "list[PreparedDataset]",
    counts: list[int],
    seed: int,
    result: "FitResult",
    cut: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the results of a pre-training and return its metrics.

    `counts`: what each folder had to train on. `cut`: what was left out of histories and items, where it was counted.
    """
    names = [dataset.name for dataset in datasets]
    metrics = {
        "run": str(output),
        "model": name,
        "domains": dict(zip(names, counts, strict=True)),
        "seed": seed,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds": round(result.seconds, 1),
        **({} if cut is None else {"cut": cut}),
        "valid": valid_of(result.history, result.best_epoch),
    }
    write_results(output, name, " + ".join(names), metrics)
    return metrics


def write_results(output: Path, name: str, data_name: str, metrics: dict[str, Any]) -> None:
    import shutil

    from linguarec.evaluation.plots import plot_learning_curves
    from linguarec.files import write_json

    curve = {name: learning_curve(output)}
    plot_learning_curves(output / "plots" / "learning_curve.png", f"{name} on {data_name}", "valid ndcg@10", curve)
    write_json(output / METRICS_FILE, metrics)
    shutil.rmtree(output / "checkpoints", ignore_errors=True)  # for resuming only; the run is finished
    _show(metrics)


def _show(metrics: dict[str, Any], note: str = "") -> None:
    from rich.table import Table

    from linguarec.recipes.tables import plain_console

    stage = f" of stage {metrics['best_stage']}" if "best_stage" in metrics else ""
    table = Table(
        title=f"{metrics['model']}, best of {metrics['epochs']} epochs: {metrics['best_epoch']}{stage} {note}".strip()
    )
    names = list(metrics["valid"])
    for column in ("part", *names):
        table.add_column(column)
    for part in ("valid", "test"):
        if part in metrics:
            table.add_row(part, *(f"{metrics[part][key]:.4f}" for key in names))
    console = plain_console()
    console.print(table)
    console.print(f"run folder: {metrics['run']}")


def learning_curve(run: Path) -> tuple[list[float], list[float]]:
    """Epochs of a run and its valid ndcg@10 after each; of a run of two stages those of the second follow the first's."""
    import csv

    from linguarec.training.recformer import STAGE_FOLDER

    epochs: list[float] = []
    values: list[float] = []
    for file in (run / STAGE_FOLDER / CURVE_FILE, run / CURVE_FILE):
        if file.exists():
            with file.open(newline="", encoding="utf-8") as opened:
                rows = list(csv.DictReader(opened))
            before = len(epochs)
            epochs += [before + float(row["epoch"]) for row in rows]
            values += [float(row["valid ndcg@10"]) for row in rows]
    return epochs, values
