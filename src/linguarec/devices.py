"""Where work that is no training is done."""

from typing import TYPE_CHECKING

from linguarec.errors import SettingsError

if TYPE_CHECKING:
    import torch


def device_for(asked: str | None) -> "torch.device":
    """The device that was asked for ("cpu", "cuda", "cuda:1"), or a GPU where there is one.

    Raises:
        SettingsError: there is no such device here.
    """
    import torch

    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise SettingsError([f"--device {asked}: expected cpu or cuda"]) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError([f"--device {asked}: torch finds {torch.cuda.device_count()} GPUs here; take cpu"])
    return device
