"""What several tests ask of prepared folders and of trainings on them."""

from pathlib import Path

from linguarec.batching.batches import ItemBatch
from linguarec.data.dataset import PreparedDataset
from linguarec.families import FAMILIES
from linguarec.families.family import Request, Start
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.ids import IdSource
from linguarec.training.settings import TrainingSettings


def catalogue_batch(dataset: PreparedDataset, features: str | None, codes: str | None) -> ItemBatch:
    """All items of a folder by the vectors or the codes of that name; neither: by their rows."""
    if features is not None:
        return EmbeddingSource.stored(dataset, features).catalogue()
    if codes is not None:
        return CodeSource.stored(dataset, codes).catalogue()
    return IdSource(dataset.path, dataset.num_items).catalogue()


def names_read(
    model: str,
    mode: str | None,
    dataset: PreparedDataset,
    start: Start | None,
    features: str | None = None,
    codes: str | None = None,
) -> tuple[str | None, str | None]:
    """Names of the vectors and of the codes that a fine-tuning with these flags reads."""
    family = FAMILIES[model]
    given = {"mode": mode, "features": features, "codes": codes}
    options = family.options(family.finetuning, given)
    request = Request(
        family, [dataset], start, None, options, TrainingSettings(), "leave-one-out", 1.0, 0, Path("not-written")
    )
    names = family.finetuning.plan(request).source.names
    return names.get("features"), names.get("codes")
