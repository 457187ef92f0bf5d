"""A causal decoder: a Transformer each of whose positions also reads one given vector.

Attention to a single vector is a linear map of it, because the softmax over one key is 1. So is attention to copies of it. The
sub-layer between attention and feed-forward is therefore x <- LayerNorm(x + Dropout(W h + c)).
"""

from typing import ClassVar

from torch import Tensor

from linguarec.nn.encoders import TransformerEncoder


class Decoder(TransformerEncoder):
    """The Transformer with the sub-layer that reads the given vector, causal."""

    reads_memory: ClassVar = True

    def forward(  # type: ignore[override]  # a decoder takes the memory, and is no sequence encoder
        self, inputs: Tensor, memory: Tensor, positions: Tensor, offsets: Tensor, only_last: bool = False
    ) -> Tensor:
        """Item inputs and memory [T, D], positions [T], offsets [B+1] -> states [T, D]; with `only_last` [B, D].

        A state depends on the inputs and the memory of its own position and of earlier ones.
        """
        return self.states(inputs, positions, offsets, only_last, True, memory)
