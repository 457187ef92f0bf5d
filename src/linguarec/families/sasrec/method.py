"""Training of SASRec: next-item prediction over a catalogue of IDs. Its weights cannot be used for another catalogue."""

from linguarec.families.family import Family, Plan, Request, Task, with_encoder
from linguarec.families.next_item import NextItemOptions, plan_next_item
from linguarec.families.padded import padded_vectors
from linguarec.families.recbole_checkpoint import RECBOLE
from linguarec.families.sasrec.model import SASRec, SASRecConfig
from linguarec.sources.ids import IdSource


def plan_finetuning(request: Request) -> Plan:
    """One stage, over the rows of the catalogue."""
    return plan_next_item(request, IdSource.choose(request.dataset, {}))


SASREC = Family(
    name="sasrec",
    summary="items by ID, causal Transformer",
    config=SASRecConfig,
    build=with_encoder(SASRec),
    source=IdSource,
    finetuning=Task(NextItemOptions, plan_finetuning),
    per_item=("item.weight",),
    carries=False,
    ranks_new=False,
    released=RECBOLE,
    padded=padded_vectors,
)
