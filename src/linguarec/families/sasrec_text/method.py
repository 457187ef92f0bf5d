"""Training of SASRec on text: next-item prediction over a catalogue of text vectors."""

from dataclasses import dataclass

from linguarec.families.family import Family, Plan, Request, Task, with_encoder
from linguarec.families.next_item import StartOptions, plan_next_item
from linguarec.families.padded import padded_vectors
from linguarec.families.sasrec_text.model import SASRecText, SASRecTextConfig
from linguarec.families.ways import ways_with_encoder
from linguarec.sources.embeddings import EmbeddingSource


@dataclass(frozen=True)
class SASRecTextOptions(StartOptions):
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


def plan_finetuning(request: Request) -> Plan:
    """One stage, over the vectors of the catalogue."""
    asked = {"features": request.options.features}
    start = request.start_source(EmbeddingSource)
    return plan_next_item(request, EmbeddingSource.choose(request.dataset, asked, start))


SASREC_TEXT = Family(
    name="sasrec-text",
    summary="items by text vector, one linear map",
    config=SASRecTextConfig,
    build=with_encoder(SASRecText),
    source=EmbeddingSource,
    finetuning=Task(SASRecTextOptions, plan_finetuning),
    ways=ways_with_encoder,
    padded=padded_vectors,
)
