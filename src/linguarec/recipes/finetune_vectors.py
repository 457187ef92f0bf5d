"""Fine-tuning of a model that reads items by ID, vector or code, piece by piece; `finetune` puts the pieces together."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.catalogue import catalogue_batch, load_codes
from linguarec.batching.loader import TrainingLoader
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.hub.pretrained import WEIGHTS_FILE, ModelDescription, load_weights, save_pretrained
from linguarec.models.shape import CatalogueShape
from linguarec.models.vqrec import VQRec
from linguarec.nn.permutation import reorder
from linguarec.recipes.runs import valid_of, write_results
from linguarec.recipes.training_data import TrainingData
from linguarec.recommender import Recommender
from linguarec.training.fit import FitResult, fit
from linguarec.training.module import FineTuning
from linguarec.training.permutation import learn_permutation
from linguarec.training.settings import PermutationSettings, TrainingSettings


@dataclass(frozen=True, eq=False)
class FineTuningInputs:
    """What a fine-tuning reads of a folder.

    `items`: the whole catalogue with the vectors `features` and the codes `codes`, each None where the model reads none.
    `read`: training sequences and valid cases.
    """

    dataset: PreparedDataset
    features: str | None
    codes: str | None
    items: ItemBatch
    read: TrainingData
    max_length: int

    @classmethod
    def of(
        cls,
        dataset: PreparedDataset,
        features: str | None,
        codes: str | None,
        split: str,
        users: float,
        valid_users: int,
        seed: int,
        max_length: int,
    ) -> "FineTuningInputs":
        """The parts of `split`; arguments as of `TrainingData.of`.

        Raises:
            DataFormatError: there is nothing to learn from, or vectors or codes cannot be read.
            StaleFeaturesError: vectors or codes do not belong to the catalogue.
        """
        items = catalogue_batch(dataset, features, codes)
        read = TrainingData.of(dataset, split, users, valid_users, seed, max_length)
        return cls(dataset, features, codes, items, read, max_length)

    @property
    def shape(self) -> CatalogueShape:
        """Sizes of the catalogue that a model is built for."""
        return CatalogueShape(
            self.dataset.num_items,
            None if self.items.features is None else self.items.features.shape[1],
            None if self.items.codes is None else self.items.codes.shape[1],
            None if self.codes is None else load_codes(self.dataset, self.codes).book.num_centroids,
        )

    @cached_property
    def known(self) -> npt.NDArray[np.int32]:
        """Rows of the items that occur in training, ascending. The softmax is over them.

        The others could only ever be negatives: a model would learn to rank them last whatever their text says.
        """
        known: npt.NDArray[np.int32] = np.unique(self.read.sequences.values)
        return known

    def candidates(self) -> ItemBatch:
        """The items of the softmax."""
        return self.items.select(torch.from_numpy(self.known).long())

    def loader(self, training: TrainingSettings, seed: int) -> TrainingLoader:
        """The training steps, whose items are rows of `candidates`.

        Raises:
            SettingsError: a step of that size cannot be.
        """
        sequences = self.read.sequences
        targets = np.searchsorted(self.known, sequences.values).astype(np.int32)
        per_step, stride = training.targets_per_step // training.accumulate, training.window_stride or None
        return TrainingLoader(targets, sequences.offsets, self.max_length, per_step, stride, seed)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the valid cases."""
        return evaluate_model(model, self.items, self.read.valid, device=next(model.parameters()).device).means()


@dataclass(frozen=True)
class Trained:
    """What the stages came to. `permutation`: of the stage that learned one, else None."""

    result: FitResult
    permutation: dict[str, Any] | None

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return self.result.seconds + float((self.permutation or {}).get("seconds", 0.0))


def train(
    network: nn.Module,
    description: ModelDescription,
    inputs: FineTuningInputs,
    steps: TrainingLoader,
    training: TrainingSettings,
    permutation: PermutationSettings | None,
    seed: int,
    output: Path,
    resume: bool,
) -> Trained:
    """Train `network` in place, in one stage or two; the best weights are in `output` then.

    Args:
        network: new, or with the weights of a start.
        description: of the network.
        inputs: what is read.
        steps: of the last stage.
        training: settings of the training.
        permutation: settings of the stage before, which learns a permutation of each code book; None = there is none.
        seed: of all random draws.
        output: run folder.
        resume: take up what it holds.
    """
    candidates, stage = inputs.candidates(), None
    if permutation is not None:
        assert isinstance(network, VQRec)
        first_steps = inputs.loader(training, seed)
        order, stage = learn_permutation(
            network, candidates, first_steps, training, permutation, seed, output, inputs.validate, resume
        )
        with torch.no_grad():
            network.codes.weight.copy_(reorder(network.codes.weight, order))
    result = fit(
        FineTuning(network, candidates, steps, training, seed),
        output,
        inputs.validate,
        save_best=lambda current: save_pretrained(current, description, output),
        resume=resume,
    )
    return Trained(result, stage)


def finish(
    network: nn.Module,
    description: ModelDescription,
    inputs: FineTuningInputs,
    trained: Trained,
    split: str,
    seed: int,
    output: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Make the run folder usable on its own, with the best weights; test them, and write and show the metrics."""
    dataset, result = inputs.dataset, trained.result
    network = network.cpu()
    load_weights(network, output / WEIGHTS_FILE)
    network.eval()
    recommender = Recommender.from_training(network, description, dataset, inputs.items, inputs.features, inputs.codes)
    recommender.save(output)
    cases = evaluation_cases(dataset.sequences, dataset.roles(split), "test", inputs.max_length)
    metrics = {
        "run": str(output),
        "model": description.name,
        "seed": seed,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds": round(trained.seconds, 1),
        **({} if trained.permutation is None else {"permutation": trained.permutation}),
        "valid": valid_of(result.history, result.best_epoch),
        "test": evaluate_model(network.to(device), inputs.items, cases, device=device).means(),
    }
    write_results(output, description.name, dataset.name, metrics)
    return metrics
