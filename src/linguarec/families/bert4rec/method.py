"""Training of BERT4Rec: masked items over a catalogue of IDs. Its weights cannot be used for another catalogue.

An epoch has fewer targets than one of next items (at `mask_share` 0.2 a third on Scientific), and BERT4Rec is known to be
trained for too short a time (arXiv 2207.07483), so steps are smaller and patience is longer.
"""

from dataclasses import dataclass

from linguarec.batching.masked import MaskedLoader
from linguarec.data.ragged import Ragged
from linguarec.families.bert4rec.model import BERT4Rec, BERT4RecConfig
from linguarec.families.bert4rec.padded import padded
from linguarec.families.family import Family, Plan, Request, Steps, Task, with_encoder
from linguarec.families.next_item import plan_next_item
from linguarec.families.options import TransformerOptions
from linguarec.families.recbole_checkpoint import RECBOLE
from linguarec.families.softmax import SoftmaxSettings
from linguarec.nn.encoders import TransformerConfig
from linguarec.sources.ids import IdSource


@dataclass(frozen=True)
class BERT4RecOptions(TransformerOptions):
    """The sequence encoder, and the classes of the softmax.

    Args:
        transformer: settings of the sequence encoder
        softmax: over which items the loss of a step runs
    """

    softmax: SoftmaxSettings | None = None


def plan_finetuning(request: Request) -> Plan:
    """One stage, over the rows of the catalogue."""
    return plan_next_item(request, IdSource.choose(request.dataset, {}))


def loader(sequences: Ragged, steps: Steps, config: BERT4RecConfig) -> MaskedLoader:
    """Masked windows; beyond the longest one they end every `steps.stride` items, by default every half window."""
    return MaskedLoader(
        sequences, steps.max_length, steps.targets, steps.stride, config.mask_share, config.last_share, steps.seed
    )


BERT4REC = Family(
    name="bert4rec",
    summary="items by ID, masked items predicted from both sides",
    config=BERT4RecConfig,
    build=with_encoder(BERT4Rec),
    source=IdSource,
    finetuning=Task(BERT4RecOptions, plan_finetuning),
    encoders={"transformer": TransformerConfig},
    training={"targets_per_step": 512, "max_epochs": 2000, "patience": 50},
    per_item=("item.weight", "bias"),
    carries=False,
    ranks_new=False,
    cost="a hundred short epochs or more: 10 s each with 8,442 users on one core",
    loader=loader,
    both_ways=True,
    released=RECBOLE,
    padded=padded,
)
