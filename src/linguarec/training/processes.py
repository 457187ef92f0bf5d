"""The processes of a training: which of them writes and speaks."""

import os


def is_main_process() -> bool:
    """Whether this process writes the run folder: it is alone, or the first of those that Lightning or torchrun started."""
    from torch.distributed import is_torchelastic_launched

    # torchrun counts ranks over all machines; beside the processes that Lightning starts there is no other machine.
    return int(os.environ.get("RANK" if is_torchelastic_launched() else "LOCAL_RANK", 0)) == 0
