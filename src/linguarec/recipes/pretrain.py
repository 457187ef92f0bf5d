"""Pre-train: one model on several prepared folders at once, to be fine-tuned on another."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError, StaleFeaturesError
from linguarec.recipes.runs import (
    check_seed,
    choose,
    finish_pretraining,
    is_main_process,
    open_run,
    read_of_domains,
    refuse,
    versions,
    write_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from linguarec.batching.batches import ItemBatch
    from linguarec.batching.pretraining import AugmentationSettings
    from linguarec.codes.codebook import CodeBook
    from linguarec.data.dataset import FeatureInfo, PreparedDataset
    from linguarec.models.shape import CatalogueShape
    from linguarec.nn.encoders import GRUConfig, TransformerConfig
    from linguarec.recipes.starting import Start
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
        (_reading(origin, dataset, trained_on.get(dataset.path), features), cases)
        for dataset, cases in valid_cases(datasets, held_out, split, encoder.max_length)
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


@dataclass(frozen=True)
class ItemNames:
    """What is read of the folders: `features`, vectors of one name, or `codes`, whose name may be another in each; None = not
    read."""

    features: str | None
    codes: list[str | None]

    @classmethod
    def of(
        cls,
        model: str,
        start: "Start | None",
        datasets: "list[PreparedDataset]",
        features: str | None,
        codes: str | None,
    ) -> "ItemNames":
        """The names asked for, the only ones that all folders have, or those that fit the start.

        Codes for a start are of its own book; items that have none of it are coded now.

        Raises:
            SettingsError: nothing of that name is there, or several without one asked for.
            StaleFeaturesError, CheckpointMismatchError: they do not fit the start; both sides are named.
        """
        from linguarec.models import MODELS
        from linguarec.recipes.matching import codes_of_own_book, fitting_vectors

        if MODELS[model].reads != "codes":
            if start is not None:
                features = fitting_vectors(start, datasets[0], features)
            return cls(_choose_for_all("vectors", features, datasets), [None] * len(datasets))
        if start is not None:
            return cls(None, [codes_of_own_book(start, dataset, features, codes) for dataset in datasets])
        return cls(None, [_choose_for_all("codes", codes, datasets)] * len(datasets))

    @property
    def recorded(self) -> dict[str, Any]:
        """As settings.json records them."""
        return {"features": self.features, "codes": self.codes if len(set(self.codes)) > 1 else self.codes[0]}


@dataclass(frozen=True)
class ItemOrigin:
    """What the item vectors or codes of all domains are made by: one encoder, and one code book for models on codes."""

    features: str | None
    encoder: "FeatureInfo | None"
    book: "CodeBook | None"
    shape: "CatalogueShape"

    @classmethod
    def of(
        cls,
        datasets: "list[PreparedDataset]",
        valid: "PreparedDataset | None",
        names: ItemNames,
    ) -> "ItemOrigin":
        """The common origin of the folders' vectors or codes; of `valid` only the vectors that the model itself reads.

        Raises:
            StaleFeaturesError: two folders differ in their encoder or code book.
        """
        from linguarec.batching.catalogue import load_codes, vectors_of_book
        from linguarec.data.same_encoder import check_same_encoder
        from linguarec.models.shape import CatalogueShape

        if names.features is not None:
            read = [*datasets, *([valid] if valid else [])]
            encoder = check_same_encoder([(dataset, names.features) for dataset in read])
            return cls(names.features, encoder, None, CatalogueShape(0, encoder.width))
        codes = [str(name) for name in names.codes]
        books = [load_codes(dataset, name).book for dataset, name in zip(datasets, codes, strict=True)]
        for dataset, name, book in zip(datasets, codes, books, strict=True):
            if book.fingerprint != books[0].fingerprint:
                raise StaleFeaturesError(
                    f"The codes {name} of {dataset.path} are of {book}, those of {datasets[0].path} of {books[0]} with other "
                    f"contents: code books fitted apart. Fit one for all folders: "
                    f"`linguarec quantize {' '.join(str(each.path) for each in datasets)} --features {book.encoder} "
                    f"--subvectors {book.subvectors} --centroids {book.num_centroids} --name {name} --overwrite`."
                )
        book = books[0]
        vectors = [(dataset, found) for dataset in datasets if (found := vectors_of_book(dataset, book)) is not None]
        common = check_same_encoder(vectors) if vectors else None
        return cls(None, common, book, CatalogueShape(0, code_books=book.subvectors, centroids=book.num_centroids))

    def save(self, folder: Path) -> None:
        """Beside the model: `encoder.json` and `code_book.npz`, where known."""
        from linguarec.files import write_json
        from linguarec.hub.pretrained import BOOK_FILE, ENCODER_FILE

        if self.encoder is not None:
            write_json(folder / ENCODER_FILE, asdict(replace(self.encoder, texts_fingerprint=None)))
        if self.book is not None:
            self.book.save(folder / BOOK_FILE)

    def coded(self, dataset: "PreparedDataset", codes: str | None, features: str | None) -> "ItemBatch":
        """All items of a folder by their codes.

        Args:
            dataset: the folder.
            codes: name of the codes that the training reads of it; None = it reads none, so that stored codes of the training's
                book are taken, or the vectors of the book's encoder are coded with it.
            features: name of those vectors, or None.

        Raises:
            StaleFeaturesError, SettingsError: there are neither such codes nor such vectors; or as of `vectors_of`.
        """
        from linguarec.batching.catalogue import catalogue_batch, coded_catalogue, encoder_of_book
        from linguarec.recipes.matching import stored_codes, vectors_of

        assert self.book is not None
        codes = codes or stored_codes(self.book, dataset)
        if codes is not None:
            return catalogue_batch(dataset, None, codes)
        encoder = self.encoder or encoder_of_book(self.book)
        vectors = vectors_of(encoder, "The code book of this training was fitted on", dataset, features)
        return coded_catalogue(dataset, self.book, vectors)


def _reading(
    origin: ItemOrigin, dataset: "PreparedDataset", codes: str | None, features: str | None
) -> "Callable[[nn.Module, torch.device], tuple[Tensor, Tensor]]":
    """What gives a model's inputs and keys of all items of a folder: from vectors that stay on disk, or from codes."""
    from linguarec.batching.catalogue import mapped_catalogue
    from linguarec.evaluation.evaluate import ITEMS_PER_CHUNK, encode_chunks, encode_items

    if origin.features is None:
        items = origin.coded(dataset, codes, features)
        return lambda model, device: encode_items(model, items, device)
    vectors = dataset.features(origin.features)
    return lambda model, device: encode_chunks(model, mapped_catalogue(vectors, ITEMS_PER_CHUNK), device)


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


def _choose_for_all(kind: str, asked: str | None, datasets: "list[PreparedDataset]") -> str:
    """The name that all folders have vectors or codes of."""
    from linguarec.recipes.matching import candidate_codes

    names = [dataset.feature_names if kind == "vectors" else candidate_codes(dataset, asked) for dataset in datasets]
    command = "encode" if kind == "vectors" else "quantize"
    for dataset, stored in zip(datasets, names, strict=True):
        if not stored or (asked is not None and asked not in stored):
            choose(kind, asked, stored, dataset, command)  # says what is missing
    common = [name for name in names[0] if all(name in stored for stored in names)]
    if not common:
        listed = "; ".join(
            f"{dataset.path} has {', '.join(stored)}" for dataset, stored in zip(datasets, names, strict=True)
        )
        raise SettingsError([f"no item {kind} are of one name in all folders: {listed}"])
    return choose(kind, asked, common, datasets[0], command)
