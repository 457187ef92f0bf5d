"""Fine-tune: train one model on one prepared folder into a self-contained run folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError
from linguarec.recipes.runs import check_seed, open_run, read_of, refuse, versions, write_config

if TYPE_CHECKING:
    from linguarec.nn.encoders import GRUConfig, TransformerConfig
    from linguarec.training.settings import PermutationSettings, TrainingSettings


def finetune(
    model: str,
    data: Path,
    output: Path,
    config: Any = None,
    transformer: "TransformerConfig | None" = None,
    gru: "GRUConfig | None" = None,
    training: "TrainingSettings | None" = None,
    permutation: "PermutationSettings | None" = None,
    from_: Path | None = None,
    mode: Literal["inductive", "transductive", "permutation", "direct", "reuse"] | None = None,
    frozen: Literal["encoder", "none"] | None = None,
    sequence_encoder: Literal["transformer", "gru"] | None = None,
    features: str | None = None,
    codes: str | None = None,
    backbone: str | None = None,
    tokens: str | None = None,
    split: str = "leave-one-out",
    users: float = 1.0,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a model on a prepared folder, keep the weights that are best on the valid part, and test them.

    The run folder holds everything that using the model needs: weights, catalogue, keys, code book, settings, metrics by
    epoch, plots. A run that was killed goes on with --resume and ends with the same weights as an unbroken one.

    With --from the training starts from another model's weights, and the settings of model and sequence encoder are that
    model's; of those that the weights do not need (dropout, temperature) others can be given.

    Args:
        model: name of the model
        data: prepared dataset folder
        output: run folder to write
        config: settings of the model
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        training: settings of the training
        permutation: settings of the stage that learns the permutation (--mode permutation)
        from_: start from the model in this folder: a pre-training run, a converted checkpoint or another run
        mode: UniSRec: inductive (default) knows items by text alone, transductive by text and ID. VQ-Rec with --from:
            reuse (default) codes the items with the code book of the pre-training; with codes of the data's own, permutation
            learns which pre-trained embedding each of them takes, and direct takes them as they are numbered
        frozen: encoder (default with --from) fixes the sequence encoder that was loaded, but for its input LayerNorm
        sequence_encoder: what reads the histories; transformer by default
        features: name of the item text vectors, for models that read them, and for --mode reuse to code the items; not needed
            if the folder has one kind
        codes: name of the item codes, for models that read them; not needed if the folder has one kind beside those of borrowed
            code books (book-...)
        backbone: Recformer: start from this language model, a name (built in or in the hub cache) or a folder; without it
            and without --from the weights are random
        tokens: name of the item tokens, for models that read them; not needed if the folder has one kind
        split: which interactions train, validate and test (leave-one-out, temporal or held-out-items)
        users: share of the users who train and validate, drawn by the seed; all users are tested
        seed: of initial weights, shuffling and dropout
        resume: go on with a run that was interrupted
        overwrite: replace the run folder if it exists
    """
    import torch

    from linguarec.data.dataset import PreparedDataset
    from linguarec.devices import device_of
    from linguarec.hub.pretrained import ModelDescription, encoder_kind
    from linguarec.models import MODELS
    from linguarec.recipes.finetune_recformer import finetune_recformer
    from linguarec.recipes.finetune_vectors import FineTuningInputs, finish, train
    from linguarec.recipes.matching import training_inputs
    from linguarec.recipes.starting import Start, log_start, settings_of, take_over
    from linguarec.recipes.training_data import check_share
    from linguarec.training.settings import PermutationSettings, TrainingSettings

    name, chosen = model_and_mode(model, mode, from_)
    training = training or TrainingSettings(**MODELS[name].training)
    training.check()
    check_share(users)
    check_seed(seed)
    if training.strategy == "fsdp":
        raise SettingsError(
            ["training.strategy fsdp is for pretrain; a fine-tuned model is small beside its catalogue: take ddp"]
        )
    if MODELS[name].reads == "tokens":
        given: dict[str, Any] = {"transformer": transformer, "gru": gru, "permutation": permutation, "frozen": frozen}
        given |= {"sequence-encoder": sequence_encoder, "features": features, "codes": codes, "mode": mode}
        refuse(name, given)
        return finetune_recformer(
            data, output, config, training, from_, backbone, tokens, split, users, seed, resume, overwrite
        )
    refuse(name, {"backbone": backbone, "tokens": tokens})
    _check_stages(chosen, from_, output, frozen, permutation)
    permutation = permutation or PermutationSettings()
    stage = permutation if chosen == "permutation" else None
    dataset = PreparedDataset.open(data)
    start = None if from_ is None else Start.read(from_)
    config, encoder = settings_of(start, name, config, sequence_encoder, transformer, gru)
    features, codes = training_inputs(name, chosen, dataset, start, features, codes)
    inputs = FineTuningInputs.of(dataset, features, codes, split, users, training.valid_users, seed, encoder.max_length)
    description = ModelDescription(name, config, encoder, inputs.shape)
    torch.manual_seed(seed)
    network = description.build()
    taken = None if start is None else take_over(start, network, chosen, frozen or "encoder", permutation)
    own = {"features": features, "codes": codes, "seed": seed, "training": asdict(training), "from": taken}
    settings = {**description.to_dict(), **read_of(data, dataset, split, users), **own, "versions": versions()}
    steps = inputs.loader(training, seed)  # refuses what cannot work; only now is the folder made
    done = open_run(output, settings, resume, overwrite)
    if done is not None:
        return done
    kind = encoder_kind(encoder)
    flags = {
        "from": from_,
        "mode": mode,
        "frozen": frozen,
        "sequence_encoder": kind,
        "features": features,
        "codes": codes,
        "split": split,
        "users": users,
        "seed": seed,
        "model": asdict(config),
        kind: asdict(encoder),
        "training": asdict(training),
        "permutation": None if stage is None else asdict(stage),
    }
    write_config(output, flags)
    log_start(taken)
    trained = train(network, description, inputs, steps, training, stage, seed, output, resume)
    if not trained.result.main_process:
        return {}
    return finish(network, description, inputs, trained, split, seed, output, device_of(training.accelerator))


