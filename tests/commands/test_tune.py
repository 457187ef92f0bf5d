"""Tuning: better than the defaults, repeated by the seed, resumed after a kill, shared by processes, pruned."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from postgres import PASSWORD, NoPostgres, Postgres
from prepared import tiny_shop

import linguarec
import linguarec.commands.tune as command_of_tune
from linguarec.cli import main
from linguarec.commands.tune import KEPT, TuneResult, tune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, SettingsError
from linguarec.families.closed_form import Solve
from linguarec.nn.encoders import TransformerConfig
from linguarec.runs.study import DATABASE, address_of, database_of
from linguarec.training.settings import TrainingSettings
from linguarec.training.stages import StageResult

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
QUICK = TrainingSettings(targets_per_step=400, max_epochs=6, accelerator="cpu", precision="fp32")


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    return tiny_shop(make_dataset)


def found_by(result: TuneResult) -> list[tuple[Any, ...]]:
    """What the trials are, without their numbers and times."""
    return [(each["state"], each["value"], each["settings"]) for each in result.trials]


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, said.out, said.err


def test_the_best_settings_beat_the_defaults_and_repeat(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    code, said, _ = command(capsys, "tune", "ease-text", dataset.path, "-o", study, "--trials", 12, "--json")
    assert code == 0
    result = json.loads(said.splitlines()[-1])
    assert len(result["trials"]) == 12 and {each["state"] for each in result["trials"]} == {"done"}
    assert (
        result["trials"][0]["settings"] == {flag: of["default"] for flag, of in result["searched"].items()}
        and result["default"] == result["trials"][0]["value"]
    )
    best = result["best"]
    assert best["value"] == max(each["value"] for each in result["trials"]) > 1.2 * result["default"]
    assert sum(result["importance"].values()) == pytest.approx(1)

    code, said, _ = command(
        capsys, "finetune", "ease-text", dataset.path, "--config", study / "best.yaml", "-o", tmp_path / "run", "--json"
    )
    repeated = json.loads(said.splitlines()[-1])
    assert code == 0 and repeated["valid"]["ndcg@10"] == best["value"]
    assert repeated["valid"] == result["valid"] and repeated["test_excluded"] == result["test"]
    assert result["protocol"] == "excluded"  # as the settings of closed forms are chosen
    code, said, _ = command(capsys, "tune", "ease-text", dataset.path, "-o", study, "--trials", 12)
    shown = " ".join(said.split())
    assert f"valid, history excluded: ndcg@10 {best['value']:.4f}" in shown and "test, history excluded: " in shown
    chosen = yaml.safe_load((study / "best.yaml").read_text())["model"]
    assert {f"model.{name}": value for name, value in chosen.items()} == best["settings"]
    kept, again = (linguarec.load_model(run).recommend(["i3", "i7"], k=5) for run in (study / "best", tmp_path / "run"))
    assert [(each.raw_id, each.score) for each in kept] == [(each.raw_id, each.score) for each in again]

    folders = sorted(study.glob("trial-*"))
    assert len(folders) == 11  # the best one is `best`
    assert all({each.name for each in folder.iterdir()} == set(KEPT) for folder in folders)
    report = (study / "report.html").read_text()
    assert f"{best['value']:.4f}" in report and report.count("data:image/png") == 2
    assert "model.text_weight" in report and "PED-ANOVA" in report


def test_a_study_repeats_by_its_seed_and_goes_on(dataset: PreparedDataset, tmp_path: Path) -> None:
    whole = tune("itemknn", dataset.path, tmp_path / "whole", trials=13, seed=3)
    parts = tune("itemknn", dataset.path, tmp_path / "parts", trials=11, seed=3)
    assert len(parts.trials) == 11
    parts = tune("itemknn", dataset.path, tmp_path / "parts", trials=13, seed=3)
    assert found_by(parts) == found_by(whole)
    assert tune("itemknn", dataset.path, tmp_path / "parts", trials=5, seed=3).best == parts.best  # nothing left to do
    other = tune("itemknn", dataset.path, tmp_path / "other", trials=2, seed=4)
    assert other.trials[0]["settings"] == whole.trials[0]["settings"]
    assert other.trials[1]["settings"] != whole.trials[1]["settings"]


KILLED = """
import os, signal
from linguarec.cli import main
from linguarec.families.closed_form import Solve

solve, count = Solve.run, [0]

