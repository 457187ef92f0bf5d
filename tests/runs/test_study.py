"""The trials of a study beside those of other processes: whose turn it is, who fails, whose weights stay."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from prepared import tiny_shop

import linguarec.runs.study as module
from linguarec.commands.finetune import finetuning_request
from linguarec.commands.tune import KEPT, _strip, _train
from linguarec.data.dataset import PreparedDataset
from linguarec.families import FAMILIES
from linguarec.families.family import Request
from linguarec.runs.results import METRICS_FILE
from linguarec.runs.search_space import SearchSpace, TrainingArguments
from linguarec.runs.study import Attempt, TuningStudy, database_of
from linguarec.training.settings import TrainingSettings

FAMILY = FAMILIES["textknn"]
TRAINING = TrainingSettings(accelerator="cpu")
DECAY = "model.decay"


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    return tiny_shop(make_dataset)


def study_in(folder: Path) -> TuningStudy:
    folder.mkdir(exist_ok=True)
    space = SearchSpace.of(FAMILY, TrainingArguments(None, TRAINING, {}))
    return TuningStudy(folder, database_of(folder, None), {}, space, 0, False)


@contextlib.contextmanager
def begun_together(study: TuningStudy) -> Iterator[tuple[Attempt, Attempt]]:
    """Two trials of processes that live. One whose end is not told then counts as that of a process that died."""
    with contextlib.ExitStack() as both, pytest.MonkeyPatch.context() as alive:
        alive.setattr(TuningStudy, "_fail_the_dead", lambda self: None)
        first, second = (both.enter_context(study.attempt(9)) for _ in range(2))
        assert first is not None and second is not None
        yield first, second


def next_of(study: TuningStudy, value: float) -> Attempt:
    with study.attempt(9) as attempt:
        assert attempt is not None
        study.study.tell(attempt.trial, value)
        return attempt


def test_a_trial_in_the_place_of_one_that_failed_draws_what_that_one_drew(tmp_path: Path) -> None:
    alone = study_in(tmp_path / "alone")
    expected = [next_of(alone, 0.1).values[DECAY] for _ in range(4)]
    assert expected[0] == FAMILY.config().decay and len(set(expected)) == 4
    shared = study_in(tmp_path / "shared")
    with begun_together(shared) as (_, second):
        shared.study.tell(second.trial, 0.1)  # the process of the first one dies
    again = study_in(tmp_path / "shared")
    found = [second.values[DECAY], *(next_of(again, 0.1).values[DECAY] for _ in range(3))]
    assert found == [expected[1], expected[0], *expected[2:]]
    assert [each.number for each in again.trials] == [1, 2, 3, 4]


def test_a_trial_that_ends_while_another_process_looks_for_dead_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_in(tmp_path)
    owned = module.owned
    with study.attempt(9) as first:
        assert first is not None
        first.folder.mkdir()

    def ended(path: Path, patience: float = 0.0) -> Any:
        """Its process ends it, and lets go of its folder."""
        if path == first.folder:
            study.study.tell(first.trial, 0.5, skip_if_finished=True)
        return owned(path, patience)

    monkeypatch.setattr(module, "owned", ended)
    assert next_of(study, 0.1).trial.number == 1
    assert [each.state for each in study.trials] == [TrialState.COMPLETE] * 2 and first.folder.exists()


def test_an_interrupted_trial_leaves_no_folder(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), study.attempt(9) as attempt:
        assert attempt is not None
        attempt.folder.mkdir()
        (attempt.folder / "checkpoint").write_bytes(b"weights")
        raise KeyboardInterrupt
    assert study.trials == [] and not attempt.folder.exists()
    with pytest.raises(KeyboardInterrupt), study.attempt(9) as attempt:
        assert attempt is not None
        attempt.folder.mkdir()
        study.study.tell(attempt.trial, 0.5)
        raise KeyboardInterrupt
    assert study.best is not None and attempt.folder.exists()


def request_in(dataset: PreparedDataset, place: Path) -> Request:
    return finetuning_request(FAMILY, dataset.path, place, None, TRAINING, None, "leave-one-out", 1.0, 0, {})


def test_of_equal_trials_the_best_one_keeps_its_weights_whichever_ends_first(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    study = study_in(tmp_path / "study")
    with begun_together(study) as (early, late):
        for each in (late, early):
            _train(study, each, lambda place: request_in(dataset, place))
    first, second = study.trials
    assert study.best == first and first.value == second.value
    _strip(study)
    assert (early.folder / METRICS_FILE).exists() and {each.name for each in late.folder.iterdir()} == set(KEPT)


def test_the_weights_of_a_trial_that_becomes_the_best_meanwhile_stay(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_in(tmp_path / "study")
    next_of(study, 0.01)
    before = study.best
    with study.attempt(9) as attempt:
        assert attempt is not None
        _train(study, attempt, lambda place: request_in(dataset, place))
    monkeypatch.setattr(TuningStudy, "best", property(lambda self: before))  # as it was a moment ago
    _strip(study)
    assert (attempt.folder / METRICS_FILE).exists()
