"""Recommenders that read: text-based, transferable sequential recommendation."""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from linguarec.data.dataset import PreparedDataset
    from linguarec.recommender import Recommender

__version__ = version("linguarec")
__all__ = ["__version__", "load_dataset", "load_model"]


def load_dataset(path: "str | Path") -> "PreparedDataset":
    """Open a prepared dataset folder; arrays are memory-mapped, nothing large is read."""
    from linguarec.data.dataset import PreparedDataset

    return PreparedDataset.open(path)


def load_model(path: "str | Path") -> "Recommender":
    """Open a run folder as a `Recommender`: model, catalogue, encoder reference and codebook."""
    from linguarec.recommender import Recommender

    return Recommender.load(path)
