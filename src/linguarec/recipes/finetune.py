"""Fine-tune: train one model on one prepared folder into a self-contained run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import DataFormatError, OutputError, SettingsError

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.nn.encoders import EncoderConfig, GRUConfig, TransformerConfig
    from linguarec.training.settings import TrainingSettings

SETTINGS_FILE, METRICS_FILE = "settings.json", "metrics.json"


def finetune(
    model: str,
    data: Path,
    output: Path,
    config: Any = None,
    transformer: "TransformerConfig | None" = None,
    gru: "GRUConfig | None" = None,
    training: "TrainingSettings | None" = None,
    mode: Literal["inductive", "transductive"] = "inductive",
    sequence_encoder: Literal["transformer", "gru"] = "transformer",
    features: str | None = None,
    codes: str | None = None,
    split: str = "leave-one-out",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a model on a prepared folder, keep the weights that are best on the valid part, and test them.

    The run folder holds everything that using the model needs: weights, catalogue, keys, code book, settings, metrics by
    epoch, plots. A run that was killed goes on with --resume and ends with the same weights as an unbroken one.

    Args:
        model: name of the model
        data: prepared dataset folder
        output: run folder to write
        config: settings of the model
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        training: settings of the training
        mode: UniSRec only; inductive knows items by text alone, transductive by text and ID
        sequence_encoder: what reads the histories
        features: name of the item text vectors, for models that read them; not needed if the folder has one kind
        codes: name of the item codes, for models that read them; not needed if the folder has one kind
        split: which interactions train, validate and test (leave-one-out, temporal or held-out-items)
        seed: of initial weights, shuffling and dropout
        resume: go on with a run that was interrupted
        overwrite: replace the run folder if it exists
    """
    import os
    import time

    import numpy as np
    import torch

    from linguarec.batching.catalogue import catalogue_batch
    from linguarec.batching.loader import TrainingLoader
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import evaluation_cases, training_sequences
    from linguarec.evaluation.evaluate import evaluate_model
    from linguarec.hub.pretrained import WEIGHTS_FILE, ModelDescription, load_weights, save_pretrained
    from linguarec.models import MODELS
    from linguarec.models.shape import CatalogueShape
    from linguarec.nn.encoders import GRUConfig, TransformerConfig
    from linguarec.training.fit import fit
    from linguarec.training.settings import TrainingSettings

    name = _model_name(model, mode)
    training = training or TrainingSettings()
    training.check()
    encoder: EncoderConfig = (gru or GRUConfig()) if sequence_encoder == "gru" else (transformer or TransformerConfig())
    dataset = PreparedDataset.open(data)
    reads = MODELS[name].reads
    features = _choose("vectors", features, dataset.feature_names, dataset, "encode") if "features" in reads else None
    codes = _choose("codes", codes, dataset.code_names, dataset, "quantize") if "codes" in reads else None
    roles = dataset.roles(split)
    items = catalogue_batch(dataset, features, codes)
    description = ModelDescription(
        name,
        config or MODELS[name].config(),
        encoder,
        CatalogueShape(
            dataset.num_items,
            None if items.features is None else items.features.shape[1],
            None if items.codes is None else items.codes.shape[1],
            None if codes is None else _centroids(dataset, codes),
        ),
    )
    settings = {
        **description.to_dict(),
        "data": str(data),
        "data_name": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "split": split,
        "features": features,
        "codes": codes,
        "seed": seed,
        "training": _as_dict(training),
        "versions": _versions(),
    }
    # The processes that Lightning starts beside the first one run this recipe too, and find the folder made.
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        done = _open_run(output, settings, resume, overwrite)
        if done is not None:
            return done

    sequences = training_sequences(dataset.sequences, roles)
    if not (sequences.lengths >= 2).any():
        raise DataFormatError(
            f"{data}: split {split!r} leaves no user with two training items; there is nothing to learn from."
        )
    valid = evaluation_cases(dataset.sequences, roles, "valid", encoder.max_length)
    if len(valid) == 0:
        raise DataFormatError(
            f"{data}: split {split!r} has no valid target to stop the training by; prepare more data."
        )
    torch.manual_seed(seed)
    network = description.build()
    # The softmax is over the items that occur in training. The others could only ever be negatives: a model would learn
    # to rank them last whatever their text says.
    known = np.unique(sequences.values)
    loader = TrainingLoader(
        np.searchsorted(known, sequences.values).astype(np.int32),
        sequences.offsets,
        encoder.max_length,
        training.targets_per_step // training.accumulate,
        training.window_stride or None,
        seed,
    )
    started = time.perf_counter()
    result = fit(
        network,
        items.select(torch.from_numpy(known).long()),
        loader,
        training,
        seed,
        output,
        validate=lambda current: evaluate_model(
            current, items, valid, device=next(current.parameters()).device
        ).means(),
        save_best=lambda current: save_pretrained(current, description, output),
        resume=resume,
    )
    if not result.main_process:
        return {}
    seconds = time.perf_counter() - started
    network = network.cpu()
    load_weights(network, output / WEIGHTS_FILE)
    _finish_run(output, network.eval(), description, dataset, items, features, codes)
    cases = evaluation_cases(dataset.sequences, roles, "test", encoder.max_length)
    metrics = {
        "run": str(output),
        "model": name,
        "seed": seed,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds": round(seconds, 1),
        "valid": _valid_of(result.history, result.best_epoch),
        "test": evaluate_model(network, items, cases).means(),
    }
    _write_results(output, name, dataset.name, metrics, result.history)
    return metrics


