"""What a training is measured by, and where its record stands."""

import resource
import sys

Metrics = dict[str, float]
MONITOR = "ndcg@10"
CURVE_FILE = "metrics.csv"  # one row per epoch


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
