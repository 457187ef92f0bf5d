"""Fine-tune: train one model on one prepared folder into a self-contained run folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import DataFormatError, SettingsError
from linguarec.recipes.runs import choose, open_run, valid_of, versions, write_results

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.nn.encoders import EncoderConfig, GRUConfig, TransformerConfig
    from linguarec.training.settings import TrainingSettings


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
    from linguarec.training.module import FineTuning
    from linguarec.training.settings import TrainingSettings

    name = _model_name(model, mode)
    training = training or TrainingSettings()
    training.check()
    encoder: EncoderConfig = (gru or GRUConfig()) if sequence_encoder == "gru" else (transformer or TransformerConfig())
    dataset = PreparedDataset.open(data)
    reads = MODELS[name].reads
    features = choose("vectors", features, dataset.feature_names, dataset, "encode") if "features" in reads else None
    codes = choose("codes", codes, dataset.code_names, dataset, "quantize") if "codes" in reads else None
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
        "training": asdict(training),
        "versions": versions(),
    }
    # The processes that Lightning starts beside the first one run this recipe too, and find the folder made.
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        done = open_run(output, settings, resume, overwrite)
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
        FineTuning(network, items.select(torch.from_numpy(known).long()), loader, training, seed),
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
        "valid": valid_of(result.history, result.best_epoch),
        "test": evaluate_model(network, items, cases).means(),
    }
    write_results(output, name, dataset.name, metrics, result.history)
    return metrics


def _model_name(model: str, mode: str) -> str:
    from linguarec.models import MODELS

    if model not in MODELS:
        raise SettingsError([f"unknown model {model!r}; there are: {', '.join(MODELS)}"])
    if mode == "transductive" and model not in ("unisrec", "unisrec-transductive"):
        raise SettingsError([f"--mode transductive is for unisrec; {model} has one form only"])
    return "unisrec-transductive" if mode == "transductive" else model


def _centroids(dataset: "PreparedDataset", codes: str) -> int:
    from linguarec.batching.catalogue import load_codes

    return load_codes(dataset, codes).book.num_centroids


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
