"""What `linguarec update` checks and decides before it trains: the same shop, what is new, how the new model is judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from linguarec.catalogue import Catalogue
from linguarec.data.dataset import PreparedDataset
from linguarec.data.moments import moment_text
from linguarec.data.splits import TimeCuts
from linguarec.data.splitting import temporal_cuts, times_of
from linguarec.errors import DataFormatError, LinguarecError, SettingsError

LEAST_COMMON = 0.5  # of the smaller of the two catalogues; and of the common items, those with the same text
TEST_SHARE, VALID_SHARE = 1 / 3, 1 / 6  # of the new interactions
MOST_SHARE, LEAST_VALID = 0.1, 0.05  # of all interactions: the most for either, the least for valid (see `new_part`)
_TEXTS_COMPARED = 10_000


@dataclass(frozen=True)
class SharedItems:
    """Items of a run and of newer data: how many are in both, only in the data (`new`), only in the run (`gone`)."""

    common: int
    new: int
    gone: int


def shared_items(run: Path, catalogue: Catalogue, dataset: PreparedDataset) -> SharedItems:
    """Compare the items of a run with those of newer data by raw id; other rows are no difference.

    Raises:
        SettingsError: the data are of another shop: too few ids are common, or the common ids have other texts.
        DataFormatError: the texts of the two were cleaned by different rules.
    """
    entries = catalogue.find(dataset.raw_item_ids)
    rows = np.flatnonzero(entries >= 0)
    found = SharedItems(len(rows), dataset.num_items - len(rows), len(catalogue) - len(rows))
    smaller = max(1, min(len(catalogue), dataset.num_items))
    if found.common < LEAST_COMMON * smaller:
        raise SettingsError(
            [
                f"{dataset.path} is not of the shop of {run}: {found.common:,} of its {dataset.num_items:,} items are among "
                f"the {len(catalogue):,} of the run by raw id, and at least {LEAST_COMMON:.0%} of the smaller number is "
                "expected. Prepare it with the ids that the run knows; for another shop: `linguarec finetune MODEL DATA --from "
                "RUN`"
            ]
        )
    rules = catalogue.text_rules
    if dataset.manifest.text_rules != rules:
        raise DataFormatError(
            f"{dataset.path}: its texts were cleaned by the rules {dataset.manifest.text_rules!r}, those of {run} by "
            f"{rules!r}; prepare it again with --text-rules {rules}."
        )
    compared = rows[np.linspace(0, len(rows) - 1, min(len(rows), _TEXTS_COMPARED)).astype(np.int64)]
    theirs = catalogue.values("text", entries[compared].astype(np.int64))
    same = sum(dataset.texts[row] == text for row, text in zip(compared.tolist(), theirs, strict=True))
    if same < LEAST_COMMON * len(compared):
        raise SettingsError(
            [
                f"{dataset.path} is not of the shop of {run}: of {len(compared):,} items with the same raw id, {same:,} have "
                f"the same text, and at least {LEAST_COMMON:.0%} are expected. Numbers as ids are often those of other items; "
                "prepare the folder with the ids and texts of the run's shop"
            ]
        )
    return found


def trained_until(run: Path, settings: Mapping[str, Any], since: str | None) -> int:
    """Time of the last interaction of the data that a run was trained on, in seconds since 1970.

    Args:
        run: folder of the run.
        settings: its settings.
        since: what the user says, in seconds since 1970 or as date and time (UTC); None = what the run recorded.

    Raises:
        SettingsError: it is not known, or `since` is no time.
    """
    recorded = None if settings.get("data_until") is None else int(settings["data_until"])
    if since is not None:
        said = _seconds(since)
        if recorded is not None and said < recorded:
            raise SettingsError(
                [
                    f"--since {since} is {moment_text(said)}, and {run} was trained on data up to {moment_text(recorded)}: it "
                    "would be judged on what it was trained on; leave --since out, or name a later time"
                ]
            )
        return said
    if recorded is not None:
        return recorded
    try:  # a run of an earlier version
        dataset = PreparedDataset.open(settings["data"])
        known = dataset.last_time if dataset.fingerprint == settings.get("data_fingerprint") else None
    except LinguarecError:
        known = None
    if known is None:
        raise SettingsError(
            [
                f"{run} does not record up to which time it was trained; say it with --since, such as --since "
                "2024-05-31T23:59:59"
            ]
        )
    return known


def _seconds(since: str) -> int:
    """A time that a user wrote, in seconds since 1970; a date is its last second."""
    try:
        if since.isdecimal():
            return int(since)
        moment = datetime.fromisoformat(since)
        seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except ValueError:
        raise SettingsError(
            [f"--since {since!r} is no time; give 2024-05-31, 2024-05-31T23:59:59, or seconds since 1970"]
        ) from None
    return seconds + (86_399 if len(since) == len("2024-05-31") else 0)


@dataclass(frozen=True)
class NewPart:
    """The interactions of newer data that a run was not trained on: `number`, all later than `after`.

    `cuts`: the temporal split that judges the new model.
    """

    after: int
    number: int
    cuts: TimeCuts

    @property
    def split(self) -> str:
        """Name of the split that judges."""
        return self.cuts.split


def new_part(run: Path, dataset: PreparedDataset, after: int, valid_is_new: bool) -> NewPart:
    """Find the new interactions, and cut them: the newest third is test, the sixth before it valid, all before is training.

    Neither test nor valid is more than a tenth of all interactions, as in the split `temporal`. Equal times stay together. With
    few new interactions valid would be too small to fit a repeat term on, so it is at least a twentieth of all interactions,
    unless the model goes on from weights that have seen the older ones (`valid_is_new`).

    Raises:
        DataFormatError: the folder has no times, nothing is new in it, or all of it is new at one time.
    """
    times = times_of(dataset)
    new = int(np.count_nonzero(times > after))
    last = dataset.last_time
    if not new:
        latest = "none" if last is None else moment_text(last)
        raise DataFormatError(
            f"{dataset.path} holds nothing new: its last interaction is of {latest}, and {run} was trained on data up to "
            f"{moment_text(after)}. Prepare a folder with later interactions, or say with --since up to when it was trained."
        )
    share = new / len(times)
    least = 0.0 if valid_is_new else LEAST_VALID
    test, valid = min(MOST_SHARE, TEST_SHARE * share), min(MOST_SHARE, max(least, VALID_SHARE * share))
    cut_valid, cut_test = temporal_cuts(times, valid, test)
    if cut_valid >= cut_test:  # of equal times: the interactions before them are valid
        earlier = times[times < cut_test]
        if not len(earlier):
            raise DataFormatError(
                f"{dataset.path}: all interactions are of one time, so nothing can be judged by time."
            )
        cut_valid = int(np.quantile(earlier, 1 - valid, method="higher"))
    return NewPart(after, new, TimeCuts(cut_valid, cut_test))
