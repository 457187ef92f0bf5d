"""The network of the first stage of VQ-Rec's fine-tuning: it learns which pre-trained embedding each new code takes.

A codebook that is fitted on a new domain numbers its centroids differently, so the pre-trained code embeddings do not fit its
codes. All pre-trained weights are frozen, and a permutation of each codebook's embeddings is learned with the next-item loss
(`linguarec.families.vqrec.code_permutation`). In evaluation mode the model equals a `VQRec` with re-ordered embeddings.
"""

from torch import Tensor
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch
from linguarec.families.vqrec.code_permutation import CodePermutation
from linguarec.families.vqrec.model import VQRec
from linguarec.nn.cosine import CosineRecommender


class PermutedVQRec(CosineRecommender):
    """A frozen pre-trained VQ-Rec with a learned permutation. `model` becomes a part of it, and its parameters are frozen."""

    def __init__(self, model: VQRec, temperature: float, rounds: int) -> None:
        super().__init__(model.config, model.shape, model.encoder)
        self.codes = model.codes
        self.requires_grad_(False)
        self.permutation = CodePermutation(*model.shape.needs_codes(), temperature, rounds)

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors [N, D], the inputs of the sequence encoder."""
        assert items.codes is not None
        table: Tensor = self.permutation(self.codes.weight)
        return F.embedding_bag(items.codes + self.codes.base, table, mode="mean")
