"""Progress bars: one within another, and messages beside them."""

import io
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from linguarec.progress import progress_bar
from linguarec.training import callbacks
from linguarec.training.callbacks import StepProgress


def as_terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error as a terminal, with the log written to it as the command line does."""
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(screen)])
    return screen


def test_a_bar_within_a_bar_is_a_row_of_it_and_messages_have_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = as_terminal(monkeypatch)
    [handler] = [each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler]
    with progress_bar("trials", 3, "trials") as advance:
        for trial in range(3):
            with progress_bar(f"epoch of {trial}", 5, "steps") as step:
                step(5)
                logging.getLogger("linguarec.test").warning("trial %d is done", trial)
            advance()
    assert handler.stream is terminal  # again
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).replace("\r", "\n").split("\n")
    for trial in range(3):
        assert f"trial {trial} is done" in [line.strip() for line in lines]
        assert any(line.startswith(f"epoch of {trial}") and "/5 " in line for line in lines)
    last = [line for line in lines if line.startswith("trials")][-1]
    assert "3/3" in last
    assert not any("trials" in line and "is done" in line for line in lines)


def test_nothing_is_drawn_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with progress_bar("outer", 2, "items") as advance, progress_bar("inner", 2, "items") as inner:
        inner()
        advance()
    assert screen.getvalue() == ""


def trainer_of(batches: int, accumulate: int) -> Any:
    return SimpleNamespace(
        current_epoch=0, num_training_batches=batches, accumulate_grad_batches=accumulate, is_global_zero=True
    )


def test_the_bar_of_an_epoch_counts_optimiser_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """47 batches, 8 of which make a step, are 6 steps, the last one of 7; the epoch is resumed after the second step."""
    counted: list[Any] = []

    @contextmanager
    def bar_of(description: str, total: int, unit: str) -> Iterator[Any]:
        counted.append((description, total, unit))
        yield lambda amount=1: counted.append(amount)

    monkeypatch.setattr(callbacks, "progress_bar", bar_of)
    trainer, module = trainer_of(batches=47, accumulate=8), cast(Any, None)
    bar = StepProgress()
    for batch in range(16, 47):
        trainer.is_last_batch = batch == 46
        bar.on_train_batch_start(trainer, module, batch=None, batch_idx=batch)
        bar.on_train_batch_end(trainer, module, outputs=None, batch=None, batch_idx=batch)
    assert counted == [("epoch 0", 6, "steps"), 2, 1, 1, 1, 1]


def test_the_rate_of_an_epoch_counts_the_time_of_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_terminal(monkeypatch)
    trainer = trainer_of(batches=1, accumulate=1)
    trainer.is_last_batch = True
    module: Any = None
    bar = StepProgress()
    bar.on_train_batch_start(trainer, module, batch=None, batch_idx=0)
    time.sleep(0.05)
    bar.on_train_batch_end(trainer, module, outputs=None, batch=None, batch_idx=0)
    bar.on_train_epoch_end(trainer, module)
    rates = re.findall(r"1/1.* ([\d,.]+) steps/s", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()))
    assert rates
    assert 0 < float(rates[-1].replace(",", "")) <= 20  # a step took 0.05 s or more