def _model_name(model: str, mode: str) -> str:
    from linguarec.models import MODELS

    if model not in MODELS:
        raise SettingsError([f"unknown model {model!r}; there are: {', '.join(MODELS)}"])
    if mode == "transductive" and model not in ("unisrec", "unisrec-transductive"):
        raise SettingsError([f"--mode transductive is for unisrec; {model} has one form only"])
    return "unisrec-transductive" if mode == "transductive" else model


def _choose(kind: str, asked: str | None, stored: list[str], dataset: "PreparedDataset", command: str) -> str:
    """The name of the vectors or codes to read: the one asked for, or the only one there is."""
    flag = "--features" if kind == "vectors" else "--codes"
    if asked is not None:
        if asked not in stored:
            known = ", ".join(stored) or "none"
            raise SettingsError([f"{flag} {asked}: {dataset.path} has no item {kind} of that name; it has: {known}"])
        return asked
    if len(stored) == 1:
        return stored[0]
    if not stored:
        raise SettingsError(
            [
                f"this model reads item {kind} and {dataset.path} has none; make them with `linguarec {command} {dataset.path}`"
            ]
        )
    raise SettingsError([f"{dataset.path} has several item {kind}: {', '.join(stored)}; choose one with {flag}"])


def _centroids(dataset: "PreparedDataset", codes: str) -> int:
    from linguarec.batching.catalogue import load_codes

    return load_codes(dataset, codes).book.num_centroids


def _as_dict(training: "TrainingSettings") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(training)


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("linguarec", "torch", "lightning", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _open_run(output: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Make the run folder with its settings, or check that it can be resumed; the results if it is finished already."""
    import json
    import shutil

    from linguarec.files import write_json

    file = output / SETTINGS_FILE
    if resume and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        differing = [
            f"{key}: the run has {before.get(key)!r}, now {settings[key]!r}"
            for key in settings
            if key not in ("versions", "data") and before.get(key) != json.loads(json.dumps(settings[key]))
        ]
        if differing:
            raise SettingsError([f"{output} cannot be resumed with other settings:", *differing])
        if (output / METRICS_FILE).exists():
            metrics: dict[str, Any] = json.loads((output / METRICS_FILE).read_text(encoding="utf-8"))
            _show(metrics, note="finished before; nothing left to do")
            return metrics
        return None
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise OutputError(
                f"{output} exists already; go on with it by --resume, replace it by --overwrite, or choose another folder."
            )
        shutil.rmtree(output) if output.is_dir() else output.unlink()
    write_json(file, settings)
    return None


def _finish_run(
    output: Path,
    network: Any,
    description: Any,
    dataset: "PreparedDataset",
    items: Any,
    features: str | None,
    codes: str | None,
) -> None:
    """Make the run folder usable on its own: catalogue, inputs, keys, encoder reference, code book."""
    from linguarec.recommender import Recommender

    Recommender.from_training(network, description, dataset, items, features, codes).save(output)


def _valid_of(history: list[dict[str, Any]], epoch: int) -> dict[str, float]:
    row = next(row for row in history if row["epoch"] == epoch)
    return {key.removeprefix("valid "): value for key, value in row.items() if key.startswith("valid ")}


def _write_results(
    output: Path, name: str, data_name: str, metrics: dict[str, Any], history: list[dict[str, Any]]
) -> None:
    import shutil

    from linguarec.evaluation.plots import plot_learning_curves
    from linguarec.files import write_json

    epochs = [row["epoch"] for row in history]
    curve = {name: (epochs, [row["valid ndcg@10"] for row in history])}
    plot_learning_curves(output / "plots" / "learning_curve.png", f"{name} on {data_name}", "valid ndcg@10", curve)
    write_json(output / METRICS_FILE, metrics)
    shutil.rmtree(output / "checkpoints", ignore_errors=True)  # for resuming only; the run is finished
    _show(metrics)


def _show(metrics: dict[str, Any], note: str = "") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{metrics['model']}, best of {metrics['epochs']} epochs: {metrics['best_epoch']} {note}".strip()
    )
    names = list(metrics["test"])
    for column in ("part", *names):
        table.add_column(column)
    for part in ("valid", "test"):
        table.add_row(part, *(f"{metrics[part][key]:.4f}" for key in names))
    console = Console()
    console.print(table)
    console.print(f"run folder: {metrics['run']}")
