"""The first stage of VQ-Rec's fine-tuning: whose embedding each code of a new codebook takes.

A codebook that is fitted on a new domain numbers its centroids anew, so the pre-trained code embeddings do not fit its codes.
Here everything pre-trained is fixed and a permutation of each book's embeddings is learned by the loss of the next items
(`linguarec.families.vqrec.code_permutation`). In evaluation mode the model equals the `VQRec` with the re-ordered embeddings.
"""

from torch import Tensor
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch
from linguarec.families.vqrec.code_permutation import CodePermutation
from linguarec.families.vqrec.model import VQRec
from linguarec.nn.cosine import CosineRecommender


class PermutedVQRec(CosineRecommender):
    """A pre-trained VQ-Rec, fixed, under a permutation that learns. `model` is taken over and its parameters are fixed."""

    def __init__(self, model: VQRec, temperature: float, rounds: int) -> None:
        super().__init__(model.config, model.shape, model.encoder)
        self.codes = model.codes
        self.requires_grad_(False)
        self.permutation = CodePermutation(*model.shape.needs_codes(), temperature, rounds)

    def item_inputs(self, items: ItemBatch) -> Tensor:
        """Item vectors [N, D] that the history is made of."""
        assert items.codes is not None
        table: Tensor = self.permutation(self.codes.weight)
        return F.embedding_bag(items.codes + self.codes.base, table, mode="mean")
