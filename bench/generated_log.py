"""What generated logs have in common: how long users are and how popular items."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

SHORTEST = 5  # interactions of a user
PREPARE = ("--k-core", "0", "--order", "rank", "--duplicates", "keep", "--catalogue", "all")  # keeps every row


def popularity(num_items: int) -> npt.NDArray[np.float64]:
    """Cumulated probabilities [N] of the items: a power law with a flat head."""
    cumulated = np.cumsum(1.0 / (np.arange(num_items) + 50.0) ** 0.8)
    return cumulated / cumulated[-1]


def draw_items(rng: np.random.Generator, cumulated: npt.NDArray[np.float64], number: int) -> npt.NDArray[np.intp]:
    """`number` items by their popularity."""
    return np.searchsorted(cumulated, rng.random(number))


def draw_lengths(rng: np.random.Generator, num_users: int, mean: float) -> npt.NDArray[np.int64]:
    """Interactions [U] of each user: 5 and more, most have few."""
    return SHORTEST - 1 + rng.geometric(1 / (mean - SHORTEST + 1), num_users)


def write_tables(folder: Path, users: int, items: int, seed: int = 0) -> None:
    """`log.parquet` and `items.parquet` for `linguarec prepare table`: users of 11 interactions, items with texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokens import item_tables

    rng = np.random.default_rng(seed)
    lengths = draw_lengths(rng, users, 11)
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    drawn = draw_items(rng, popularity(items), int(lengths.sum()))
    log = {"user_id": np.repeat(np.arange(users), lengths), "timestamp": position}
    pq.write_table(
        pa.table({**log, "item_id": pa.array([f"i{row}" for row in drawn.tolist()])}), folder / "log.parquet"
    )
    catalogue = pa.concat_tables(item_tables(rng, items)).drop_columns(["text"])
    pq.write_table(catalogue.rename_columns({"raw_id": "item_id"}), folder / "items.parquet")
