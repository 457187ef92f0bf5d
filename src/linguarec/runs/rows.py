"""The rows of a comparison: results and runs of each system, and finished runs that are named as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from linguarec.data.dataset import PreparedDataset, prepared_instead
from linguarec.errors import SettingsError
from linguarec.evaluation.evaluate import Protocols
from linguarec.evaluation.lists import ListedItems, Measures, measured
from linguarec.families.weights import SETTINGS_FILE
from linguarec.files import AnyPath
from linguarec.runs.settings import read_settings


@dataclass
class Rows:
    """The systems of one split: their results on test, the measures of their lists and their run folders, one for each seed."""

    listed: ListedItems
    results: dict[str, list[Protocols]] = field(default_factory=dict)
    lists: list[Measures] = field(default_factory=list)
    runs: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, name: str, result: Protocols, run: Path | None = None) -> None:
        """Add the next seed of a system. Its lists are measured now, and not kept."""
        self.lists.append(measured({name: result}, self.listed))
        without = {protocol: replace(found, best=None) for protocol, found in result.items()}
        self.results.setdefault(name, []).append(without)
        if run is not None:
            self.runs.setdefault(name, []).append(run)


def named_runs(folders: Sequence[AnyPath], taken: Sequence[str]) -> dict[str, list[Path]]:
    """Row name -> run folders. A folder that is no run, but holds runs, is one row of several seeds.

    Raises:
        SettingsError: a folder is no run and holds none.
    """
    found: dict[str, list[Path]] = {}
    problems = []
    for folder in map(Path, folders):
        runs = [folder] if (folder / SETTINGS_FILE).exists() else sorted(folder.glob(f"*/{SETTINGS_FILE}"))
        runs = [run.parent if run.name == SETTINGS_FILE else run for run in runs]
        if not runs:
            none = f"{folder}: it is no run folder and holds none (no {SETTINGS_FILE} there)"
            problems.append(f"--runs {prepared_instead(folder) or none}")
        name = f"{folder.parent.name}/{folder.name}" if folder.name.startswith("seed") else folder.name
        name = name if name not in (*taken, *found) else str(folder)
        if name in found:
            problems.append(f"--runs {folder} is named twice")
        found[name] = runs
    if problems:
        raise SettingsError(problems)
    return found


def check_runs(rows: Mapping[str, Sequence[Path]], dataset: PreparedDataset, splits: Sequence[str]) -> None:
    """Refuse runs that were trained on these data in another way, since targets may be among what they learned from.

    Raises:
        SettingsError: there is one.
        CheckpointMismatchError: a folder is no run.
    """
    problems = []
    for run in (run for of_row in rows.values() for run in of_row):
        settings = read_settings(run)
        own = settings.get("data_fingerprint") == dataset.fingerprint
        split = settings.get("split", "leave-one-out")
        if own and split not in splits:
            problems.append(
                f"--runs {run} was trained on the split {split} of these data, and {' and '.join(splits)} are "
                "compared: targets may be among what it learned from"
            )
    if problems:
        raise SettingsError(problems)


def trained_on(rows: Mapping[str, Sequence[Path]], dataset: PreparedDataset) -> list[str]:
    """Names of the rows whose runs were trained on these data, so that each is of one split."""
    return [
        name for name, runs in rows.items() if read_settings(runs[0]).get("data_fingerprint") == dataset.fingerprint
    ]
