"""Create a run folder, or open one to resume it."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from linguarec.data.dataset import MANIFEST_FILE
from linguarec.errors import CheckpointMismatchError, OutputError, SettingsError
from linguarec.families.family import Plan
from linguarec.families.start import log_start
from linguarec.families.weights import CONFIG_FILE as MODEL_FILE
from linguarec.families.weights import SETTINGS_FILE
from linguarec.files import check_free, followed, owned, put_in_place
from linguarec.processes import is_main_process
from linguarec.runs.results import METRICS_FILE, TrainingResult, remove_checkpoints, show_metrics
from linguarec.runs.settings import SETTINGS_MARKER, RunSettings, read_settings
from linguarec.seals import unseal
from linguarec.stored import AGAIN, read_record
from linguarec.training.stages import StageResult, keeps_progress, run_stages

log = logging.getLogger(__name__)
Kind = TypeVar("Kind", bound=TrainingResult)


def training_place(output: Path, overwrite: bool) -> Path:
    """The folder that a training writes: the run folder; with `overwrite` a hidden one beside it, which replaces it at the end.

    Every process of a training gets the same answer, whatever another one has written meanwhile.
    """
    named = followed(output)
    return named.with_name(f".{named.name}.training") if overwrite else output


@contextlib.contextmanager
def training_folder(
    output: Path, settings: RunSettings, resume: bool, overwrite: bool, kind: type[Kind]
) -> Iterator[Kind | None]:
    """Create the folder of a training (see `training_place`) with its settings, or check that it can be resumed.

    Yields the `kind` of result of a run that is finished already, else None. The run is locked meanwhile. With `overwrite` the
    old run stays until the block has succeeded; with `resume` as well, an earlier replacement that was interrupted goes on.

    Every process of a training calls this; only the main one writes files and logs messages.

    Raises:
        SettingsError: the run to resume was made with other settings; each is named with both values.
        OutputError: the folder exists and is neither resumed nor replaced, is not a run, or is written by another process.
        CheckpointMismatchError: the folder to resume does not hold a training.
    """
    place = training_place(output, overwrite)
    if not is_main_process():
        # torchrun starts all processes at once: if the main one finds the run finished, no other process may wait for it.
        yield kind.of_later_process() if resume and (place / METRICS_FILE).exists() else None
        return
    with owned(output):
        if overwrite or output.is_file():
            check_free(output, overwrite, SETTINGS_MARKER)
        goes_on = resume and (place / SETTINGS_FILE).exists()
        done = _finished(place, output, settings, kind) if goes_on else None
        if goes_on and done is None and not keeps_progress(place):
            log.info("there is no checkpoint in %s yet: the training begins anew", place)
        if not goes_on and overwrite:
            shutil.rmtree(place, ignore_errors=True)
        elif not goes_on and place.exists() and not _is_empty(place):
            raise OutputError(
                f"{output} exists already; go on with it by --resume, replace it by --overwrite, or choose another folder."
            )
        if done is None:
            settings.write(place)
            unseal(place)  # its weights are going to be replaced
        yield done
        if place != output:
            put_in_place(place, output)


def _is_empty(place: Path) -> bool:
    """Whether a path is a folder without entries but what a process left that was killed while it wrote its first file."""
    return place.is_dir() and all(
        each.name.startswith(".") and each.name.endswith(".partial") for each in place.iterdir()
    )


def run_training(
    plan: Plan,
    settings: RunSettings,
    output: Path,
    resume: bool,
    overwrite: bool,
    kind: type[Kind],
    finish: Callable[[list[StageResult]], Kind],
) -> Kind:
    """Run the stages of a plan in its folder (see `training_folder`), and complete it.

    `finish` completes the folder from the results of the stages, and makes the result of the run; only the main process calls
    it.
    """
    with training_folder(output, settings, resume, overwrite, kind) as done:
        if done is not None:
            return done
        log_start(plan.taken)
        plan.begin()
        results = run_stages(plan.stages, training_place(output, overwrite), resume)
        return finish(results) if is_main_process() else kind.of_later_process()


def _finished(place: Path, output: Path, settings: RunSettings, kind: type[Kind]) -> Kind | None:
    """The result of the run `output` to resume if it is finished already; refuses one that was made with other settings."""
    file = place / SETTINGS_FILE
    stored = read_settings(place)
    if not {"training", "model", "config"} <= stored.keys():
        raise CheckpointMismatchError(
            f"{file} does not stand for a training, so there is none to go on with; choose another output folder."
        )
    if differing := settings.differences(stored):
        title = f"{place} cannot be resumed with other settings; give those of the run, or another output folder:"
        raise SettingsError([title, *differing])
    if not (place / METRICS_FILE).exists():
        return None
    metrics = read_record(kind, place / METRICS_FILE, "the result of a training", CheckpointMismatchError, AGAIN)
    metrics = replace(metrics, run=str(output))  # wherever it was when it was written
    remove_checkpoints(place)  # of a process that was killed at its very end
    show_metrics(metrics, note="finished before, nothing left to do")
    return metrics


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
