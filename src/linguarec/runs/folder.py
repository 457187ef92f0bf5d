"""Create a run folder, or open one to resume it."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from linguarec.data.dataset import MANIFEST_FILE
from linguarec.errors import CheckpointMismatchError, OutputError, SettingsError
from linguarec.families.weights import CONFIG_FILE as MODEL_FILE
from linguarec.families.weights import SETTINGS_FILE
from linguarec.files import check_ours
from linguarec.runs.results import METRICS_FILE, TrainingResult, show_metrics
from linguarec.runs.settings import SETTINGS_MARKER, RunSettings, read_settings
from linguarec.stored import AGAIN, read_record
from linguarec.training.processes import is_main_process

log = logging.getLogger(__name__)
Kind = TypeVar("Kind", bound=TrainingResult)


def open_run(output: Path, settings: RunSettings, resume: bool, overwrite: bool, kind: type[Kind]) -> Kind | None:
    """Create the run folder with its settings, or check that it can be resumed; returns the `kind` of result of a finished run.

    Every process of a training calls this; only the main one writes files and logs messages.

    Raises:
        SettingsError: the run to resume was made with other settings; each is named with both values.
        OutputError: the folder exists and is neither resumed nor replaced, or is not a run.
        CheckpointMismatchError: the folder to resume does not hold a training.
    """
    file = output / SETTINGS_FILE
    if not is_main_process():
        # torchrun starts all processes at once: if the main one finds the run finished, no other process may wait for it.
        return kind.of_later_process() if resume and (output / METRICS_FILE).exists() else None
    if resume and file.exists():
        stored = read_settings(output)
        if not {"training", "model", "config"} <= stored.keys():
            raise CheckpointMismatchError(
                f"{file} does not stand for a training, so there is none to go on with; choose another output folder."
            )
        if differing := settings.differences(stored):
            title = f"{output} cannot be resumed with other settings; give those of the run, or another output folder:"
            raise SettingsError([title, *differing])
        if (output / METRICS_FILE).exists():
            what = "the result of a training"
            metrics = read_record(kind, output / METRICS_FILE, what, CheckpointMismatchError, AGAIN)
            metrics = replace(metrics, run=str(output))  # wherever it was when it was written
            show_metrics(metrics, note="finished before; nothing left to do")
            return metrics
        return None
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise OutputError(
                f"{output} exists already; go on with it by --resume, replace it by --overwrite, or choose another folder."
            )
        check_ours(output, SETTINGS_MARKER)
        shutil.rmtree(output)
    settings.write(output)
    return None


def check_other_folder(from_: Path | None, output: Path) -> None:
    """Refuse a training that would replace what it starts from.

    Raises:
        SettingsError: both are the same folder.
    """
    if from_ is not None and from_.resolve() == output.resolve():
        raise SettingsError([f"--from and --output are both {output}; write the run into another folder"])


def check_report_folder(output: Path) -> None:
    """Refuse to write a report of several runs into a prepared folder, a run or a model.

    Raises:
        SettingsError: the folder is one of these.
    """
    for name in (MANIFEST_FILE, MODEL_FILE, SETTINGS_FILE):
        if (output / name).exists():
            raise SettingsError(
                [f"--output {output} holds a {name}, so it is no place for a report; name another folder"]
            )
