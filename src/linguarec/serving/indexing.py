"""Approximate ranking in the service: the index of a run's items, kept beside the run."""

import logging
import time
from pathlib import Path

from linguarec.errors import CheckpointMismatchError, OutputError
from linguarec.ranking.approximate import ApproximateRanker
from linguarec.recommender import Recommender

log = logging.getLogger(__name__)


def rank_approximately(recommender: Recommender, folder: Path) -> None:
    """Let a recommender search an index of its items: the one beside the run folder if it fits the items, else a new one.

    The run folder itself is not written to. Where the file cannot be written, the index is built again at the next start.

    Args:
        recommender: of a run that was just opened.
        folder: of the run; the index is NAME.index.npz beside it.

    Raises:
        SettingsError: the items of this model are no vectors.
    """
    dense = recommender.snapshot.dense
    file = folder.absolute().with_name(f"{folder.absolute().name}.index.npz")
    try:
        index = ApproximateRanker.load(file, dense)
    except CheckpointMismatchError as reason:
        if file.exists():
            log.info("the index is built again: %s", reason)
        started = time.perf_counter()
        index = ApproximateRanker.build(dense)
        log.info("an index of %d items was built in %.1f seconds", len(dense), time.perf_counter() - started)
        try:
            index.save(file)
        except OutputError as error:
            log.warning("the index is not kept, each start builds it again: %s", error)
    recommender.snapshot = recommender.snapshot.changed(ranker=index)
