"""A checkpoint from elsewhere runs nothing and deletes nothing when a training is resumed from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import checkpoint_that_runs

import linguarec.runs.results
from linguarec.commands.compare import compare
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.data.dataset import PreparedDataset
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.errors import CheckpointMismatchError
from linguarec.families.unisrec.model import UniSRecConfig
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, max_length=20)
NO_DRAWS = UniSRecConfig(sequence_contrast=0.0)  # reads no word-drop draws
TRAINING = TrainingSettings(targets_per_step=600, max_epochs=1, accelerator="cpu", averaging=2.0, warmup_steps=2)


@pytest.fixture
def folders(make_dataset: Any) -> list[PreparedDataset]:
    made = []
    for domain in generate_world(seed=0, domains=2, size=TINY):
        texts = [item.text for item in domain.items]
        sequences = [domain.sequences[user].tolist() for user in range(len(domain.sequences))]
        made.append(make_dataset(sequences, texts, features={"words": word_vectors(texts, 16)}, name=domain.name))
    return made


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """`interrupted(run)`: as if the training of a finished run had been killed at its end; its last checkpoint."""
    monkeypatch.setattr(linguarec.runs.results.shutil, "rmtree", lambda *paths, **options: None)

    def interrupt(run: Path) -> Path:
        (run / "metrics.json").unlink()
        return run / "checkpoints" / "last.ckpt"

    return interrupt


def commands(folders: list[PreparedDataset]) -> dict[str, Callable[..., Any]]:
    data = [folder.path for folder in folders]
    settings = {"transformer": SMALL, "training": TRAINING}
    return {
        "finetune": lambda run, **more: finetune("unisrec", data[0], run, **settings, **more),
        "pretrain": lambda run, **more: pretrain("unisrec", data, run, NO_DRAWS, **settings, **more),
    }


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_a_checkpoint_that_names_code_is_refused_and_nothing_runs(
    command: str, folders: list[PreparedDataset], tmp_path: Path, interrupted: Callable[[Path], Path]
) -> None:
    train, run, marker = commands(folders)[command], tmp_path / "run", tmp_path / "ran"
    train(run)
    file = interrupted(run)
    checkpoint_that_runs(file, marker, torch.load(file, weights_only=True))
    with pytest.raises(CheckpointMismatchError, match=rf"{file} is refused: .*io\.open.*Delete it to train from"):
        train(run, resume=True)
    assert not marker.exists()


def test_compare_goes_on_from_no_checkpoint_that_names_code(
    folders: list[PreparedDataset], tmp_path: Path, interrupted: Callable[[Path], Path]
) -> None:
    marker, data = tmp_path / "ran", folders[0].path
    compare(data, ["sasrec"], tmp_path / "all", seeds=1, baselines=False, transformer=SMALL, training=TRAINING)
    [written] = (tmp_path / "all").glob("**/metrics.json")
    file = interrupted(written.parent)
    checkpoint_that_runs(file, marker, torch.load(file, weights_only=True))
    with pytest.raises(CheckpointMismatchError, match="refused"):
        compare(data, ["sasrec"], tmp_path / "all", seeds=1, baselines=False, transformer=SMALL, training=TRAINING)
    assert not marker.exists()


def test_a_checkpoint_holds_plain_values_and_no_path_of_this_machine(
    folders: list[PreparedDataset], tmp_path: Path, interrupted: Callable[[Path], Path]
) -> None:
    finetune("unisrec", folders[0].path, tmp_path / "run", transformer=SMALL, training=TRAINING)
    file = interrupted(tmp_path / "run")
    assert torch.serialization.get_unsafe_globals_in_checkpoint(file) == []
    assert str(tmp_path).encode() not in file.read_bytes()


def test_paths_in_a_checkpoint_delete_nothing(
    folders: list[PreparedDataset], tmp_path: Path, interrupted: Callable[[Path], Path]
) -> None:
    """Lightning removes the file at `best_model_path` after it wrote a better one."""
    run, victim = tmp_path / "run", tmp_path / "victim"
    finetune("sasrec", folders[0].path, run, transformer=SMALL, training=TRAINING)
    victim.write_text("precious")
    file = interrupted(run)
    whole = torch.load(file, weights_only=True)
    state = {"dirpath": str(file.parent), "best_model_path": f"{file.parent}/../../victim", "best_k_models": {}}
    conditions = "'monitor': None, 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1"
    for name in ("ModelCheckpoint", "EpochCheckpoint"):
        whole["callbacks"][f"{name}{{{conditions}, 'train_time_interval': None}}"] = dict(
            state,
            best_model_score=None,
            kth_best_model_path="",
            kth_value=0.0,
            last_model_path=state["best_model_path"],
        )
    # One more epoch follows, and writes the next checkpoint.
    loops = whole["loops"]["fit_loop"]["epoch_progress"]
    loops["total"] = loops["current"] = dict.fromkeys(("ready", "completed", "started", "processed"), 0)
    whole["stage"]["loader"] = {"epoch": 0, "next_step": 0}
    torch.save(whole, file)
    finetune("sasrec", folders[0].path, run, transformer=SMALL, training=TRAINING, resume=True)
    assert victim.read_text() == "precious"


def test_a_checkpoint_of_other_weights_is_named(
    folders: list[PreparedDataset], tmp_path: Path, interrupted: Callable[[Path], Path]
) -> None:
    run = tmp_path / "run"
    finetune("sasrec", folders[0].path, run, transformer=SMALL, training=TRAINING)
    file = interrupted(run)
    whole = torch.load(file, weights_only=True)
    name = next(iter(whole["state_dict"]))
    whole["state_dict"][name] = "no tensor"
    torch.save(whole, file)
    with pytest.raises(CheckpointMismatchError, match=rf"{file} does not fit the model: '{name}' "):
        finetune("sasrec", folders[0].path, run, transformer=SMALL, training=TRAINING, resume=True)
