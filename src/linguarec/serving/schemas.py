"""Bodies of the API's calls and answers. They are the OpenAPI document, and requests are checked by them."""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from linguarec.filters import LONGEST
from linguarec.values import LIST_SEPARATOR

ID_CHARACTERS = 500  # of four bytes at most: the state takes 2,000
TEXT_CHARACTERS = 100_000
VECTOR_LENGTH = 16_384

Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARACTERS)]
# Of what is stored: databases know no text with the character of code 0.
StoredId = Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARACTERS, pattern=r"^[^\x00]+$")]
Text = Annotated[str, StringConstraints(max_length=TEXT_CHARACTERS)]
FilterText = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
Whole = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Attribute = Text | Whole | FiniteFloat | list[Text] | None
Seen = bool | Literal["learned"]


class Asked(BaseModel):
    """A body of a request: of exactly these fields, whose values are of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class RecommendRequest(Asked):
    """Histories, or users whose histories are stored, to recommend items for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"histories": [["K0001", "K0002"]], "k": 5},
                {"users": ["u7", "u8"], "k": 10, "exclude_seen": False},
                {"histories": [["K0001"]], "filters": 'brand == "Acme" and price <= 20', "explain": True},
            ]
        }
    )

    histories: list[list[Id]] | None = Field(
        default=None,
        min_length=1,
        description="Raw ids of the items of each history, oldest first. Unknown ids are left out; the list of a history "
        "without a known one is empty.",
    )
    users: list[StoredId] | None = Field(
        default=None, min_length=1, description="Users; the history of each is the one that is stored."
    )
    k: int = Field(default=10, ge=1, description="How many items to recommend for each.")
    exclude_seen: Seen = Field(
        default=True,
        description="true: items of the history are not recommended; false: they are candidates like the others; "
        "'learned': they are, and the repeat term of the run is added to their scores.",
    )
    within: Annotated[list[Id], Field(min_length=1)] | None = Field(
        default=None, description="The only candidates, by raw id; null: all items."
    )
    filters: FilterText | None = Field(
        default=None,
        description='Condition on attributes that candidates fulfil: `brand == "Acme" and price <= 20`, with `in`, `not`, '
        "`and`, `or`, brackets.",
    )
    explain: bool = Field(
        default=False, description="Also say which items of the history, and which parts of a blend, give the score."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "RecommendRequest":
        if (self.histories is None) == (self.users is None):
            raise ValueError("give either histories or users, and not both")
        return self

    @property
    def asked(self) -> int:
        """For how many histories it asks."""
        return len(self.histories or self.users or ())


class Reason(BaseModel):
    """An item of the history, and its share in a recommendation."""

    raw_id: str
    share: float


class Recommendation(BaseModel):
    """One recommended item. `score` orders the items of one history and means nothing across histories."""

    rank: int = Field(description="From 1.")
    score: float
    raw_id: str
    title: str
    attributes: dict[str, str | float | None]
    trained: bool = Field(description="Whether the run was trained on it; else it was added since.")
    reasons: list[Reason] | None = Field(
        default=None, description="With `explain`: items of the history, largest share first."
    )
    parts: dict[str, float] | None = Field(
        default=None,
        description="With `explain`: amounts that sum to the score, of each model of a blend, and of the repeat term.",
    )


class Version(BaseModel):
    """What answered."""

    run: str = Field(description="Name of the run's folder.")
    sequence: int = Field(description="Number of the last live change that the answer knows of.")


class RecommendAnswer(BaseModel):
    """The best items for each history or user, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "recommendations": [
                        [
                            {
                                "rank": 1,
                                "score": 3.25,
                                "raw_id": "K0117",
                                "title": "Walnut cake stand",
                                "attributes": {"title": "Walnut cake stand", "brand": "Acme"},
                                "trained": True,
                            }
                        ]
                    ],
                    "unknown": [["K9999"]],
                    "model": {"run": "shop", "sequence": 12},
                }
            ]
        }
    )

    recommendations: list[list[Recommendation]]
    unknown: list[list[str]] = Field(description="Of each history, the ids that are not in the catalogue.")
    model: Version


class SimilarRequest(Asked):
    """Items, or one text, to find similar items for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": ["K0001"], "k": 5},
                {"text": "a small digital caliper"},
                {"text": {"title": "Digital caliper", "brand": "Acme"}},
            ]
        }
    )

    items: list[Id] | None = Field(default=None, min_length=1, description="Raw ids; each gets its own list.")
    text: Text | dict[str, Attribute] | None = Field(
        default=None, description="A text, or the attributes of an item that is not in the catalogue."
    )
    k: int = Field(default=10, ge=1, description="How many items to find for each.")
    within: Annotated[list[Id], Field(min_length=1)] | None = Field(default=None, description="As of /v1/recommend.")
    filters: FilterText | None = Field(default=None, description="As of /v1/recommend.")

    @model_validator(mode="after")
    def _one_of_both(self) -> "SimilarRequest":
        if (self.items is None) == (self.text is None):
            raise ValueError("give either items or a text, and not both")
        return self


class SimilarAnswer(BaseModel):
    """The most similar items of each item, or of the text, most similar first; the score is a cosine."""

    recommendations: list[list[Recommendation]]
    unknown: list[str] = Field(description="The ids that are not in the catalogue; their lists are empty.")
    model: Version


