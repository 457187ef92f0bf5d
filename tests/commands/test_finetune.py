"""The fine-tuning recipe: a full run folder, exact resuming after SIGKILL, several processes, bad settings."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import tiny_shop
from results import stored_result
from safetensors.torch import load_file

import linguarec
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import OutputError, SettingsError
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.families.unisrec.model import UniSRecConfig
from linguarec.nn.encoders import GRUConfig, PoolingConfig, TransformerConfig
from linguarec.training.callbacks import EpochRecord
from linguarec.training.fit import FitResult
from linguarec.training.module import FineTuning
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {"learning_rate": 5e-3, "targets_per_step": 200, "max_epochs": 4, "accelerator": "cpu"}
    return TrainingSettings(**{**quick, **changes})


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    """The tiny world as a prepared folder with vectors and codes."""
    made = tiny_shop(make_dataset, "words")
    vectors = made.features("words")
    centroids = vectors[:32].reshape(32, 4, 4).transpose(1, 0, 2).copy()
    book = CodeBook("pq", centroids, None, None, "words", "0" * 64)
    ItemCodes(book.encode(vectors), book, made.texts_fingerprint).save(made.codes_path("pq"))
    return made


@pytest.mark.parametrize(
    "model", ["sasrec", "bert4rec", "sasrec-text", "zesrec", "unisrec", "unisrec-transductive", "vqrec"]
)
def test_leaves_a_run_folder_that_can_be_used(model: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = finetune(model, dataset.path, run, transformer=SMALL, training=settings())
    written = stored_result(run / "metrics.json")
    assert written == result
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(4))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    best = max(rows, key=lambda row: float(row["valid ndcg@10"]))
    assert result["best_epoch"] == int(best["epoch"])
    assert result["valid"]["ndcg@10"] == pytest.approx(float(best["valid ndcg@10"]))
    saved = json.loads((run / "settings.json").read_text())
    assert saved["data_fingerprint"] == dataset.fingerprint
    assert saved["training"]["learning_rate"] == 5e-3
    assert (run / "plots" / "learning_curve.png").stat().st_size > 1000
    assert not (run / "checkpoints").exists()
    recommender = linguarec.load_model(run)
    picked = recommender.recommend([dataset.raw_item_ids[:3]], k=5)
    assert len(picked[0]) == 5
    assert not {one.raw_id for one in picked[0]} & set(dataset.raw_item_ids[:3])


def test_the_file_of_a_run_repeats_it(dataset: PreparedDataset, tmp_path: Path) -> None:
    """Every setting stands in `run.yaml`, those of the model too."""
    first, again = tmp_path / "first", tmp_path / "again"
    config = UniSRecConfig(temperature=0.1, experts=2)
    finetune(
        "unisrec", dataset.path, first, config,
        transformer=SMALL, training=settings(averaging=2), mode="transductive", seed=3,
    )  # fmt: skip
    command = [str(Path(sys.executable).parent / "linguarec"), "finetune", "unisrec", str(dataset.path)]
    done = subprocess.run(
        [*command, "-o", str(again), "--config", str(first / "run.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((first / "settings.json").read_text()) == json.loads((again / "settings.json").read_text())
    expected, found = (load_file(run / "model.safetensors") for run in (first, again))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_cannot_be_trained_leaves_no_folder(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="takes 10 targets"):
        finetune("sasrec", dataset.path, tmp_path / "run", transformer=SMALL, training=settings(targets_per_step=10))
    assert not (tmp_path / "run").exists()


def test_a_training_within_its_warm_up_is_told(
    dataset: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for steps in (0, 1, 5_000):
        finetune(
            "sasrec", dataset.path, tmp_path / str(steps), transformer=SMALL, training=settings(warmup_steps=steps)
        )
        told = [each.getMessage() for each in caplog.records if "the learning rate rises" in each.getMessage()]
        assert len(told) == (steps == 5_000)
    assert "over the first 5000 steps" in told[0] and "--training.warmup_steps" in told[0]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(dataset: PreparedDataset, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetune("sasrec", dataset.path, tmp_path / name, transformer=SMALL, training=settings(max_epochs=2), seed=seed)
        weights.append(load_file(tmp_path / name / "model.safetensors")["item.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("model", ["sasrec", "sasrec-text", "unisrec", "unisrec-transductive", "vqrec"])
def test_the_history_may_be_left_out_of_the_softmax(model: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    """Kept is the default and changes nothing; excluded trains other weights, with a smaller loss."""
    quick = settings(max_epochs=1)
    for name, options in {
        "default": {},
        "kept": {"history_in_softmax": "kept"},
        "excluded": {"history_in_softmax": "excluded"},
    }.items():
        finetune(model, dataset.path, tmp_path / name, transformer=SMALL, training=quick, **options)
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in ("default", "kept", "excluded")}
    assert all(torch.equal(weights["default"][name], weights["kept"][name]) for name in weights["kept"])
    assert any(not torch.equal(weights["default"][name], weights["excluded"][name]) for name in weights["kept"])
    chosen = [json.loads((tmp_path / name / "settings.json").read_text())["history_in_softmax"] for name in weights]
    assert chosen == ["kept", "kept", "excluded"]
    losses = [next(csv.DictReader((tmp_path / name / "metrics.csv").open()))["loss"] for name in weights]
    assert float(losses[2]) < float(losses[0])


def test_ties_may_be_shuffled_in_training(dataset: PreparedDataset, tmp_path: Path) -> None:
    """Fixed is the default; where no items tie, shuffled is the same, and a user's items at one time train other weights."""
    times = dataset.path / "sequences" / "timestamps.npy"
    total = int(dataset.sequences.offsets[-1])
    weights = []
    for name, moments, options in (
        ("fixed", None, {}),
        ("no-ties", np.arange(total), {"ties": "shuffled"}),
        ("ties", np.zeros(total, np.int64), {"ties": "shuffled"}),
    ):
        if moments is not None:
            np.save(times, moments)
        finetune("sasrec", dataset.path, tmp_path / name, transformer=SMALL, training=settings(max_epochs=1), **options)
        assert json.loads((tmp_path / name / "settings.json").read_text())["ties"] == options.get("ties", "fixed")
        weights.append(load_file(tmp_path / name / "model.safetensors")["item.weight"])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(SettingsError, match="--ties is 'random'; for sasrec it is one of fixed, shuffled"):
        finetune("sasrec", dataset.path, tmp_path / "no", ties="random")


