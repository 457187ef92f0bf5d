"""Bodies of the API's calls and answers. They are the OpenAPI document, and requests are checked by them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

ID_CHARACTERS = 512
FILTER_CHARACTERS = 10_000
TEXT_CHARACTERS = 100_000

Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARACTERS)]
# Of what is stored: databases know no text with the character of code 0.
StoredId = Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARACTERS, pattern=r"^[^\x00]+$")]
StoredText = Annotated[str, StringConstraints(max_length=TEXT_CHARACTERS, pattern=r"^[^\x00]*$")]
Attribute = StoredText | FiniteFloat | None
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

    histories: list[Annotated[list[Id], Field(min_length=1)]] | None = Field(
        None, min_length=1, description="Raw ids of the items of each history, oldest first. Unknown ids are left out."
    )
    users: list[StoredId] | None = Field(
        None, min_length=1, description="Users; the history of each is the one that is stored."
    )
    k: int = Field(10, ge=1, description="How many items to recommend for each.")
    exclude_seen: Seen = Field(
        True,
        description="true: items of the history are not recommended; false: they are candidates like the others; "
        "'learned': they are, and the repeat term of the run is added to their scores.",
    )
    within: Annotated[list[Id], Field(min_length=1)] | None = Field(
        None, description="The only candidates, by raw id; null: all items."
    )
    filters: Annotated[str, StringConstraints(min_length=1, max_length=FILTER_CHARACTERS)] | None = Field(
        None,
        description='Condition on attributes that candidates fulfil: `brand == "Acme" and price <= 20`, with `in`, `not`, '
        "`and`, `or`, brackets.",
    )
    explain: bool = Field(
        False, description="Also say which items of the history, and which parts of a blend, give the score."
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
    reasons: list[Reason] | None = Field(None, description="With `explain`: items of the history, largest share first.")
    parts: dict[str, float] | None = Field(None, description="With `explain`, of a blend: what each part adds.")


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
    field: str | None = Field(None, description="The field, parameter or header that is wrong.")
    mend: str | None = Field(None, description="How to mend it.")
