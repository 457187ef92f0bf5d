"""Answers of the service as `linguarec.client` types them: dictionaries with these keys."""

from typing import NotRequired, TypedDict

Attributes = dict[str, str | float | None]


class Reason(TypedDict):
    """An item of the history, and its share in a recommendation."""

    raw_id: str
    share: float


class Recommendation(TypedDict):
    """One recommended item."""

    rank: int
    score: float
    raw_id: str
    title: str
    attributes: Attributes
    trained: bool
    reasons: NotRequired[list[Reason]]
    parts: NotRequired[dict[str, float]]


class Version(TypedDict):
    """What answered: the run, and the last live change that it knows of."""

    run: str
    sequence: int


class RecommendAnswer(TypedDict):
    """The best items for each history or user, and the unknown ids of each."""

    recommendations: list[list[Recommendation]]
    unknown: list[list[str]]
    model: Version


class SimilarAnswer(TypedDict):
    """The most similar items of each item, or of the text."""

    recommendations: list[list[Recommendation]]
    unknown: list[str]
    model: Version


class Refused(TypedDict):
    """An item that was not taken."""

    row: int
    raw_id: str | None
    reason: str


class ItemsAnswer(TypedDict):
    """How many items were taken, and why others were not."""

    upserted: int
    refused: list[Refused]
    sequence: int


class RemovalAnswer(TypedDict):
    """The item is removed."""

    removed: str
    sequence: int


class ItemView(TypedDict):
    """An item of the catalogue."""

    raw_id: str
    title: str
    attributes: Attributes
    text: str
    trained: bool


class ItemsView(TypedDict):
    """Items of the catalogue, and how many fit the query."""

    items: list[ItemView]
    total: int


class EventsAnswer(TypedDict):
    """The events are in the state."""

    accepted: int
    repeated: bool
    unknown: list[str]


class ReloadAnswer(TypedDict):
    """What is served now, and what became of the live changes."""

    run: str
    items: int
    same_catalogue: bool
    applied: dict[str, int]
    left_out: dict[str, str]
    seconds: float


class ModelAnswer(TypedDict):
    """What is served."""

    run: str
    model: str
    description: str
    sequence: int
    items: int
    trained_items: int
    attributes: list[str]
    number_attributes: list[str]
    takes_new_items: bool
    approximate: bool
    encoder: str | None
    learned_repeats: bool
    metrics: dict[str, dict[str, float]]
    state: dict[str, int] | None
    left_out: dict[str, str]
    versions: dict[str, str]
    loaded: float
