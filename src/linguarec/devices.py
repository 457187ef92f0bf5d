"""Device selection for everything but training."""

from pathlib import Path
from typing import TYPE_CHECKING

from linguarec.errors import SettingsError
from linguarec.processes import place_on_machine, started_together

if TYPE_CHECKING:
    import torch


def device_for(asked: str | None) -> "torch.device":
    """The requested device ("cpu", "cuda", "cuda:1"); None = a GPU if there is one, else the CPU.

    Processes that torchrun started on one machine get its GPUs in turn.

    Raises:
        SettingsError: this machine has no such device.
    """
    import torch

    if asked is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if started_together() == 1:
            return torch.device("cuda")
        return torch.device("cuda", place_on_machine() % torch.cuda.device_count())
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SettingsError([f"--device {asked}: expected cpu or cuda"])
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError([f"--device {asked}: torch finds {torch.cuda.device_count()} GPUs here; take cpu"])
    return device


def device_of(accelerator: str) -> "torch.device":
    """The device for computations after a training with this `training.accelerator`."""
    return device_for("cpu" if accelerator == "cpu" else None)


def multiplies_bf16(device: str) -> bool:
    """Whether the processor ("cpu") or the GPU ("cuda") has native bfloat16 matrix products."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return (
        device == "cpu" and flags.is_file() and any(flag in flags.read_text() for flag in (" avx512_bf16", " amx_bf16"))
    )
