"""Recommenders that read: text-based, transferable sequential recommendation.

The functions here are those behind the commands of the same names, and those that open and share runs. Each is imported when it
is first used, so that `import linguarec` loads no heavy library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from linguarec.commands.compare import compare
    from linguarec.commands.encode import encode
    from linguarec.commands.evaluate import evaluate
    from linguarec.commands.finetune import finetune
    from linguarec.commands.prepare import prepare_append, prepare_table
    from linguarec.commands.pretrain import pretrain
    from linguarec.commands.quantize import quantize
    from linguarec.commands.tokenize import tokenize
    from linguarec.data.dataset import PreparedDataset
    from linguarec.errors import (
        CheckpointMismatchError,
        DataFormatError,
        FilterError,
        LinguarecError,
        LostProcessError,
        OutputError,
        ServiceError,
        SettingsError,
        StaleFeaturesError,
        StateError,
        UnknownItemError,
    )
    from linguarec.hub import from_pretrained, push_to_hub, save_pretrained
    from linguarec.nn.encoders import TransformerConfig
    from linguarec.recommender import Recommender
    from linguarec.training.settings import TrainingSettings

__version__: str
__all__ = [
    "CheckpointMismatchError",
    "DataFormatError",
    "FilterError",
    "LinguarecError",
    "LostProcessError",
    "OutputError",
    "Recommender",
    "ServiceError",
    "SettingsError",
    "StaleFeaturesError",
    "StateError",
    "TrainingSettings",
    "TransformerConfig",
    "UnknownItemError",
    "__version__",
    "compare",
    "encode",
    "evaluate",
    "finetune",
    "from_pretrained",
    "load_dataset",
    "load_model",
    "prepare_append",
    "prepare_table",
    "pretrain",
    "push_to_hub",
    "quantize",
    "save_pretrained",
    "tokenize",
]

_MODULES = {
    "Recommender": "linguarec.recommender",
    "TrainingSettings": "linguarec.training.settings",
    "TransformerConfig": "linguarec.nn.encoders",
    "compare": "linguarec.commands.compare",
    "encode": "linguarec.commands.encode",
    "evaluate": "linguarec.commands.evaluate",
    "finetune": "linguarec.commands.finetune",
    "from_pretrained": "linguarec.hub",
    "prepare_append": "linguarec.commands.prepare",
    "prepare_table": "linguarec.commands.prepare",
    "pretrain": "linguarec.commands.pretrain",
    "push_to_hub": "linguarec.hub",
    "quantize": "linguarec.commands.quantize",
    "save_pretrained": "linguarec.hub",
    "tokenize": "linguarec.commands.tokenize",
}


def load_dataset(path: "str | Path") -> "PreparedDataset":
    """Open a prepared dataset folder; arrays are memory-mapped, nothing large is read."""
    from linguarec.data.dataset import PreparedDataset

    return PreparedDataset.open(path)


def load_model(path: "str | Path") -> "Recommender":
    """Open a run folder as a `Recommender`: model, catalogue, encoder reference and codebook."""
    from linguarec.recommender import Recommender

    return Recommender.load(path)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'linguarec' has no attribute {name!r}")
    found: Any
    if name == "__version__":
        found = importlib.import_module("importlib.metadata").version("linguarec")
    else:
        found = getattr(importlib.import_module(_MODULES.get(name, "linguarec.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
