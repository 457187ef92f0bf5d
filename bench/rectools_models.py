"""RecTools' UniSRec, EASE and item-kNN on the sequences of a prepared folder; run by `beside_rectools.py` in an environment
of its own.

Arguments: an .npz with `items`, `offsets` (training sequences), `histories`, `history_offsets`, `users` (of the test targets,
one a user) and `vectors` [N, D]; the epochs of UniSRec; the .npz to write, with the best items of each history for each model
[histories, k], items of the history among them; the clock of the module `time`. Prints one JSON object: for each model
the seconds of its fit (of UniSRec: of each epoch), of the best 10 for all users without their histories, and the peak
memory in GiB after it.
"""

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from implicit.nearest_neighbours import CosineRecommender
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset, IdMap, Interactions
from rectools.fast_transformers.unisrec import UniSRecModel
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel

warnings.filterwarnings("ignore")
K, LENGTH, USERS_AT_ONCE = 10, 50, 512
source, epochs, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
clock = getattr(time, sys.argv[4])
with np.load(source) as stored:
    items, offsets, users = stored["items"], stored["offsets"], stored["users"]
    histories, history_offsets, vectors = stored["histories"], stored["history_offsets"], stored["vectors"]
longest = int(np.diff(history_offsets).max())
results: dict[str, dict[str, Any]] = {}
best: dict[str, Any] = {}


def log_of(names: Any, values: Any, starts: Any) -> pd.DataFrame:
    lengths = np.diff(starts)
    return pd.DataFrame(
        {
            Columns.User: np.repeat(names, lengths),
            Columns.Item: values,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(values)), unit="s"),
        }
    )


def record(name: str, seconds: list[float], recommend: Callable[[int, bool], Any]) -> None:
    """Time the best 10 of all users without their histories, and keep as many as any history may hide, with them."""
    started = clock()
    recommend(K, True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results[name] = {
        "seconds": seconds,
        "recommend_seconds": clock() - started,
        "peak_memory_gib": peak,
    }
    best[name] = recommend(K + longest, False)


# The two without gradients: RecTools' own data sets, in which all items have their rows.
user_map, item_map = IdMap.from_values(np.arange(len(offsets) - 1)), IdMap.from_values(np.arange(len(vectors)))
trained, asked = (
    Dataset(user_map, item_map, Interactions.from_raw(log, user_map, item_map))
    for log in (log_of(np.arange(len(offsets) - 1), items, offsets), log_of(users, histories, history_offsets))
)
for name, model in (
    ("ease", EASEModel(regularization=400.0, recommend_n_threads=1)),
    ("itemknn", ImplicitItemKNNWrapperModel(CosineRecommender(K=100, num_threads=1))),
):
    started = clock()
    model.fit(trained)
    seconds = clock() - started

    def table(k: int, hide: bool, model: Any = model) -> Any:
        found = model.recommend(users, asked, k=k, filter_viewed=hide)
        rows = np.full((len(users), k), -1)
        rows[np.searchsorted(users, found[Columns.User]), found[Columns.Rank] - 1] = found[Columns.Item]
        return rows

    record(name, [seconds], table)

epoch_seconds: list[float] = []


class Clock(Callback):
    """Seconds of each training epoch."""

    def on_train_epoch_start(self, trainer: Trainer, module: object) -> None:
        self.started = clock()

    def on_train_epoch_end(self, trainer: Trainer, module: object) -> None:
        epoch_seconds.append(clock() - self.started)


class Timed(UniSRecModel):
    """Its trainer, with a clock and on the CPU."""

    def _make_trainer(self, max_epochs: int, val_dl: Any = None) -> Trainer:
        trainer = super()._make_trainer(max_epochs, val_dl)
        trainer.callbacks.append(Clock())
        return trainer


padded = torch.cat([torch.zeros(1, vectors.shape[1]), torch.from_numpy(vectors).float()])  # items from 1 on
unisrec = Timed(
    padded, n_factors=300, n_blocks=2, session_max_len=LENGTH, loss="softmax", epochs=epochs, batch_size=128
)
torch.manual_seed(0)
of_user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
unisrec.fit(torch.from_numpy(of_user), torch.from_numpy(items.astype(np.int64) + 1), torch.arange(len(items)))


def predicted(k: int, hide: bool) -> Any:
    """Its own top-k; it does not leave the history out, so there are enough of them to do so afterwards."""
    wanted = k + LENGTH if hide else k
    rows = []
    for start in range(0, len(users), USERS_AT_ONCE):
        stop = min(start + USERS_AT_ONCE, len(users))
        table = np.zeros((stop - start, LENGTH), dtype=np.int64)
        for row, user in enumerate(range(start, stop)):
            history = histories[history_offsets[user] : history_offsets[user + 1]][-LENGTH:]
            table[row, LENGTH - len(history) :] = history + 1
        inputs = unisrec.map_item_ids(torch.from_numpy(table))
        _, found = unisrec.predict_topk(inputs, min(wanted, len(unisrec.item_id_mapping)))
        rows.append(found.numpy() - 1)
    return np.concatenate(rows)


record("unisrec", epoch_seconds, predicted)
np.savez(output, **best)
print(json.dumps(results))
