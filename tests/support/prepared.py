"""What several tests ask of prepared folders and of trainings on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import ItemBatch
from linguarec.catalogue import Catalogue
from linguarec.data.dataset import PreparedDataset
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription, Request, Start
from linguarec.recommender import Recommender
from linguarec.sources.codes import CodeSource
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.ids import IdSource
from linguarec.sources.source import ItemSource
from linguarec.text.cleaning import TextRules
from linguarec.training.settings import TrainingSettings


def tiny_shop(make_dataset: Callable[..., PreparedDataset], features: str | None = "enc") -> PreparedDataset:
    """The first shop of the tiny world as a prepared folder, with vectors of its words, 16 wide, under that name."""
    domain = generate_world(seed=0, domains=1, size=TINY)[0]
    sequences = [domain.sequences[user].tolist() for user in range(len(domain.sequences))]
    texts = [item.text for item in domain.items]
    vectors = None if features is None else {features: word_vectors(texts, 16).astype(np.float32)}
    return make_dataset(sequences, texts=texts, features=vectors)


def catalogue_batch(dataset: PreparedDataset, features: str | None, codes: str | None) -> ItemBatch:
    """All items of a folder by the vectors or the codes of that name; neither: by their rows."""
    if features is not None:
        return EmbeddingSource.stored(dataset, features).catalogue()
    if codes is not None:
        return CodeSource.stored(dataset, codes).catalogue()
    return IdSource(dataset.path, dataset.num_items).catalogue()


def untrained(description: ModelDescription, dataset: PreparedDataset, source: ItemSource) -> Recommender:
    """A recommender of the items of a folder by a model with fresh weights, as a training leaves it."""
    scorer = description.family.scorer(description.build().eval(), description, source, None)
    rules = cast(TextRules, dataset.manifest.text_rules)
    catalogue = Catalogue.of(dataset.items(), dataset.manifest.attributes, rules)
    return Recommender.of_items(scorer, description, catalogue, source)


class HeldItems:
    """Items of one folder from arrays: what `PretrainingLoader` asks of a source."""

    def __init__(
        self,
        num_items: int,
        vectors: npt.NDArray[Any] | None = None,
        codes: npt.NDArray[Any] | None = None,
        draws: Sequence[npt.NDArray[Any]] = (),
    ) -> None:
        self.num_items, self.vectors, self.codes, self.draws = num_items, vectors, codes, draws

    def __len__(self) -> int:
        return self.num_items

    @property
    def num_draws(self) -> int:
        return len(self.draws)

    def part(self, rows: npt.NDArray[np.int64], draws: npt.NDArray[np.int64] | None = None) -> ItemBatch:
        which = np.zeros_like(rows) if draws is None else draws
        features = None if self.vectors is None else np.stack([self.vectors, *self.draws])[which, rows]
        return ItemBatch(
            torch.from_numpy(rows),
            torch.zeros(len(rows), dtype=torch.int64),
            None if features is None else torch.from_numpy(features.astype(np.float32)),
            None if self.codes is None else torch.from_numpy(self.codes[rows].astype(np.int64)),
        )


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
