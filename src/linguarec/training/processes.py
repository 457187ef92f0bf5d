"""The processes of a training: which of them writes files and log messages."""

import os


def is_main_process() -> bool:
    """Whether this process writes the run folder: the only one, or the first of those that Lightning or torchrun started."""
    from torch.distributed import is_torchelastic_launched

    # torchrun counts ranks over all machines; Lightning starts processes only on this machine.
    return int(os.environ.get("RANK" if is_torchelastic_launched() else "LOCAL_RANK", 0)) == 0
