"""What a training is measured by, and where its record stands."""

Metrics = dict[str, float]
MONITOR = "ndcg@10"
CURVE_FILE = "metrics.csv"  # one row per epoch


def before_valid(exclude_history: bool) -> str:
    """What stands before valid metrics in a line of the log."""
    return "valid, history excluded," if exclude_history else "valid"
