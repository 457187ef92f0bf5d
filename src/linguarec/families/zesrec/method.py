"""Training of ZESRec: contrast over several domains, then zero-shot use, or next-item prediction on one domain."""

from dataclasses import dataclass, replace

from linguarec.batching.pretraining import PretrainingLoader
from linguarec.families.contrast import plan_contrast
from linguarec.families.family import Family, Plan, Request, Task, with_encoder
from linguarec.families.next_item import StartOptions, plan_next_item
from linguarec.families.options import EncoderOptions
from linguarec.families.padded import padded_vectors
from linguarec.families.ways import ways_with_encoder
from linguarec.families.zesrec.model import ZESRec, ZESRecConfig
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
    """

    features: str | None = None


@dataclass(frozen=True)
class PretrainingOptions(EncoderOptions):
    """The item vectors and the sequence encoder.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        features: name of the item text vectors; not needed if the folders have one kind
    """

    features: str | None = None


def plan_finetuning(request: Request) -> Plan:
    """One stage, over the vectors of the catalogue."""
    asked = {"features": request.options.features}
    start = request.start_source(EmbeddingSource)
    return plan_next_item(request, EmbeddingSource.choose(request.dataset, asked, start))


def plan_pretraining(request: Request) -> Plan:
    """Contrast of histories with next items."""
    options: PretrainingOptions = request.options
    start = request.start_source(EmbeddingSource)
    sources = EmbeddingSource.choose_for_all(request.datasets, {"features": options.features}, start)
    held_out = None
    if request.valid is not None:
        name = sources[0].name if sources[0].name in request.valid.feature_names else None
        held_out = sources[0].matching(request.valid, {"features": name}, encode=False)
    request = replace(request, options=replace(options, features=sources[0].name))
    return plan_contrast(
        request, sources, held_out, lambda steps: PretrainingLoader(steps, JoinedItems(sources), views=None)
    )


ZESREC = Family(
    name="zesrec",
    summary="items by text vector, one linear map, dot products; for shops without training",
    config=ZESRecConfig,
    build=with_encoder(ZESRec),
    source=EmbeddingSource,
    finetuning=Task(FineTuningOptions, plan_finetuning),
    pretraining=Task(PretrainingOptions, plan_pretraining),
    ways=ways_with_encoder,
    padded=padded_vectors,
)
