"""What a training is measured by, and where its record stands."""

Metrics = dict[str, float]
MONITOR = "ndcg@10"
CURVE_FILE = "metrics.csv"  # one row per epoch
