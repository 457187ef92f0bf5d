"""Bounds of the sizes in a config file, by the weights beside it, so that no network of 10^7 layers is built."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from linguarec.errors import LinguarecError
from linguarec.regular import check_regular

_LAYERS = ("layers", "num_layers", "num_hidden_layers", "n_layer", "n_layers", "num_hidden_groups")
_BYTES_A_TENSOR = 50  # at least, in a file of torch.save


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, by name; no tensor is read.

    Raises:
        SafetensorError, OSError: it is not such a file.
    """
    with safe_open(file, "pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def check_sizes(
    sizes: Mapping[str, Any], described: Path, weights: Sequence[Path], error: Callable[[str], LinguarecError]
) -> None:
    """Refuse a number of layers above that of the tensors in the files `weights`, and other sizes above that of their numbers.

    Args:
        sizes: by name; what is no integer is left out.
        described: file with the sizes, for the message.
        weights: safetensors files, or others, of which only the size is looked at.
        error: the class to raise.

    Raises:
        SafetensorError, OSError: a safetensors file cannot be read.
    """
    tensors = numbers = 0
    for file in weights:
        check_regular(file, error)
        if file.suffix == ".safetensors":
            shapes = shapes_in(file)
            tensors, numbers = tensors + len(shapes), numbers + sum(map(math.prod, shapes.values()))
        else:
            length = file.stat().st_size
            tensors, numbers = tensors + length // _BYTES_A_TENSOR, numbers + length
    for name, value in sizes.items():
        bound, what = (tensors, "tensors") if name in _LAYERS else (numbers, "numbers")
        if type(value) is int and value > bound:
            raise error(
                f"{described} states {name} {value:,}, but the weights beside it hold {bound:,} {what}: they do not belong "
                "together. Copy the folder again."
            )
