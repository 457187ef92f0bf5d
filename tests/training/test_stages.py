"""Stages of a training: in order, each in its folder, finished ones skipped by a resumed training, and taken over."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from linguarec.errors import CheckpointMismatchError
from linguarec.training.stages import STAGE_FILE, PlannedStage, Runnable, StageResult, run_stages


class Recorder:
    """Plans stages that write down what happens to them, and `break_in` raises in a stage of that name."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.given: dict[str, list[StageResult]] = {}
        self.break_in: str | None = None

    def stage(self, name: str, number: int, title: str = "") -> PlannedStage:
        def begin(before: Sequence[StageResult]) -> Runnable:
            self.log.append(f"begin {name}")
            self.given[name] = list(before)
            return Step(self, name, number)

        return PlannedStage(name, title, begin, lambda folder: self.log.append(f"take over {folder.name}"))


@dataclass
class Step:
    recorder: Recorder
    name: str
    number: int

    def run(self, folder: Path, resume: bool) -> StageResult:
        self.recorder.log.append(f"run {self.name} in {folder.name}, resume {resume}")
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").write_text("x")
        (folder / "kept.npy").write_text("x")
        if self.name == self.recorder.break_in:
            raise KeyboardInterrupt
        return result(self.number)


def result(number: int) -> StageResult:
    return StageResult(
        {"ndcg@10": number / 10}, best_epoch=number, epochs=number + 1, steps=9, seconds=0.5, before=0.05
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def three(recorder: Recorder) -> list[PlannedStage]:
    return [recorder.stage(name, number) for number, name in enumerate(("first", "second", ""), start=1)]


def test_stages_run_in_order_each_with_the_results_before_it(recorder: Recorder, run: Path) -> None:
    assert run_stages(three(recorder), run, resume=False) == [result(1), result(2), result(3)]
    assert recorder.log == [
        "begin first", "run first in first, resume False", "take over first",
        "begin second", "run second in second, resume False", "take over second",
        "begin ", "run  in run, resume False", "take over run",
    ]  # fmt: skip
    assert recorder.given == {"first": [], "second": [result(1)], "": [result(1), result(2)]}


def test_each_stage_has_a_folder_and_the_last_one_the_run_itself(recorder: Recorder, run: Path) -> None:
    run_stages(three(recorder), run, resume=False)
    for number, name in enumerate(("first", "second"), start=1):
        stored = json.loads((run / name / STAGE_FILE).read_text())
        assert stored == {key: value for key, value in asdict(result(number)).items() if value is not None}
        assert sorted(file.name for file in (run / name).iterdir()) == ["kept.npy", STAGE_FILE]
    # Whoever trains writes the result of the whole run, so its checkpoint and the mark of its end are not from here.
    assert sorted(file.name for file in run.iterdir()) == ["checkpoints", "first", "kept.npy", "second"]


def test_a_resumed_training_skips_finished_stages_but_takes_them_over(recorder: Recorder, run: Path) -> None:
    recorder.break_in = "second"
    with pytest.raises(KeyboardInterrupt):
        run_stages(three(recorder), run, resume=False)
    assert not (run / "second" / STAGE_FILE).exists()
    assert (run / "second" / "checkpoints" / "last.ckpt").exists()
    again = Recorder()
    assert run_stages(three(again), run, resume=True) == [result(1), result(2), result(3)]
    assert again.log == [
        "take over first",
        "begin second", "run second in second, resume True", "take over second",
        "begin ", "run  in run, resume True", "take over run",
    ]  # fmt: skip
    assert again.given["second"] == [result(1)]  # as it was written


def test_without_resume_finished_stages_run_again(recorder: Recorder, run: Path) -> None:
    run_stages(three(recorder), run, resume=False)
    recorder.log.clear()
    run_stages(three(recorder), run, resume=False)
    assert [line for line in recorder.log if line.startswith("begin")] == ["begin first", "begin second", "begin "]


def test_the_last_stage_is_never_skipped(recorder: Recorder, run: Path) -> None:
    (run / STAGE_FILE).write_text("{}")  # of the run, which holds other things than a stage's
    assert run_stages([recorder.stage("", 1)], run, resume=True) == [result(1)]
    assert recorder.log == ["begin ", "run  in run, resume True", "take over run"]


def test_the_title_is_logged_when_a_stage_begins(
    recorder: Recorder, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stages = [recorder.stage("first", 1, "a warm-up"), recorder.stage("second", 2), recorder.stage("", 3, "all of it")]
    run_stages(stages, run, resume=False)
    assert caplog.messages == ["stage 1: a warm-up", "stage 3: all of it"]
    caplog.clear()
    run_stages(stages, run, resume=True)
    assert caplog.messages == ["stage 1 has finished before: a warm-up", "stage 3: all of it"]


def test_a_damaged_result_is_named(recorder: Recorder, run: Path) -> None:
    run_stages(three(recorder), run, resume=False)
    (run / "first" / STAGE_FILE).write_text('{"valid": {}, "colour": 1}')
    message = "does not describe a stage of a training: it lacks best_epoch, .* and it has the unknown colour"
    with pytest.raises(CheckpointMismatchError, match=message):
        run_stages(three(recorder), run, resume=True)
