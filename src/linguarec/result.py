"""Results of commands: frozen dataclasses that can be read like dictionaries, too."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, Self


class Result(Mapping[str, Any]):
    """Base of the results of commands, each of them a dataclass with `frozen=True, eq=False, repr=False, kw_only=True`.

    `result.seconds` and `result["seconds"]` are the same. The key of a field is its name without a trailing underscore, which
    stands where the name is a keyword or a method of mappings: `result.items_` is `result["items"]`. A field whose default is
    None holds what only some results have; where it is None, the mapping lacks its key.
    """

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Self:
        """The result with these values, by key."""
        names = {_key(each.name): each.name for each in fields(cls)}  # type: ignore[arg-type]
        return cls(**{names.get(key, key): value for key, value in values.items()})

    @classmethod
    def of_later_process(cls) -> Self:
        """What a command returns in the processes that work beside the first: no field is set, and it is false."""
        return object.__new__(cls)

    def to_dict(self) -> dict[str, Any]:
        """The values by key, in the order of the fields, as `--json` prints them."""
        return dict(self)

    def __getitem__(self, key: str) -> Any:
        return self.__dict__[self._names()[key]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        lines = self._lines() if self else ["(the result is with the first process)"]
        return "\n  ".join([type(self).__name__, *lines])

    @abstractmethod
    def _lines(self) -> list[str]:
        """The figures that matter most, in a few lines."""

    def _names(self) -> dict[str, str]:
        """Key -> name of each field that this result has."""
        found = {}
        for each in fields(self):  # type: ignore[arg-type]
            value = self.__dict__.get(each.name, MISSING)
            if value is not MISSING and not (value is None and each.default is None):
                found[_key(each.name)] = each.name
        return found


def _key(name: str) -> str:
    return name.removesuffix("_")


def metrics_line(metrics: Mapping[str, float]) -> str:
    """Metrics in a line.

    >>> metrics_line({"recall@10": 0.12346, "ndcg@10": 0.1})
    'recall@10 0.1235, ndcg@10 0.1000'
    """
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