def test_a_gru_reads_the_histories(dataset: PreparedDataset, tmp_path: Path) -> None:
    gru = GRUConfig(hidden_size=16, inner_size=16, max_length=20)
    run = tmp_path / "run"
    finetune("vqrec", dataset.path, run, gru=gru, sequence_encoder="gru", training=settings())
    assert json.loads((run / "config.json").read_text())["encoder"]["kind"] == "gru"
    assert "encoder.recurrence.weight_ih_l0" in load_file(run / "model.safetensors")


def test_pooling_reads_the_histories(dataset: PreparedDataset, tmp_path: Path) -> None:
    """It is recorded, used again by `recommend`, and blind to the order of a history."""
    pooling = PoolingConfig(hidden_size=16, inner_size=16)
    run = tmp_path / "run"
    training = settings(max_epochs=1, targets_per_step=2000)  # twice the longest history that it reads
    finetune("unisrec", dataset.path, run, pooling=pooling, sequence_encoder="pooling", training=training)
    stored = json.loads((run / "config.json").read_text())["encoder"]
    assert (stored["kind"], stored["max_length"]) == ("pooling", 1000)
    recommender = linguarec.load_model(run)
    history = dataset.raw_item_ids[:4]
    first, second = recommender.recommend([history, history[::-1]], k=5)
    assert [one.raw_id for one in first] == [one.raw_id for one in second]
    with pytest.raises(SettingsError) as caught:
        others: dict[str, Any] = {"gru": GRUConfig(layers=2), "pooling": pooling}
        finetune("unisrec", dataset.path, tmp_path / "other", training=settings(), **others)
    assert caught.value.problems == [
        f"--{name}.*: the sequence encoder is another; ask for --sequence-encoder {name}" for name in ("gru", "pooling")
    ]


