"""RecTools' SASRec on the sequences of a prepared folder; run by `train.py` in an environment of its own.

Arguments: an .npz with `items`, `offsets` (training sequences) and `targets` (valid item of each, -1 = none), the number of
epochs, the users of a step. Prints one JSON object: for each epoch its seconds, the seconds to rank the catalogue for
every user and the valid ndcg@10; and the peak memory in GiB.
"""

import json
import resource
import sys
import time
import warnings

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet

warnings.filterwarnings("ignore")
file, epochs, users_a_step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with np.load(file) as stored:
    items, offsets, targets = stored["items"], stored["offsets"], stored["targets"]
lengths = np.diff(offsets)
log = pd.DataFrame(
    {
        Columns.User: np.repeat(np.arange(len(lengths)), lengths),
        Columns.Item: items,
        Columns.Weight: 1.0,
        Columns.Datetime: pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(items)), unit="s"),
    }
)
dataset = Dataset.construct(log)
epoch_seconds: list[float] = []


class Clock(Callback):
    """Seconds of each training epoch."""

    def on_train_epoch_start(self, trainer: Trainer, module: object) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: object) -> None:
        epoch_seconds.append(time.perf_counter() - self.started)


def trainer() -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    )


model = SASRecModel(
    n_blocks=2,
    n_heads=2,
    n_factors=300,
    session_max_len=50,
    dropout_rate=0.5,
    loss="softmax",
    lr=0.001,
    batch_size=users_a_step,
    epochs=epochs,
    train_min_user_interactions=2,
    item_net_block_types=(IdEmbeddingsItemNet,),
    get_trainer_func=trainer,
    recommend_torch_device="cpu",
)
asked = np.flatnonzero(targets >= 0)
ndcg, evaluation_seconds = [], []
for _ in range(epochs):
    model.fit_partial(dataset, min_epochs=1, max_epochs=1)
    started = time.perf_counter()
    top = model.recommend(asked, dataset, k=10, filter_viewed=False)
    evaluation_seconds.append(time.perf_counter() - started)
    hits = top[top[Columns.Item].to_numpy() == targets[top[Columns.User].to_numpy()]]
    ndcg.append(float((1 / np.log2(1 + hits[Columns.Rank])).sum() / len(asked)))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
result = {"epoch_seconds": epoch_seconds, "evaluation_seconds": evaluation_seconds, "valid_ndcg": ndcg}
print(json.dumps({**result, "peak_memory_gib": peak}))
