"""The loss of next-item models, over all items or over a sample of them."""

from torch import Tensor

from linguarec.batching.batches import SequenceBatch
from linguarec.nn.losses import calibrated_binary_cross_entropy, catalogue_cross_entropy


def next_item_loss(queries: Tensor, keys: Tensor, batch: SequenceBatch) -> Tensor:
    """Mean loss of the targets of a batch, without the pairs `batch.excluded`.

    Cross-entropy over the keys where they are all classes; where they are a sample (`batch.sample`), the sampled softmax with
    the logQ correction, or gBCE.

    Args:
        queries: [T, D], one for each of `batch.targets`.
        keys: [K, D] of the items of the batch.
        batch: targets, excluded pairs, and what the keys are.

    Returns:
        A scalar; 0 if there are no targets.
    """
    sample = batch.sample
    if sample is None:
        return catalogue_cross_entropy(queries, keys, batch.targets, excluded=batch.excluded)
    if sample.calibration is None:
        return catalogue_cross_entropy(queries, keys, batch.targets, sample.log_weights, batch.excluded)
    beta = 1 - sample.calibration * (1 - sample.share)
    return calibrated_binary_cross_entropy(queries, keys, batch.targets, sample.drawn, beta, batch.excluded)