class Item(BaseModel):
    """An item to add or replace: its attributes under `attributes`, or side by side with `raw_id`.

    Its text is made of its attributes as it was for the run, unless `text` gives it.
    """

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"raw_id": "new-1", "title": "Digital caliper, 150 mm", "brand": "Acme"},
                {"raw_id": "new-2", "attributes": {"title": "Steel ruler", "price": 4.5}},
            ]
        },
    )
    __pydantic_extra__: dict[str, Attribute]

    raw_id: StoredId
    attributes: dict[str, Attribute] | None = None
    vector: Annotated[list[FiniteFloat], Field(min_length=1, max_length=VECTOR_LENGTH)] | None = Field(
        default=None,
        description="The vector of its text by the run's encoder; without it the service encodes the text.",
    )

    @property
    def columns(self) -> dict[str, str | float | None]:
        """Its attributes by name; lists as text."""
        extra = self.__pydantic_extra__ or {}
        return {name: _plain(value) for name, value in (extra | (self.attributes or {})).items()}

    @property
    def array(self) -> npt.NDArray[np.float32] | None:
        """Its vector."""
        with np.errstate(over="ignore"):  # what becomes infinite is refused with the others
            return None if self.vector is None else np.array(self.vector, dtype=np.float32)


def _plain(value: Attribute) -> str | float | None:
    return LIST_SEPARATOR.join(value) if isinstance(value, list) else value


class ItemsRequest(Asked):
    """Items to add or replace. Each is checked by itself: bad ones are refused, the others taken."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"raw_id": "new-1", "title": "Digital caliper, 150 mm"}]}]}
    )

    items: list[Item] = Field(min_length=1)


class Refused(BaseModel):
    """An item that was not taken."""

    row: int = Field(description="Its place in the call, from 0.")
    raw_id: str | None
    reason: str


class ItemsAnswer(BaseModel):
    """How many items were taken: they are in the state and in the next answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "upserted": 1,
                    "refused": [
                        {"row": 1, "raw_id": "x", "reason": "The item ('x') cannot be read: its text is empty."}
                    ],
                    "sequence": 13,
                }
            ]
        }
    )

    upserted: int
    refused: list[Refused]
    sequence: int = Field(description="Number of the last change; an answer with this number knows of it.")


class RemovalAnswer(BaseModel):
    """The item is removed: it is not recommended any more, but may still occur in histories."""

    removed: str
    sequence: int


class ItemView(BaseModel):
    """An item of the catalogue."""

    raw_id: str
    title: str
    attributes: dict[str, str | float | None]
    text: str = Field(description="The text that the model reads, cleaned.")
    trained: bool = Field(description="Whether the run was trained on it; else it was added since.")


class ItemsView(BaseModel):
    """Items of the catalogue."""

    items: list[ItemView]
    total: int = Field(description="How many items fit the query.")


class EventIn(Asked):
    """An interaction of a user with an item."""

    user: StoredId
    raw_id: StoredId
    timestamp: Annotated[int, Field(ge=-(1 << 62), lt=1 << 62)] | None = Field(
        default=None, description="Seconds since 1970; by default, when it is received."
    )


class EventsRequest(Asked):
    """Interactions to append to the histories of users, in order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"events": [{"user": "u7", "raw_id": "K0001", "timestamp": 1_700_000_000}]}]}
    )

    events: list[EventIn] = Field(min_length=1)


class EventsAnswer(BaseModel):
    """The events are in the state."""

    accepted: int
    repeated: bool = Field(description="The call was received before, by its Idempotency-Key: nothing was added again.")
    unknown: list[str] = Field(description="Ids that are not in the catalogue now; they count once they are.")


class ReloadRequest(Asked):
    """Which run to serve."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    run: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        default=None,
        description="Name of a run's folder beside the one that is served; by default that one, opened anew.",
    )


class ReloadAnswer(BaseModel):
    """What is served now, and what became of the live changes."""

    run: str
    items: int
    same_catalogue: bool = Field(description="Whether the state's changes were made to the same catalogue.")
    applied: dict[str, int] = Field(description="Of the live changes: added, removed, unchanged, left_out.")
    left_out: dict[str, str] = Field(description="Some of the items that the catalogue cannot take, and why.")
    seconds: float


class ModelAnswer(BaseModel):
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
    approximate: bool = Field(description="Whether an index of the items is searched; else all are scored.")
    encoder: str | None
    learned_repeats: bool
    metrics: dict[str, dict[str, float]]
    state: dict[str, int] | None = Field(description="Counts of the state; null: it cannot be read at present.")
    left_out: dict[str, str]
    versions: dict[str, str]
    loaded: float = Field(description="When it was loaded, in seconds since 1970.")


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:linguarec:bad-field",
                    "title": "Unprocessable Entity",
                    "status": 422,
                    "detail": "k: input should be greater than or equal to 1; found 0.",
                    "field": "k",
                    "mend": "Make it larger.",
                }
            ]
        },
    )

    type: str = Field(description="`urn:linguarec:` and a short name of the error.")
    title: str
    status: int
    detail: str = Field(description="What was found, and what was expected.")
    field: str | None = Field(default=None, description="The field, parameter or header that is wrong.")
    mend: str | None = Field(default=None, description="How to mend it.")
