"""How SASRec on text is trained: next items over the catalogue, known by their text vectors."""

from dataclasses import dataclass

from linguarec.families.family import Family, Plan, Request, Task, with_encoder
from linguarec.families.next_item import StartOptions, plan_next_item
from linguarec.families.sasrec_text.model import SASRecText, SASRecTextConfig
from linguarec.families.ways import ways_with_encoder
from linguarec.sources.embeddings import EmbeddingSource


@dataclass(frozen=True)
class SASRecTextOptions(StartOptions):
    """What is read, and what of a start is fixed.

    Args:
        sequence_encoder: what reads the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        frozen: encoder (default with --from) fixes the sequence encoder that was loaded, but for its input LayerNorm
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
)
