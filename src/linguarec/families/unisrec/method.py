"""Training of UniSRec: contrast over several domains, then next-item prediction on one, by text or by text and ID."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from linguarec.batching.pretraining import MixedLoader, PretrainingLoader, ViewSettings
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import UNKNOWN
from linguarec.errors import SettingsError
from linguarec.families.contrast import plan_contrast
from linguarec.families.family import Family, Plan, Request, Start, Task, with_encoder
from linguarec.families.next_item import StartOptions, plan_next_item
from linguarec.families.options import EncoderOptions, settings_of
from linguarec.families.padded import padded_vectors
from linguarec.families.recbole_checkpoint import RECBOLE
from linguarec.families.unisrec.model import UniSRec, UniSRecConfig, UniSRecTransductive
from linguarec.families.ways import ways_of
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.joined import JoinedItems


@dataclass(frozen=True)
class FineTuningOptions(StartOptions):
    """The item vectors, the sequence encoder, and which part of a start is frozen.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        history_in_softmax: kept (default) or excluded; excluded trains each position without the items of its history as
            classes of the softmax, except the target
        ties: fixed (default) or shuffled; shuffled draws a new order of the items of a user with equal timestamps for every
            epoch, for data whose order of ties says nothing
        softmax: over which items the loss of a step runs
        frozen: encoder (default with --from) freezes the loaded sequence encoder except its input LayerNorm
        features: name of the item text vectors; not needed if the folder has one kind
        mode: inductive (default) represents items by text only, transductive by text and ID
    """

    features: str | None = None
    mode: Literal["inductive", "transductive"] | None = None


@dataclass(frozen=True)
class PretrainingOptions(EncoderOptions):
    """The item vectors, the sequence encoder, and the augmentation of histories.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        features: name of the item text vectors; not needed if the folders have one kind
        augmentation: how the augmented view of a history is made
    """

    features: str | None = None
    augmentation: ViewSettings | None = None


def plan_finetuning(request: Request) -> Plan:
    """One stage over the vectors of the catalogue; the transductive form also learns an ID embedding of each item."""
    options: FineTuningOptions = request.options
    if options.mode == "inductive" and request.family is UNISREC_TRANSDUCTIVE:
        raise SettingsError(
            [f"--mode inductive is for {UNISREC.name}, not for {request.family.name}, whose other form it is"]
        )
    family = UNISREC_TRANSDUCTIVE if options.mode == "transductive" else request.family
    mode = "transductive" if family is UNISREC_TRANSDUCTIVE else "inductive"
    start = request.start_source(EmbeddingSource)
    source = EmbeddingSource.choose(request.dataset, {"features": options.features}, start)
    return plan_next_item(replace(request, family=family), source, mode=mode)


def plan_pretraining(request: Request) -> Plan:
    """Contrast of histories with next items, and with augmented views of themselves."""
    options: PretrainingOptions = request.options
    views = options.augmentation or ViewSettings()
    start = request.start_source(EmbeddingSource)
    sources = EmbeddingSource.choose_for_all(request.datasets, {"features": options.features}, start)
    held_out = None
    if request.valid is not None:
        name = sources[0].name if sources[0].name in request.valid.feature_names else None
        held_out = sources[0].matching(request.valid, {"features": name}, encode=False)
    config, _ = settings_of(request)
    makes_views = config.sequence_contrast != 0
    options = replace(options, features=sources[0].name, augmentation=views)

    def loader(steps: MixedLoader) -> PretrainingLoader:
        made = PretrainingLoader(steps, JoinedItems(sources), views if makes_views else None)
        if makes_views and views.word_drop > 0:
            _check_draws(request, sources)
        return made

    return plan_contrast(replace(request, options=options), sources, held_out, loader)


def _check_draws(request: Request, sources: list[EmbeddingSource]) -> None:
    without = {
        dataset.name: _draws_command(dataset, source)
        for dataset, source in zip(request.datasets, sources, strict=True)
        if not source.num_draws
    }
    if without:
        raise SettingsError(
            [
                "augmentation.word_drop needs vectors of texts with words left out, and there are none of "
                f"{', '.join(without)}: make them with {', '.join(without.values())}, or pass --augmentation.word_drop 0"
            ]
        )


def _draws_command(dataset: PreparedDataset, source: EmbeddingSource) -> str:
    """The full command that encodes the folder again, with word-drop draws."""
    encoder = "ENCODER" if source.info.encoder == UNKNOWN else source.info.encoder
    return f"`linguarec encode {dataset.path} --encoder {encoder} --word-drop-draws 2 --overwrite`"


def ways(start: Start, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same options in each way. The mode is the one that the user set, else that of the start."""
    mode = asked.get("mode") or ("transductive" if start.family is UNISREC_TRANSDUCTIVE else "inductive")
    options = {**asked, "mode": mode}
    return ways_of(start, options, options)


UNISREC = Family(
    name="unisrec",
    summary="items by text vector, mixture-of-experts adaptor",
    config=UniSRecConfig,
    build=with_encoder(UniSRec),
    source=EmbeddingSource,
    finetuning=Task(FineTuningOptions, plan_finetuning),
    pretraining=Task(PretrainingOptions, plan_pretraining),
    ways=ways,
    released=RECBOLE,
    padded=padded_vectors,
)
UNISREC_TRANSDUCTIVE = replace(
    UNISREC,
    name="unisrec-transductive",
    summary="UniSRec with ID embeddings",
    build=with_encoder(UniSRecTransductive),
    pretraining=None,
    per_item=("item.weight",),
)