@pytest.mark.parametrize("step", [3, 8, 12])
def test_killed_at_any_step_it_goes_on_to_the_same_weights(
    step: int,
    dataset: PreparedDataset,
    tmp_path: Path,
    until_killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Epochs have 6 steps: step 3 is in the first one, 8 in the second, 12 begins the third. Step 8 is without positions."""
    training = settings(checkpoint_every_n_steps=1 if step != 12 else 0, averaging=0 if step == 3 else 9)
    encoder = replace(SMALL, positions="none" if step == 8 else "learned")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finetune("unisrec", dataset.path, unbroken, transformer=encoder, training=training)
    words = ("finetune", "unisrec", dataset.path, "-o", broken)
    until_killed(*words, where=f"batch.step == {step}", transformer=encoder, training=training)
    assert not (broken / "metrics.json").exists()
    caplog.set_level("INFO")
    finetune("unisrec", dataset.path, broken, transformer=encoder, training=training, resume=True)
    # `batch.step` counts from 0: at 3, three steps are done.
    place = {3: "in epoch 0, after step 3 of 6", 8: "in epoch 1, after step 2 of 6", 12: "after epoch 1"}[step]
    assert [line for line in caplog.messages if "goes on" in line] == [f"goes on {place}"]
    expected, found = (load_file(run / "model.safetensors") for run in (unbroken, broken))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    curves = [
        [(row["epoch"], row["step"], row["loss"], row["valid ndcg@10"]) for row in csv.DictReader(file.open())]
        for file in (unbroken / "metrics.csv", broken / "metrics.csv")
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("part", [7, 8, 10])
def test_killed_within_an_accumulated_step_it_goes_on_before_that_step(
    part: int,
    dataset: PreparedDataset,
    tmp_path: Path,
    until_killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Epochs have 6 parts, two of them a step: 7 and 8 are second and first part of a step, 10 a later first one."""
    training = settings(checkpoint_every_n_steps=1, targets_per_step=400, accumulate=2, max_epochs=2)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finetune("sasrec", dataset.path, unbroken, transformer=SMALL, training=training)
    words = ("finetune", "sasrec", dataset.path, "-o", broken)
    until_killed(*words, where=f"batch.step == {part}", transformer=SMALL, training=training)
    caplog.set_level("INFO")
    finetune("sasrec", dataset.path, broken, transformer=SMALL, training=training, resume=True)
    place = {7: "after epoch 0", 8: "in epoch 1, after step 1 of 3", 10: "in epoch 1, after step 2 of 3"}[part]
    assert [line for line in caplog.messages if "goes on" in line] == [f"goes on {place}"]
    weights = [load_file(run / "model.safetensors") for run in (unbroken, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_resumed_without_a_checkpoint_it_says_that_it_begins_anew(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run, training = tmp_path / "run", settings(max_epochs=1)

    def die(self: EpochRecord, trainer: Any, module: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(EpochRecord, "on_train_epoch_end", die)
        finetune("sasrec", dataset.path, run, transformer=SMALL, training=training, resume=True)
    assert not [line for line in caplog.messages if "begins anew" in line]  # there was no such run
    finetune("sasrec", dataset.path, run, transformer=SMALL, training=training, resume=True)
    anew = f"there is no checkpoint in {run} yet: the training begins anew"
    assert [line for line in caplog.messages if "begins anew" in line] == [anew]


def test_killed_while_an_epoch_is_validated_it_validates_that_epoch(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is due at the last step of every epoch; it must not stand for the end of one."""
    training = settings(checkpoint_every_n_steps=1)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    expected = finetune("sasrec", dataset.path, unbroken, transformer=SMALL, training=training)
    whole = EpochRecord.on_train_epoch_end

    def die(self: EpochRecord, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("killed")
        whole(self, trainer, module)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(EpochRecord, "on_train_epoch_end", die)
        finetune("sasrec", dataset.path, broken, transformer=SMALL, training=training)
    found = finetune("sasrec", dataset.path, broken, transformer=SMALL, training=training, resume=True)
    assert found["epochs"] == expected["epochs"] == 4
    curves = [
        [(row["epoch"], row["step"], row["loss"], row["valid ndcg@10"]) for row in csv.DictReader(file.open())]
        for file in (unbroken / "metrics.csv", broken / "metrics.csv")
    ]
    assert curves[0] == curves[1]
    weights = [load_file(run / "model.safetensors") for run in (unbroken, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_seconds_are_those_of_all_sessions(dataset: PreparedDataset, tmp_path: Path) -> None:
    record = EpochRecord(lambda model: {}, tmp_path / "metrics.csv")
    record.load_state_dict({"rows": [], "elapsed": 1000.0})
    record.on_train_start(None, None)  # type: ignore[arg-type]
    assert 1000 <= record.state_dict()["elapsed"] < 1100
    rows = [{"seconds": 2.0, "valid_seconds": 1.0}, {"seconds": 4.0, "valid_seconds": 0.5}]
    assert FitResult(0.1, 0, 2, rows, True).seconds == 7.5


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_gradients_are_clipped_in_either_precision(precision: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    """Adam does not feel the size of gradients, but it feels that some steps are scaled and others are not."""
    training = settings(max_epochs=1, precision=precision)
    found = {}
    for clip in (0.0, 0.01, 1e6):
        run = tmp_path / f"{clip}"
        finetune("sasrec", dataset.path, run, transformer=SMALL, training=replace(training, gradient_clip=clip))
        found[clip] = load_file(run / "model.safetensors")["item.weight"]
    torch.testing.assert_close(found[1e6], found[0.0], atol=1e-5, rtol=1e-4)  # nothing is that large
    assert not torch.allclose(found[0.01], found[0.0], atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "--seed is -1; it must be at least 0"),
        (
            {"gru": GRUConfig(hidden_size=8)},
            r"--gru\.\*: the sequence encoder is another; ask for --sequence-encoder gru",
        ),
        (
            {"training": settings(strategy="fsdp")},
            r"training\.strategy is fsdp, .* it needs training\.devices 2 or more",
        ),
        (
            {"training": settings(strategy="fsdp", devices=2, averaging=9.0)},
            r"training\.strategy is fsdp, which keeps no mean of the weights",
        ),
        ({"training": settings(strategy="fsdp", devices=2)}, r"training\.strategy fsdp is for pretrain; .* take ddp"),
        ({"training": settings(accelerator="gpu", devices=99)}, r"training\.devices 99, and torch finds \d GPUs here"),
    ],
)
def test_what_cannot_work_is_told_before_the_folder_is_made(
    given: dict[str, Any], message: str, dataset: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        finetune("unisrec", dataset.path, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_not_replaced_by_one(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"has no settings\.json that linguarec wrote, .*--overwrite does not replace it"
    ):
        finetune("sasrec", dataset.path, dataset.path, transformer=SMALL, training=settings(), overwrite=True)
    assert PreparedDataset.open(dataset.path).num_users == dataset.num_users


def test_a_resumed_run_names_the_setting_that_differs(dataset: PreparedDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=1))
    other = replace(SMALL, dropout=0.1)
    with pytest.raises(SettingsError) as error:
        finetune("sasrec", dataset.path, run, transformer=other, training=settings(max_epochs=2), resume=True)
    assert error.value.problems[1:] == [
        "transformer.dropout: the run has 0.2, now 0.1",
        "training.max_epochs: the run has 1, now 2",
    ]


def test_killed_after_its_last_epoch_it_trains_no_further_one(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience had run out, and the test was not written yet."""
    run, training = tmp_path / "run", settings(max_epochs=30, patience=1, learning_rate=0.3)

    def die(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("linguarec.commands.finetune.complete_run", die)
        finetune("sasrec", dataset.path, run, transformer=SMALL, training=training)
    before, weights = (run / "metrics.csv").read_text(), load_file(run / "model.safetensors")
    epochs = len(before.splitlines()) - 1
    assert epochs < 30
    resumed = finetune("sasrec", dataset.path, run, transformer=SMALL, training=training, resume=True)
    assert resumed["epochs"] == epochs
    assert (run / "metrics.csv").read_text() == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_file(run / "model.safetensors").items())


@pytest.mark.parametrize("history", ["kept", "excluded"])
def test_two_processes_take_the_steps_of_one(
    history: str, dataset: PreparedDataset, tmp_path: Path, in_two_processes: Callable[..., dict[str, Any]]
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    groups = {
        "transformer": replace(SMALL, dropout=0.0),
        "training": settings(max_epochs=2, precision="fp32", averaging=3),
    }
    finetune("sasrec", dataset.path, alone, **groups, history_in_softmax=history)
    words = ("finetune", "sasrec", dataset.path, "-o", together, "--history-in-softmax", history)
    assert in_two_processes(*words, **groups)["epochs"] == 2
    expected, found = (load_file(run / "model.safetensors") for run in (alone, together))
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], atol=2e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_tensorboard_gets_the_valid_metrics_of_each_epoch(dataset: PreparedDataset, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=2, loggers=["tensorboard"]))
    events = EventAccumulator(str(run / "logs" / "tensorboard"))
    events.Reload()
    with (run / "metrics.csv").open() as file:
        written = [float(row["valid ndcg@10"]) for row in csv.DictReader(file)]
    assert [event.value for event in events.Scalars("valid/ndcg@10")] == pytest.approx(written)


def test_averaging_keeps_the_weighted_mean_of_all_steps(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step t = 1, 2, ... of a mean of power 2 counts as t (t + 1): the polynomial in its exact, rising form."""
    seen: list[torch.Tensor] = []
    stepped = FineTuning.optimizer_step

    def step_and_look(self: FineTuning, *arguments: Any) -> None:
        stepped(self, *arguments)
        seen.append(self.model.item.weight.detach().clone())

    monkeypatch.setattr(FineTuning, "optimizer_step", step_and_look)
    run = tmp_path / "run"
    finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(averaging=2, max_epochs=1))
    counts = torch.tensor([(t + 1) * (t + 2) for t in range(len(seen))], dtype=torch.float32)
    expected = (torch.stack(seen) * (counts / counts.sum())[:, None, None]).sum(0)
    assert len(seen) == 6
    torch.testing.assert_close(load_file(run / "model.safetensors")["item.weight"], expected, atol=1e-6, rtol=1e-5)


def test_the_run_holds_the_best_weights_not_the_last(dataset: PreparedDataset, tmp_path: Path) -> None:
    """A learning rate that destroys the model after a while: what is kept is what was best."""
    from prepared import catalogue_batch

    from linguarec.data.splits import evaluation_cases

    run = tmp_path / "run"
    result = finetune(
        "sasrec",
        dataset.path,
        run,
        transformer=SMALL,
        training=settings(learning_rate=0.6, max_epochs=12, patience=12, precision="fp32"),
    )
    assert result["best_epoch"] < result["epochs"] - 1
    cases = evaluation_cases(dataset.sequences, dataset.roles(), "valid", 20)
    model: Any = linguarec.load_model(run).model
    reached = evaluate_model(model, catalogue_batch(dataset, None, None), cases).mean("ndcg@10")
    assert reached == pytest.approx(result["valid"]["ndcg@10"], abs=1e-9)


def test_the_valid_metrics_are_of_the_protocol_that_stops_the_training(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    from prepared import catalogue_batch

    from linguarec.data.splits import evaluation_cases

    cases = evaluation_cases(dataset.sequences, dataset.roles(), "valid", 20)
    reached = {}
    for protocol in ("kept", "excluded"):
        run, training = tmp_path / protocol, settings(max_epochs=2, precision="fp32", stop_by=protocol)
        result = finetune("sasrec", dataset.path, run, transformer=SMALL, training=training)
        model: Any = linguarec.load_model(run).model
        items, without = catalogue_batch(dataset, None, None), protocol == "excluded"
        expected = evaluate_model(model, items, cases, exclude_history=without).mean("ndcg@10")
        reached[protocol] = result["valid"]["ndcg@10"]
        assert reached[protocol] == pytest.approx(expected, abs=1e-9)
        epochs = list(csv.DictReader((run / "metrics.csv").open()))
        assert max(float(epoch["valid ndcg@10"]) for epoch in epochs) == reached[protocol]
    assert reached["excluded"] > reached["kept"]
    with pytest.raises(SettingsError, match=r"training\.stop_by is 'learned'; it must be kept or excluded"):
        finetune("sasrec", dataset.path, tmp_path / "no", training=settings(stop_by="learned"))


def test_finished_runs_are_not_trained_again(dataset: PreparedDataset, tmp_path: Path) -> None:
    training = settings(max_epochs=1)
    first = finetune("sasrec", dataset.path, tmp_path / "run", transformer=SMALL, training=training)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    again = finetune("sasrec", dataset.path, tmp_path / "run", transformer=SMALL, training=training, resume=True)
    assert again == first
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_settings_that_cannot_work_are_refused(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SettingsError, match=r"learning_rate is -1.*\n.*patience is 0"):
        finetune("sasrec", dataset.path, run, training=settings(learning_rate=-1, patience=0))
    with monkeypatch.context() as torchrun:
        torchrun.setenv("LOCAL_WORLD_SIZE", "4")
        with pytest.raises(
            SettingsError, match=r"training.devices is 1, and torchrun started 4 processes on this machine"
        ):
            finetune("sasrec", dataset.path, run, training=settings())
    with pytest.raises(SettingsError, match=r"--features bert.*it has: words"):
        finetune("unisrec", dataset.path, run, features="bert")
    with pytest.raises(SettingsError, match="--mode: this is not for sasrec; leave it out"):
        finetune("sasrec", dataset.path, run, mode="transductive")
    with pytest.raises(SettingsError, match=r"unknown model 'gru4rec'; .*There are: sasrec"):
        finetune("gru4rec", dataset.path, run)
    assert not run.exists()


def test_a_run_folder_is_not_overwritten_unasked(dataset: PreparedDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=1))
    with pytest.raises(OutputError, match=r"exists already; go on with it by --resume"):
        finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=1))
    with pytest.raises(SettingsError, match=r"cannot be resumed with other settings(.|\n)*seed: the run has 0, now 1"):
        finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=1), seed=1, resume=True)
    finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=1), seed=1, overwrite=True)
    assert json.loads((run / "settings.json").read_text())["seed"] == 1


def test_a_run_from_before_a_setting_existed_can_be_resumed(dataset: PreparedDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=1))
    stored = json.loads((run / "settings.json").read_text())
    del stored["training"]["valid_users"], stored["encoder"]["positions"]
    (run / "settings.json").write_text(json.dumps(stored))
    again = finetune("sasrec", dataset.path, run, transformer=SMALL, training=settings(max_epochs=1), resume=True)
    assert again == result
    with pytest.raises(SettingsError, match="valid_users"):
        asked = settings(max_epochs=1, valid_users=5)
        finetune("sasrec", dataset.path, run, transformer=SMALL, training=asked, resume=True)
    others = replace(SMALL, positions="none")
    with pytest.raises(SettingsError, match=r"transformer\.positions: the run has 'learned', now 'none'"):
        finetune("sasrec", dataset.path, run, transformer=others, training=settings(max_epochs=1), resume=True)


def test_a_folder_without_users_to_learn_from_is_refused(make_dataset: Any, tmp_path: Path) -> None:
    short = make_dataset([[0, 1, 2], [2, 1, 0]], name="short")
    with pytest.raises(linguarec.errors.DataFormatError, match="leaves no user with two training items"):
        finetune("sasrec", short.path, tmp_path / "run", transformer=SMALL, training=settings())


def test_a_model_below_popularity_says_so(make_dataset: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everybody ends with the same item, whatever came before: a model that learned nothing is worse than counting."""
    rng = np.random.default_rng(0)
    logs = [[*rng.integers(1, 30, 3).tolist(), 0, int(rng.integers(1, 30)), 0, 0] for _ in range(60)]
    data = make_dataset(logs, name="habit", num_items=30)
    still = TrainingSettings(
        max_epochs=1, learning_rate=1e-9, targets_per_step=200, accelerator="cpu", precision="fp32"
    )
    result = finetune("sasrec", data.path, tmp_path / "still", transformer=SMALL, training=still)
    last = caplog.messages[-1]
    assert last.startswith(
        "ranking by popularity alone does better on valid (all cases, in float32): ndcg@10 "
    ) and str(result).endswith(last)
    for better in ("finetune ease`", "finetune ease-text`", "finetune itemknn`", "blend`"):
        assert f"`linguarec {better}" in last
    assert result.below_popularity is not None
    for of_protocol in result.below_popularity["valid_ndcg@10"].values():
        assert of_protocol["popularity"] > of_protocol["model"]
    stored = json.loads((tmp_path / "still" / "metrics.json").read_text())
    assert stored["below_popularity"] == result.below_popularity
    caplog.clear()
    round_trips = make_dataset([[(user + step) % 30 for step in range(8)] for user in range(60)], name="rounds")
    assert finetune("itemknn", round_trips.path, tmp_path / "counted").below_popularity is None
    assert "popularity alone" not in caplog.text