def run(self, folder, resume):
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return solve(self, folder, resume)

Solve.run = run
main()
"""


def test_a_killed_study_ends_like_one_that_was_not(dataset: PreparedDataset, tmp_path: Path) -> None:
    words = ["tune", "textknn", str(dataset.path), "-o", str(tmp_path / "killed"), "--trials", "5"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed" / "best").exists()
    killed = tune("textknn", dataset.path, tmp_path / "killed", trials=5)
    whole = tune("textknn", dataset.path, tmp_path / "whole", trials=5)
    assert found_by(killed) == found_by(whole)
    assert [each["number"] for each in killed.trials] == [0, 1, 3, 4, 5]  # the third one died and was drawn again
    assert killed.valid == whole.valid and killed.test == whole.test
    left = {each.name for each in (tmp_path / "killed").iterdir() if not each.name.startswith("trial-")}
    assert left == {each.name for each in (tmp_path / "whole").iterdir() if not each.name.startswith("trial-")}
    assert not (tmp_path / "killed" / "trial-0002").exists()


def test_what_a_process_left_that_was_killed_at_the_end_of_a_trial_is_removed(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    result = tune("textknn", dataset.path, study, trials=2)
    other = study / f"trial-{1 - result.best['number']:04}"
    (other / "model.safetensors").write_bytes(b"weights")
    (study / f".{other.name}.lock").write_text("1")
    (study / f".trial-{result.best['number']:04}.lock").write_text("1")
    assert tune("textknn", dataset.path, study, trials=2).best == result.best
    assert {each.name for each in other.iterdir()} == set(KEPT)
    assert list(study.glob(".*")) == []


TOGETHER = """
import sys, time
from pathlib import Path
from linguarec.cli import main
from linguarec.families.closed_form import Solve

solve, folder = Solve.run, Path(sys.argv.pop(1))

def run(self, place, resume):
    until = time.monotonic() + 120
    while len(list(folder.glob("trial-*"))) < 2:  # both processes train their first trial at the same time
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.02)
    return solve(self, place, resume)

Solve.run = run
main()
"""


def test_two_processes_share_a_study(dataset: PreparedDataset, tmp_path: Path) -> None:
    study = tmp_path / "study"
    words = [str(study), "tune", "ease", str(dataset.path), "-o", str(study), "--trials", "7", "--json"]
    both = [
        subprocess.Popen([sys.executable, "-c", TOGETHER, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    result = tune("ease", dataset.path, study, trials=7)
    assert [each["number"] for each in result.trials] == list(range(7))
    assert {each["state"] for each in result.trials} == {"done"} and result.running == 0
    settings = [json.dumps(each["settings"]) for each in result.trials]
    assert len(set(settings)) == 7  # no trial was trained twice
    attributes = {each.user_attrs["process"] for each in _trials(study)}
    assert attributes == {process.pid for process in both}
    assert result.valid is not None and result.valid["ndcg@10"] == max(each["value"] for each in result.trials)


AT_ONCE = """
import sys, time
from dataclasses import replace
from pathlib import Path
import linguarec.commands.tune as command
from linguarec.cli import main
from linguarec.families.closed_form import Solve
from linguarec.runs.study import finished

solve, strip = Solve.run, command._strip
command._PATIENCE = 10.0

def run(self, place, resume):
    result = solve(self, place, resume)
    return replace(result, valid={**result.valid, "ndcg@10": 0.01})  # neither is the best trial

def both_ended(study):
    until = time.monotonic() + 120
    while sum(map(finished, study.trials)) < 3:
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.02)
    strip(study)

