"""Pre-train: one model on several prepared folders at once, to be fine-tuned on another."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError
from linguarec.recipes.runs import (
    check_seed,
    finish_pretraining,
    is_main_process,
    open_run,
    read_of_domains,
    refuse,
    versions,
    write_config,
)

if TYPE_CHECKING:
    from torch import nn

    from linguarec.batching.pretraining import AugmentationSettings
    from linguarec.nn.encoders import GRUConfig, TransformerConfig
    from linguarec.training.settings import TrainingSettings


def pretrain(
    model: Literal["unisrec", "vqrec", "recformer"],
    data: list[Path],
    output: Path,
    config: Any = None,
    transformer: "TransformerConfig | None" = None,
    gru: "GRUConfig | None" = None,
    training: "TrainingSettings | None" = None,
    augmentation: "AugmentationSettings | None" = None,
    valid: Path | None = None,
    from_: Path | None = None,
    mixing: float = 1.0,
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
    """Train a model by contrast on the logs of several domains; keep the weights that are best on a domain it never saw.

    The run folder holds weights, settings, metrics by epoch, a plot, and what its item vectors and codes are made by. It has
    no catalogue: `linguarec finetune MODEL DATA --from RUN` takes it to a domain, `linguarec evaluate RUN DATA --zero-shot`
    tests it there as it is.

    With --from the training starts from another model's weights, and the settings of model and sequence encoder are that
    model's; of those that the weights do not need (dropout, temperature) others can be given.

    Args:
        model: unisrec, vqrec or recformer
        data: prepared folders, one a domain, with vectors of one encoder (unisrec), codes of one code book (vqrec) or
            tokens of one tokenizer (recformer)
        output: run folder to write
        config: settings of the model
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        training: settings of the training
        augmentation: what is changed in the inputs
        valid: prepared folder of a further domain whose valid part, ranked without training on it, picks the best weights; by
            default the valid parts of the training domains themselves
        from_: start from the model in this folder: another pre-training run, a converted checkpoint or a fine-tuning run, of
            the same text encoder (unisrec), code book (vqrec; items are coded with it where they are not) or tokenizer
            (recformer)
        mixing: how often a domain is seen, whose histories have n next items to learn (one a history and epoch for recformer):
            in proportion to n^mixing; 1 = by size, 0 = all alike
        sequence_encoder: what reads the histories; transformer by default
        features: name of the item text vectors, for models that read them, and for vqrec to code items that have no codes of
            its book (--from, --valid); not needed if the folders have one kind
        codes: name of the item codes, for models that read them; not needed if the folders have one kind
        backbone: Recformer: start from this language model, a name (built in or in the hub cache) or a folder; without it the
            weights are random
        tokens: name of the item tokens, for models that read them; not needed if the folders have one kind; a --valid folder
            without that name is read by those that fit
        split: which interactions train; what it holds back for valid and test is not seen
        users: share of each domain's users who train, drawn by the seed
        seed: of initial weights, shuffling, augmentation and dropout
        resume: go on with a run that was interrupted
        overwrite: replace the run folder if it exists
    """
    import torch

    from linguarec.batching.domains import Domain, Domains
    from linguarec.batching.pretraining import AugmentationSettings, PretrainingLoader
    from linguarec.data.dataset import PreparedDataset
    from linguarec.hub.pretrained import ModelDescription, encoder_kind, save_pretrained
    from linguarec.models import MODELS
    from linguarec.models.unisrec import UniSRecConfig
    from linguarec.recipes.pretrain_recformer import pretrain_recformer
    from linguarec.recipes.pretraining_items import ItemNames, ItemOrigin, reading
    from linguarec.recipes.starting import Start, check_other_folder, log_start, settings_of, take_over
    from linguarec.recipes.training_data import check_share
    from linguarec.recipes.validation import ranked_means, valid_cases
    from linguarec.training.fit import fit
    from linguarec.training.module import PreTraining
    from linguarec.training.settings import TrainingSettings

    training = training or TrainingSettings(**MODELS[model].training)
    training.check()
    _check(data, valid, mixing, augmentation or AugmentationSettings())
    check_share(users)
    check_seed(seed)
    check_other_folder(from_, output)
    if MODELS[model].reads == "tokens":
        given: dict[str, Any] = {
            "transformer": transformer,
            "gru": gru,
            "augmentation": augmentation,
            "sequence-encoder": sequence_encoder,
            "features": features,
            "codes": codes,
        }
        refuse(model, given)
        return pretrain_recformer(
            data,
            output,
            config,
            training,
            valid,
            from_,
            mixing,
            backbone,
            tokens,
            split,
            users,
            seed,
            resume,
            overwrite,
        )
    _refuse_unread(model, augmentation, features, codes, coding=from_ is not None or valid is not None)
    refuse(model, {"backbone": backbone, "tokens": tokens})
    augmentation = augmentation or AugmentationSettings()
    start = None if from_ is None else Start.read(from_)
    config, encoder = settings_of(start, model, config, sequence_encoder, transformer, gru)
    datasets = [PreparedDataset.open(folder) for folder in data]
    names = ItemNames.of(model, start, datasets, features, codes)
    held_out = PreparedDataset.open(valid) if valid else None
    origin = ItemOrigin.of(datasets, held_out, names)
    domains = Domains(
        [
            Domain.of(dataset, split, names.features, of_dataset, users=users, seed=seed)
            for dataset, of_dataset in zip(datasets, names.codes, strict=True)
        ]
    )
    trained_on = dict(zip((dataset.path for dataset in datasets), names.codes, strict=True))
    parts = [
        (reading(origin, dataset, trained_on.get(dataset.path), features), cases)
        for dataset, cases in valid_cases(datasets, held_out, split, encoder.max_length, training.valid_users)
    ]

    def validate(model: "nn.Module") -> dict[str, float]:
        device = next(model.parameters()).device
        return ranked_means(model, ((*encoded(model, device), cases) for encoded, cases in parts))

    description = ModelDescription(model, config, encoder, origin.shape)
    torch.manual_seed(seed)
    network = description.build()
    taken = None if start is None else take_over(start, network)
    settings = {
        **description.to_dict(),
        **read_of_domains(datasets, held_out, split, users),
        **names.recorded,
        "mixing": mixing,
        "seed": seed,
        "training": asdict(training),
        "augmentation": asdict(augmentation),
        "from": taken,
        "versions": versions(),
    }
    loader = PretrainingLoader(
        domains,
        encoder.max_length,
        training.targets_per_step // training.accumulate,  # negatives come from a part, not from the whole step
        training.window_stride or None,
        mixing,
        None if origin.book is None else origin.book.num_centroids,
        augmentation,
        seed,
        views=not isinstance(config, UniSRecConfig) or config.sequence_contrast != 0,
    )
    done = open_run(output, settings, resume, overwrite)
    if done is not None:
        return done
    if is_main_process():
        origin.save(output)
    kind = encoder_kind(encoder)
    flags = {
        "valid": valid,
        "from": from_,
        "mixing": mixing,
        "sequence_encoder": kind,
        "features": names.features or features,
        "codes": codes if start else names.codes[0],
        "split": split,
        "users": users,
        "seed": seed,
        "model": asdict(config),
        kind: asdict(encoder),
        "training": asdict(training),
        "augmentation": asdict(augmentation),
    }
    write_config(output, flags)
    log_start(taken)
    result = fit(
        PreTraining(network, loader, training, seed),
        output,
        validate=validate,
        save_best=lambda current: save_pretrained(current, description, output),
        resume=resume,
    )
    if not result.main_process:
        return {}
    counts = [domain.num_targets for domain in domains.domains]
    return finish_pretraining(output, model, datasets, counts, seed, result)


def _check(data: list[Path], valid: Path | None, mixing: float, augmentation: "AugmentationSettings") -> None:
    problems = augmentation.problems()
    if not data:
        problems.append("data is empty; name at least one prepared folder")
    places = [folder.resolve() for folder in data]
    twice = sorted({str(place) for place in places if places.count(place) > 1})
    if twice:
        problems.append(f"these folders are named twice: {', '.join(twice)}")
    if valid is not None and valid.resolve() in places:
        problems.append(
            f"--valid {valid} is one of the folders that train; name a domain that the model never sees, or leave the flag "
            "out: then the valid parts of all of them choose"
        )
    if not mixing >= 0:
        problems.append(f"mixing is {mixing}; it must be 0 or above")
    if problems:
        raise SettingsError(problems)


def _refuse_unread(
    model: str, augmentation: "AugmentationSettings | None", features: str | None, codes: str | None, coding: bool
) -> None:
    """Refuse what the model does not read; `coding`: whether vectors may be needed to code items."""
    from dataclasses import fields

    from linguarec.models import MODELS

    reads = MODELS[model].reads
    if "codes" not in reads:
        refuse(model, {"codes": codes})
    if "features" not in reads and not coding:
        refuse(f"{model} without --from or --valid", {"features": features})
    others = ("code_replacement",) if reads == "features" else ("item_drop", "word_drop")
    defaults = {field.name: field.default for field in fields(augmentation)} if augmentation is not None else {}
    changed = {name: getattr(augmentation, name) for name in others if name in defaults}
    refuse(model, {f"augmentation.{name}": value for name, value in changed.items() if value != defaults[name]})
