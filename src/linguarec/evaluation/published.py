"""Values from the papers, for comparison; only for the same split of the same data."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from linguarec.errors import DataFormatError


@dataclass(frozen=True)
class PublishedValue:
    """One number of a paper. `system`: the paper's name of the system; `pretrained`: whether it was pre-trained."""

    metric: str
    value: float
    system: str
    pretrained: bool
    source: str


def published_values(counts: Mapping[str, int], split: str) -> dict[str, list[PublishedValue]]:
    """Published test values by linguarec's model name, for the data set with exactly these counts; empty for any other.

    Values of systems that linguarec does not have are under the empty name. A model may have those of several systems.

    A data set is identified by its numbers of users, items and interactions, not by the name of its folder: other subsets of
    the same shop have the same name, but their values are not comparable.

    Args:
        counts: `users`, `items` and `interactions` of the prepared folder.
        split: name of the split; all published values are of "leave-one-out".
    """
    found: dict[str, list[PublishedValue]] = {}
    if split != "leave-one-out":
        return found
    with resources.files(__package__).joinpath("published.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if all(int(row[name]) == counts.get(name) for name in ("users", "items", "interactions")):
                value = PublishedValue(
                    row["metric"], float(row["value"]), row["system"], _flag(row["pretrained"]), row["source"]
                )
                found.setdefault(row["model"], []).append(value)
    return found


def _flag(word: str) -> bool:
    if word not in ("yes", "no"):
        raise DataFormatError(f"published.csv: pretrained is {word!r}, expected yes or no.")
    return word == "yes"
