"""Training of FDSA: next-item prediction over a catalogue of IDs, whose histories are also read by text vector."""

from dataclasses import dataclass

from linguarec.families.family import Family, Plan, Request, Task, with_encoder
from linguarec.families.fdsa.model import FDSA, FDSAConfig
from linguarec.families.next_item import NextItemOptions, plan_next_item
from linguarec.families.padded import padded_vectors
from linguarec.families.recbole_checkpoint import RECBOLE
from linguarec.sources.embeddings import EmbeddingSource


@dataclass(frozen=True)
class FineTuningOptions(NextItemOptions):
    """The item vectors, and the settings of both sequence encoders.

    Args:
        sequence_encoder: encoder of the histories, of IDs and of texts; transformer by default
        transformer: settings of both sequence encoders, if they are Transformers
        gru: settings of both sequence encoders, if they are GRUs
        pooling: settings of both sequence encoders, if they are pooling
        history_in_softmax: kept (default) or excluded; excluded trains each position without the items of its history as
            classes of the softmax, except the target
        ties: fixed (default) or shuffled; shuffled draws a new order of the items of a user with equal timestamps for every
            epoch, for data whose order of ties says nothing
        softmax: over which items the loss of a step runs
        features: name of the item text vectors; not needed if the folder has one kind
    """

    features: str | None = None


def plan_finetuning(request: Request) -> Plan:
    """One stage, over the rows and vectors of the catalogue."""
    return plan_next_item(request, EmbeddingSource.choose(request.dataset, {"features": request.options.features}))


FDSA_FAMILY = Family(
    name="fdsa",
    summary="items by ID, histories by ID and text vector",
    config=FDSAConfig,
    build=with_encoder(FDSA),
    source=EmbeddingSource,
    finetuning=Task(FineTuningOptions, plan_finetuning),
    per_item=("item.weight",),
    carries=False,
    ranks_new=False,
    released=RECBOLE,
    padded=padded_vectors,
)