Solve.run, command._strip = run, both_ended
main()
"""


def test_processes_that_end_trials_at_once_do_not_wait_for_each_other(dataset: PreparedDataset, tmp_path: Path) -> None:
    study = tmp_path / "study"
    first = tune("textknn", dataset.path, study, trials=1)
    words = ["tune", "textknn", str(dataset.path), "-o", str(study), "--trials", "3"]
    both = [subprocess.Popen([sys.executable, "-c", AT_ONCE, *words], stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {each.user_attrs["process"] for each in _trials(study)[1:]} == {process.pid for process in both}
    assert tune("textknn", dataset.path, study, trials=3).best == first.best


def _trials(study: Path) -> Any:
    import optuna

    [summary] = optuna.get_all_study_summaries(f"sqlite:///{study / DATABASE}")
    return optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{study / DATABASE}").trials


def test_bad_trials_are_pruned(dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from linguarec.families.next_item import NextItemData

    epochs: list[int] = [0]
    validate = NextItemData.validate

    def graded(self: NextItemData, model: Any) -> dict[str, float]:
        """The first five trials of six epochs are good, all later ones are bad."""
        epochs[0] += 1
        return {**validate(self, model), "ndcg@10": 0.5 if epochs[0] <= 30 else 0.1}

    monkeypatch.setattr(NextItemData, "validate", graded)
    flags: dict[str, Any] = {"transformer": SMALL, "training": QUICK, "only": ["training.learning_rate"]}
    result = tune("sasrec", dataset.path, tmp_path / "pruned", trials=7, **flags)
    assert [each["state"] for each in result.trials] == ["done"] * 5 + ["pruned"] * 2
    assert [each["epochs"] for each in result.trials] == [6] * 5 + [4] * 2  # the first three epochs are never judged
    assert result.best["number"] == 0 and result.trials[5]["value"] is None
    assert {each.name for each in (tmp_path / "pruned" / "trial-0006").iterdir()} == set(KEPT)
    assert "5 trials done and 2 pruned" in (tmp_path / "pruned" / "report.html").read_text()

    epochs[0] = 0
    result = tune("sasrec", dataset.path, tmp_path / "whole", trials=6, pruning="none", **flags)
    assert [each["state"] for each in result.trials] == ["done"] * 6


def test_the_report_is_of_the_best_trial_at_the_time_it_is_written(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits for its turn finds that another one has ended a better trial and written the report of it."""
    solve, strip, calls = Solve.run, command_of_tune._strip, [0]

    def run(self: Solve, folder: Path, resume: bool) -> StageResult:
        result = solve(self, folder, resume)
        return replace(result, valid={**result.valid, "ndcg@10": 0.9 if calls[0] > 1 else 0.1})

    def other_first(study: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:  # at the end
            tune("textknn", dataset.path, tmp_path / "study", trials=2)
        strip(study)

    monkeypatch.setattr(Solve, "run", run)
    monkeypatch.setattr(command_of_tune, "_strip", other_first)
    result = tune("textknn", dataset.path, tmp_path / "study", trials=1)
    assert result.best["number"] == 1 and len(result.trials) == 2
    assert result.valid is not None and result.valid["ndcg@10"] == 0.9
    chosen = yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())["model"]
    assert chosen == {"decay": result.best["settings"]["model.decay"]}


def test_settings_that_exclude_each_other_do_not_end_the_study(dataset: PreparedDataset, tmp_path: Path) -> None:
    """Failed, the trial would be drawn again with the same settings, whenever the study goes on."""
    flags: dict[str, Any] = {"training": replace(QUICK, max_epochs=1), "seed": 1}
    ranges = ["transformer.hidden_size=16|18", "transformer.heads=2|4"]
    flags |= {"only": ["transformer.hidden_size", "transformer.heads"], "ranges": ranges}
    result = tune("sasrec", dataset.path, tmp_path / "study", trials=5, **flags)
    impossible = [each for each in result.trials if list(each["settings"].values()) == [18, 4]]
    assert impossible and {(each["state"], each["value"], each["epochs"]) for each in impossible} == {
        ("pruned", None, None)
    }
    assert all(each["state"] == "done" for each in result.trials if each not in impossible)
    assert result.best not in impossible and result.run is not None