def model_and_mode(model: str, mode: str | None, from_: Path | None) -> tuple[str, str | None]:
    """The name in `MODELS` and the mode, which has a default where the model has several."""
    from linguarec.models import MODELS
    from linguarec.recipes.starting import PERMUTED

    if model not in MODELS:
        raise SettingsError([f"unknown model {model!r}; there are: {', '.join(MODELS)}"])
    if mode in PERMUTED:
        if model != "vqrec":
            raise SettingsError([f"--mode {mode} is for vqrec; {model} has no code books"])
        if from_ is None:
            raise SettingsError([f"--mode {mode} is about pre-trained code embeddings; name their folder with --from"])
    if mode == "transductive" and model not in ("unisrec", "unisrec-transductive"):
        raise SettingsError([f"--mode transductive is for unisrec; {model} has one form only"])
    if mode == "inductive" and (model == "unisrec-transductive" or (model == "vqrec" and from_ is not None)):
        raise SettingsError([f"--mode inductive is for unisrec, not for {model}"])
    if model == "vqrec":
        return model, None if from_ is None else mode or "reuse"
    if model in ("unisrec", "unisrec-transductive"):
        name = "unisrec-transductive" if mode == "transductive" else model
        return name, "transductive" if name == "unisrec-transductive" else "inductive"
    return model, None


def _check_stages(
    mode: str | None,
    from_: Path | None,
    output: Path,
    frozen: str | None,
    permutation: "PermutationSettings | None",
) -> None:
    from linguarec.recipes.starting import check_other_folder
    from linguarec.training.settings import PermutationSettings

    check_other_folder(from_, output)
    if frozen == "encoder" and from_ is None:
        raise SettingsError(["--frozen encoder: there is nothing trained to fix; name its folder with --from"])
    if permutation is not None and permutation != PermutationSettings() and mode != "permutation":
        raise SettingsError(["--permutation.*: these settings are for vqrec --from FOLDER --mode permutation"])
    if permutation is not None:
        permutation.check()
