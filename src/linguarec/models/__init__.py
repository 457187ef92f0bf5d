"""The models, one readable file each, and the table that names them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.models.recformer import Recformer, RecformerConfig
from linguarec.models.sasrec import SASRec, SASRecConfig
from linguarec.models.sasrec_text import SASRecText, SASRecTextConfig
from linguarec.models.shape import CatalogueShape
from linguarec.models.unisrec import UniSRec, UniSRecConfig, UniSRecTransductive
from linguarec.models.vqrec import VQRec, VQRecConfig
from linguarec.nn.encoders import EncoderConfig, SequenceEncoder, build_encoder


@runtime_checkable
class Recommending(Protocol):
    """What the rest of the library asks of a model: score = query . key, for any item that has a key."""

    shape: CatalogueShape
    encoder: SequenceEncoder

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """[N, D] that the sequence encoder reads."""

    def item_keys(self, items: ItemBatch) -> Tensor:
        """[N, Dk] that is scored."""

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        """[T, Dk] one query a position."""

    def finetune_loss(self, batch: SequenceBatch, items: ItemBatch) -> Tensor:
        """Scalar loss of the next items."""


@dataclass(frozen=True)
class ModelEntry:
    """One row of the table: how to build a model and what it reads of an item.

    A model that reads tokens is built from its config alone: it is its own sequence encoder, and no size of it comes from
    the data. `training`: settings of its paper's training, where they differ from those of the other models.
    """

    build: Callable[..., nn.Module]
    config: type[Any]
    reads: Literal["ids", "features", "codes", "ids+features", "tokens"]
    summary: str
    training: Mapping[str, Any] = field(default_factory=dict)


MODELS: dict[str, ModelEntry] = {
    "sasrec": ModelEntry(SASRec, SASRecConfig, "ids", "items by ID, causal Transformer"),
    "sasrec-text": ModelEntry(SASRecText, SASRecTextConfig, "features", "items by text vector, one linear map"),
    "unisrec": ModelEntry(UniSRec, UniSRecConfig, "features", "items by text vector, mixture-of-experts adaptor"),
    "unisrec-transductive": ModelEntry(
        UniSRecTransductive, UniSRecConfig, "ids+features", "UniSRec with ID embeddings"
    ),
    "vqrec": ModelEntry(VQRec, VQRecConfig, "codes", "items by vector-quantised text"),
    "recformer": ModelEntry(
        Recformer,
        RecformerConfig,
        "tokens",
        "items and histories as text, read by a language model",
        {
            "learning_rate": 5e-5,
            "targets_per_step": 128,
            "accumulate": 8,
            "max_epochs": 128,
            "warmup_steps": 100,
            "schedule": "linear",
        },
    ),
}


def build_model(name: str, config: Any, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """A freshly initialised model of the table; draws from torch's default generator. `encoder` is None for models that
    read tokens."""
    if encoder is None:
        return MODELS[name].build(config)
    return MODELS[name].build(config, shape, build_encoder(encoder))
