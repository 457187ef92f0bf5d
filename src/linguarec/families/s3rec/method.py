"""Training of S3-Rec: self-supervision with the items' texts, then next-item prediction, both over a catalogue of IDs."""

from dataclasses import dataclass, replace

from linguarec.families.family import Family, Plan, Request, Task, with_encoder
from linguarec.families.next_item import plan_next_item
from linguarec.families.options import TransformerOptions
from linguarec.families.padded import padded_vectors
from linguarec.families.recbole_checkpoint import RECBOLE
from linguarec.families.s3rec.model import S3Rec, S3RecConfig
from linguarec.families.s3rec.self_supervision import SelfSupervisionSettings, self_supervision_stage
from linguarec.families.softmax import SoftmaxSettings
from linguarec.nn.encoders import TransformerConfig
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.ids import IdSource


@dataclass(frozen=True)
class S3RecOptions(TransformerOptions):
    """The sequence encoder, the item vectors of the first stage, and its settings.

    Args:
        transformer: settings of the sequence encoder
        features: name of the item text vectors; not needed if the folder has one kind
        self_supervision: settings of the first stage, in which items and sequences are learned with the texts
        softmax: over which items the loss of a step runs; the first stage has all
    """

    features: str | None = None
    self_supervision: SelfSupervisionSettings | None = None
    softmax: SoftmaxSettings | None = None


def plan_finetuning(request: Request) -> Plan:
    """Two stages over the rows of the catalogue; the first one also reads the vectors of its items."""
    options: S3RecOptions = request.options
    settings = options.self_supervision or SelfSupervisionSettings()
    vectors = EmbeddingSource.choose(request.dataset, {"features": options.features})
    request = replace(request, options=replace(options, features=vectors.name, self_supervision=settings))
    source = IdSource.choose(request.dataset, {})
    return plan_next_item(request, source, [self_supervision_stage(request, vectors, settings)])


S3REC = Family(
    name="s3rec",
    summary="items by ID, self-supervised with their texts before",
    config=S3RecConfig,
    build=with_encoder(S3Rec),
    source=IdSource,
    finetuning=Task(S3RecOptions, plan_finetuning),
    encoders={"transformer": TransformerConfig},
    per_item=("item.weight",),
    carries=False,
    ranks_new=False,
    cost="100 epochs of self-supervision come first: 10 s each with 8,442 users on one core",
    released=RECBOLE,
    padded=padded_vectors,
)