def test_trained_models_repeat_their_best_trial(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags: dict[str, Any] = {"transformer": SMALL, "training": QUICK, "features": "enc"}
    result = tune("unisrec", dataset.path, tmp_path / "study", trials=3, **flags)
    assert set(result.best["settings"]) >= {"training.learning_rate", "model.temperature", "history_in_softmax"}
    words = ["unisrec", dataset.path, "--config", tmp_path / "study" / "best.yaml", "-o", tmp_path / "run", "--json"]
    code, said, _ = command(capsys, "finetune", *words)
    assert code == 0 and json.loads(said.splitlines()[-1])["valid"]["ndcg@10"] == result.best["value"]


def test_processes_without_a_common_folder_share_a_database(dataset: PreparedDataset, tmp_path: Path) -> None:
    try:
        server = Postgres().__enter__()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    try:
        url = server.schema("tuning")
        first = tune("textknn", dataset.path, tmp_path / "first", trials=2, study=url)
        second = tune("textknn", dataset.path, tmp_path / "second", trials=4, study=url)
        assert found_by(second)[:2] == found_by(first) and len(second.trials) == 4
        assert (second.run is None) == (second.best["number"] < 2)
        assert found_by(tune("textknn", dataset.path, tmp_path / "alone", trials=4)) == found_by(second)
        other = tune("ease", dataset.path, tmp_path / "ease", trials=1, study=url)  # another study in the same database
        assert len(other.trials) == 1
        files = [each for each in tmp_path.rglob("*") if each.is_file() and dataset.path not in each.parents]
        assert [each for each in files if PASSWORD.encode() in each.read_bytes()] == []
        with pytest.raises(SettingsError) as caught:
            tune("textknn", dataset.path, tmp_path / "none", study=server.url("absent"))
        assert "cannot be opened" in str(caught.value) and PASSWORD not in str(caught.value)
    finally:
        server.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--trials", "0"], "trials is 0; it must be at least 1"),
        (["--training.devices", "2"], "training.devices is 2; tune trains each trial in one process"),
        (["--ranges", "model.decay=1:0"], "--ranges model.decay=1:0: 1:0 is empty"),
        (["--only", "model.decya"], "Did you mean model.decay?"),
        (["--model.decay", "0.5"], "all settings that have a range are set"),
        (["--study", "mysql://host/name"], "expected postgresql://USER@HOST/DATABASE or sqlite:///FILE"),
        (["--study", "nothing"], "expected postgresql://"),
        (["--pruning", "often"], "--pruning often"),
        (["--split", "none"], "none"),
    ],
)
def test_bad_input_is_refused(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    code, _, said = command(capsys, "tune", "textknn", dataset.path, "-o", tmp_path / "study", *words)
    assert code == 2 and reason in said
    assert not (tmp_path / "study" / "study.json").exists()


def test_a_folder_is_of_one_database(dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the runs of the trials of one: those of another database would be mixed with them."""
    first, second = (f"sqlite:///{tmp_path}/{name}.sqlite" for name in ("first", "second"))
    tune("textknn", dataset.path, tmp_path / "study", trials=1, study=first)
    with pytest.raises(SettingsError, match=r"study in: the study has '../first.sqlite', now '../second.sqlite'"):
        tune("textknn", dataset.path, tmp_path / "study", trials=2, study=second)
    assert not (tmp_path / "second.sqlite").exists()
    monkeypatch.chdir(tmp_path)  # the same file by a shorter name
    assert len(tune("textknn", dataset.path, "study", trials=2, study="sqlite:///first.sqlite").trials) == 2


def test_the_address_of_a_database_tells_no_user(tmp_path: Path) -> None:
    full = database_of(tmp_path, "postgresql://ann:secret@host:5433/shop?sslmode=require")
    assert address_of(full, tmp_path) == "postgresql://host:5433/shop"
    assert address_of(database_of(tmp_path, None), tmp_path) == DATABASE


def test_a_folder_is_of_one_study(dataset: PreparedDataset, tmp_path: Path) -> None:
    tune("textknn", dataset.path, tmp_path / "study", trials=1)
    with pytest.raises(SettingsError) as caught:
        tune("textknn", dataset.path, tmp_path / "study", trials=1, seed=1, ranges=["model.decay=0.2:0.9"])
    assert "seed: the study has 0, now 1" in str(caught.value)
    assert "range of model.decay: the study has '0.1:1.0', now '0.2:0.9'" in str(caught.value)
    other = f"sqlite:///{tmp_path}/shared.sqlite"
    with pytest.raises(SettingsError, match=r"study in: the study has 'study.sqlite', now '../shared.sqlite'"):
        tune("textknn", dataset.path, tmp_path / "study", trials=1, study=other)
    assert not (tmp_path / "shared.sqlite").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"exists already and holds no study\.json"):
        tune("textknn", dataset.path, tmp_path / "notes", trials=1)
    with pytest.raises(SettingsError, match="no place for a report"):
        tune("textknn", dataset.path, dataset.path, trials=1)
    (tmp_path / "study" / DATABASE).write_bytes(os.urandom(4096))
    with pytest.raises(DataFormatError, match=r"study\.sqlite cannot be read as a study"):
        tune("textknn", dataset.path, tmp_path / "study", trials=1)
